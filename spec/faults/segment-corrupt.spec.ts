import { expect } from 'chai'
import { workbench } from '../support/workbench.js'
import { corruptTrial } from '../trials/corrupt-trial.js'
import { endProcesses } from '../trials/trial-process.js'

describe('files of a store of segments are damaged at random', () => {
  const bench = workbench()

  it('it does not crash, shows no wrong byte, and works on', async function () {
    this.timeout(180_000)
    bench.atEnd(endProcesses)
    const { violations, counts } = await corruptTrial({ count: 100, seed: 1, directory: parent => bench.directory(parent) })
    expect(violations).to.deep.equal([])
    expect(counts.damages).to.equal(100)
    expect(counts.hit, 'pages that survived').to.be.greaterThan(1000)
    expect(counts.corrupt, 'pages that did not').to.be.greaterThan(0)
  })
})
