import { expect } from 'chai'
import { workbench } from '../support/workbench.js'
import { overtakeTrial, writersTrial } from '../trials/sharing-trial.js'
import { endProcesses } from '../trials/trial-process.js'

describe('two processes share a directory of segments', () => {
  const bench = workbench()

  it('a reader that is overtaken by an evicting writer notices, and reads no wrong byte', async function () {
    this.timeout(120_000)
    bench.atEnd(endProcesses)
    const { violations, counts } = await overtakeTrial({ count: 3, seed: 1, directory: parent => bench.directory(parent) })
    expect(violations).to.deep.equal([])
    expect(counts.hit).to.be.greaterThan(100)
    expect(counts['reads held'], 'reads in their midst').to.be.greaterThan(0)
    expect(counts['reads held that were overtaken']).to.be.greaterThan(0)
  })

  it('what both write is one of the two, whole', async function () {
    this.timeout(120_000)
    bench.atEnd(endProcesses)
    const { violations, counts } = await writersTrial({ count: 3, seed: 1, directory: parent => bench.directory(parent) })
    expect(violations).to.deep.equal([])
    expect(counts['pages looked at']).to.equal(700)
  })
})
