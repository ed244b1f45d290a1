import { expect } from 'chai'
import { workbench } from '../support/workbench.js'
import { killTrial } from '../trials/kill-trial.js'
import { endProcesses } from '../trials/trial-process.js'

describe('writers of segments are killed at random', () => {
  const bench = workbench()

  it('no byte is wrong, nothing acknowledged is lost, no space leaks', async function () {
    this.timeout(180_000)
    bench.atEnd(endProcesses)
    const { violations, counts } = await killTrial({ count: 25, seed: 1, directory: parent => bench.directory(parent) })
    expect(violations).to.deep.equal([])
    expect(counts.kills).to.be.at.least(25)
    expect(counts['kills among several']).to.be.at.least(4)
    expect(counts['pages required']).to.be.greaterThan(500)
  })
})
