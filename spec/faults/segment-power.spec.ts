import { expect } from 'chai'
import { workbench } from '../support/workbench.js'
import { powerTrial } from '../trials/power-trial.js'
import { endProcesses } from '../trials/trial-process.js'

describe('the power of a store of segments is cut', () => {
  const bench = workbench()

  it('no byte is wrong, and with fsync per batch nothing acknowledged is lost', async function () {
    this.timeout(180_000)
    bench.atEnd(endProcesses)
    const { violations, counts } = await powerTrial({ count: 40, seed: 1, directory: parent => bench.directory(parent) })
    expect(violations).to.deep.equal([])
    expect(counts.images).to.equal(40)
    expect(counts['pages required']).to.be.greaterThan(300)
  })
})
