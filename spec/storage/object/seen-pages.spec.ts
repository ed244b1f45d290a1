import { expect } from 'chai'
import { SeenPages } from '../../../lib/storage/object/seen-pages.js'

describe('pages seen in an object store', () => {
  it('are forgotten after their time, and when they are many the one seen longest ago goes', () => {
    let now = 0
    const seen = new SeenPages({ keysMax: 3, forgetMs: 10, now: () => now })
    for (const key of ['a', 'b', 'c']) seen.add(key)
    seen.add('a')
    seen.add('d')
    expect(['a', 'b', 'c', 'd'].map(key => seen.has(key))).to.deep.equal([true, false, true, true])
    expect(seen.size).to.equal(3)
    now = 9
    seen.add('c')
    now = 10
    expect(['a', 'c', 'd'].map(key => seen.has(key))).to.deep.equal([false, true, false])
    expect(seen.size).to.equal(1)
  })
  it('an answer to a question from before a page was deleted does not bring it back', () => {
    const seen = new SeenPages()
    const asked = seen.epoch
    seen.deleted('a')
    seen.add('a', asked)
    expect(seen.has('a')).to.equal(false)
    seen.add('a', seen.epoch)
    expect(seen.has('a')).to.equal(true)
    seen.forget('a')
    expect(seen.has('a')).to.equal(false)
    seen.add('a')
    seen.clear()
    expect(seen.has('a')).to.equal(false)
  })
})
