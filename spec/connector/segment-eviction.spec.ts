import { expect } from 'chai'
import type { HiCacheNixl } from '../../lib/index.js'
import { KIB, look, lookAll, numbered, segments, store, storeAll, tally } from '../support/segments.js'
import { workbench } from '../support/workbench.js'

const PAGE = 64 * KIB
/** More than 6 MiB hold, less the ring of changes. */
const MANY = 80

/** Keys of the pages that are there. No lookup, which would lease them. */
async function there(cache: HiCacheNixl): Promise<Set<string>> {
  const keys = new Set<string>()
  for await (const { key } of cache.entries()) keys.add(key)
  return keys
}

describe('which pages of a full store of segments go', () => {
  const bench = workbench('segment')

  for (const evictionPolicy of ['lru', 'prefix-aware'] as const) {
    it(`${evictionPolicy}: a page that is read often stays, one that is never read goes`, async () => {
      const cache = await bench.open(segments(6, { evictionPolicy, leaseMs: 0 }))
      const often = numbered('often', 8)
      const never = numbered('never', 8)
      // Each is a prompt of its own: pages of one call would be a chain.
      for (const key of [...often, ...never]) await store(cache, [key], PAGE)
      for (let round = 0; round < 30; round++) {
        for (const key of numbered('new', 6, 6 * round)) expect(await store(cache, [key], PAGE)).to.deep.equal(['stored'])
        for (const key of often) expect(await look(cache, [key], PAGE), `${key} in round ${round}`).to.deep.equal(['hit'])
      }
      expect(tally(await lookAll(cache, never, PAGE))).to.deep.equal({ absent: 8 })
    })
  }

  it('lru: pages go in the order in which they were last used', async () => {
    const cache = await bench.open(segments(6, { evictionPolicy: 'lru', leaseMs: 0 }))
    const keys = numbered('page', MANY)
    for (const key of keys) await store(cache, [key], PAGE)
    const left = await there(cache)
    expect(left.size).to.be.within(10, MANY - 1)
    expect([...left].sort()).to.deep.equal(keys.slice(MANY - left.size))
  })

  it('prefix-aware: of the pages of a call the last go first, so that what is left of a prompt can be used', async () => {
    const cache = await bench.open(segments(6, { leaseMs: 0 }))
    const prompts = Array.from({ length: 12 }, (_, i) => numbered(`prompt-${String.fromCharCode(97 + i)}`, 10))
    for (const prompt of prompts) expect(tally(await store(cache, prompt, PAGE))).to.deep.equal({ stored: 10 })
    let kept: number[] = []
    // Single pages take the place of one after the other, until a prompt is cut.
    for (let more = 0; more < 30 && !kept.some(count => count > 0 && count < 10); more++) {
      await store(cache, [`single-${more}`], PAGE)
      const left = await there(cache)
      kept = prompts.map(prompt => prompt.filter(key => left.has(key)).length)
      prompts.forEach((prompt, i) => {
        expect(prompt.filter(key => left.has(key)), `what is left of prompt ${i}: its beginning`).to.deep.equal(prompt.slice(0, kept[i]))
      })
    }
    expect(kept.some(count => count > 0 && count < 10), `none is cut: ${kept.join(' ')}`).to.equal(true)
    expect(kept.some(count => count === 0), `none is gone: ${kept.join(' ')}`).to.equal(true)
    // A lookup answers all that there is, therefore.
    for (const [i, prompt] of prompts.entries()) expect(await cache.batchExists(prompt)).to.equal(kept[i])
  })

  it('prefix-aware: a prompt that goes on in a later call is one chain, by the lookup before it', async () => {
    const cache = await bench.open(segments(6, { leaseMs: 0 }))
    const prompts = Array.from({ length: 12 }, (_, i) => numbered(`prompt-${String.fromCharCode(97 + i)}`, 10))
    for (const prompt of prompts) {
      await store(cache, prompt.slice(0, 5), PAGE)
      const known = await cache.batchExists(prompt)
      expect(known).to.equal(5)
      await store(cache, prompt.slice(known), PAGE)
    }
    const left = await there(cache)
    expect(left.size).to.be.within(20, 119)
    for (const prompt of prompts) {
      const kept = prompt.filter(key => left.has(key))
      expect(kept).to.deep.equal(prompt.slice(0, kept.length))
    }
  })

  for (const leaseMs of [60_000, 0]) {
    it(leaseMs > 0 ? 'what a lookup answered stays, however much is written meanwhile' : 'without leases it goes', async () => {
      const cache = await bench.open(segments(6, { evictionPolicy: 'lru', leaseMs }))
      const asked = numbered('asked', 12)
      await storeAll(cache, asked, PAGE)
      await storeAll(cache, numbered('filling', 30), PAGE)
      expect(await cache.batchExists(asked)).to.equal(12)
      expect(tally(await storeAll(cache, numbered('others', 150), PAGE))).to.deep.equal({ stored: 150 })
      expect(tally(await lookAll(cache, asked, PAGE))).to.deep.equal(leaseMs > 0 ? { hit: 12 } : { absent: 12 })
    })
  }

  it('leases of everything do not keep writes from being stored', async () => {
    const cache = await bench.open(segments(6, { leaseMs: 60_000 }))
    const keys = numbered('page', 40)
    await storeAll(cache, keys, PAGE)
    expect(await cache.batchExists(keys)).to.equal(40)
    expect(tally(await storeAll(cache, numbered('more', 120), PAGE))).to.deep.equal({ stored: 120 })
  })
})
