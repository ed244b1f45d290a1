import { expect } from 'chai'
import { workbench } from '../support/workbench.js'
import { ObjectsModel } from '../trials/objects-model.js'
import { objectsTrial } from '../trials/objects-trial.js'

describe('two caches on an object store that fails at random', () => {
  const bench = workbench()

  it('no byte is wrong, and no page is lost that was acknowledged', async function () {
    this.timeout(120_000)
    const { violations, counts } = await objectsTrial({ count: 1500, seed: 1, directory: parent => bench.directory(parent) })
    expect(violations).to.deep.equal([])
    expect(counts['reads: hit']).to.be.greaterThan(200)
    expect(counts['writes: stored']).to.be.greaterThan(100)
    expect(counts['in the end: there']).to.be.greaterThan(0)
    expect(Object.keys(counts).filter(name => name.startsWith('faults')).length, 'kinds of faults').to.be.greaterThan(5)
  })

  it('the model notices what must not be', () => {
    const model = new ObjectsModel(['a'])
    const look = (version: number | null): string | null => model.found(model.read('a', 0), version)
    expect(look(0)).to.equal(null)
    expect(look(1)).to.match(/a was version 1, and can only be absent/)
    model.begin('a', 1)
    const early = model.read('a', 0)
    model.end('a', true)
    const late = model.read('a', 1)
    expect(model.found(early, 0), 'before it was acknowledged').to.equal(null)
    expect(model.found(late, 0), 'lost').to.match(/a was absent, and can only be version 1/)
    // A write that failed may have been done; once it was seen, it has been.
    model.begin('a', 2)
    model.end('a', false)
    expect(look(1)).to.equal(null)
    expect(look(2)).to.match(/version 2, and can only be version 1/)
    model.begin('a', 3)
    const during = model.read('a', 0)
    model.end('a', true)
    expect(model.found(during, 1)).to.equal(null)
    expect(look(1)).to.match(/can only be version 3/)
    model.begin('a', 0)
    model.end('a', true)
    expect(look(3)).to.match(/can only be absent/)
  })
})
