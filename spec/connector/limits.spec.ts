import { expect } from 'chai'
import type { HiCacheNixl, WriteOutcome } from '../../lib/index.js'
import { bytes, same } from '../support/content.js'
import { describeLayouts, hangPages } from '../support/layouts.js'
import { rejection, thrown } from '../support/rejection.js'
import { MIB, workbench } from '../support/workbench.js'

const KIB = 1024
const statuses = (outcomes: readonly WriteOutcome[]): string[] => outcomes.map(({ status }) => status)

describeLayouts('bytes in flight', storageLayout => {
  const bench = workbench(storageLayout, { hangs: true })
  /** The most bytes that were ever in flight, sampled at every turn of the event loop. */
  async function most(cache: HiCacheNixl, work: Promise<unknown>): Promise<number> {
    let max = 0
    let over = false
    void work.finally(() => { over = true })
    while (!over) {
      max = Math.max(max, cache.stats()['in_flight_bytes']!)
      await new Promise(resolve => { setImmediate(resolve) })
    }
    await work
    return max
  }

  for (const whenFull of ['wait', 'reject'] as const) {
    it(`${whenFull}: a batch larger than the limit goes page by page, and all of it arrives`, async () => {
      const cache = await bench.open({ inFlightBytesMax: 256 * KIB, whenFull })
      const keys = Array.from({ length: 40 }, (_, i) => `k${i}`)
      const pages = keys.map(key => bytes(64 * KIB, key))
      const writing = cache.batchSet(keys, pages)
      expect(await most(cache, writing)).to.be.at.most(256 * KIB)
      expect((await writing).every(Boolean)).to.equal(true)
      const reading = cache.batchGet(keys)
      expect(await most(cache, reading)).to.be.at.most(256 * KIB)
      ;(await reading).forEach((page, i) => expect(same(page, pages[i]!)).to.equal(true))
    })
    it(`${whenFull}: one page larger than the limit is rejected, its neighbours are stored`, async () => {
      const cache = await bench.open({ inFlightBytesMax: 256 * KIB, whenFull })
      const outcomes = await cache.write([['a', bytes(1000, 'a')], ['large', bytes(256 * KIB + 1, 'large')], ['exact', bytes(256 * KIB, 'exact')], ['b', bytes(1000, 'b')]])
      expect(statuses(outcomes)).to.deep.equal(['stored', 'rejected', 'stored', 'stored'])
      const large = outcomes[1]!
      expect(large.ok ? null : large.error).to.include({ code: 'ERR_REJECTED' })
      expect(large.ok ? '' : large.error.message).to.match(/262145 bytes are more than the limit of 262144 bytes in flight \(inFlightBytesMax\)/)
      expect(await cache.set('large', bytes(256 * KIB + 1, 'large'))).to.equal(false)
    })
  }
  it('reject: while others fill the limit, a call is refused at once; wait: it goes when they are done', async () => {
    for (const whenFull of ['reject', 'wait'] as const) {
      const cache = await bench.open({ inFlightBytesMax: 128 * KIB, whenFull })
      // There is space for pages of that size: what waits for space is not in flight.
      await cache.batchSet(['warm-0', 'warm-1'], [bytes(64 * KIB, 3), bytes(64 * KIB, 4)])
      const letGo = hangPages(bench, cache, 'slow')
      const slow = cache.batchSet(['slow-0', 'slow-1'], [bytes(64 * KIB, 0), bytes(64 * KIB, 1)])
      const next = cache.write([['next', bytes(64 * KIB, 2)]])
      if (whenFull === 'reject') expect(statuses(await next)).to.deep.equal(['rejected'])
      else expect(await Promise.race([next, new Promise(resolve => { setImmediate(resolve, 'waits') })])).to.equal('waits')
      letGo()
      expect(await slow).to.deep.equal([true, true])
      if (whenFull === 'wait') expect(statuses(await next)).to.deep.equal(['stored'])
    }
  })
  it('ready and whenReady tell whether bytes would go now', async () => {
    const cache = await bench.open({ inFlightBytesMax: 128 * KIB })
    expect(cache.ready(128 * KIB)).to.equal(true)
    expect(cache.ready(128 * KIB + 1)).to.equal(false)
    expect(cache.ready(0)).to.equal(true)
    await cache.whenReady(128 * KIB)
    await rejection(cache.whenReady(128 * KIB + 1), 'ERR_REJECTED')

    await cache.set('warm', bytes(100 * KIB, 2))
    const letGo = hangPages(bench, cache, 'slow')
    const slow = cache.set('slow', bytes(100 * KIB, 1))
    await Promise.resolve()
    await Promise.resolve()
    expect(cache.ready(28 * KIB)).to.equal(true)
    expect(cache.ready(29 * KIB)).to.equal(false)
    let became = false
    const waiting = cache.whenReady(64 * KIB).then(() => { became = true })
    await rejection(cache.whenReady(64 * KIB, { timeoutMs: 20 }), 'ERR_TIMEOUT')
    await rejection(cache.whenReady(64 * KIB, { signal: AbortSignal.abort() }), 'ERR_CANCELLED')
    expect(became).to.equal(false)
    letGo()
    await slow
    await waiting
    expect(cache.ready(128 * KIB)).to.equal(true)
    for (const bad of [-1, NaN, Infinity, '1', undefined]) {
      thrown(() => cache.ready(bad as number), 'ERR_ARGUMENT')
      await rejection(cache.whenReady(bad as number), 'ERR_ARGUMENT')
    }
  })
  it('back-pressure with whenReady keeps the queue empty', async () => {
    const cache = await bench.open({ inFlightBytesMax: 256 * KIB })
    const writes: Promise<boolean>[] = []
    for (let i = 0; i < 50; i++) {
      await cache.whenReady(32 * KIB)
      writes.push(cache.set(`k${i}`, bytes(32 * KIB, i)))
      await Promise.resolve()
      expect(cache.stats()['queued_bytes']).to.be.at.most(32 * KIB)
    }
    expect((await Promise.all(writes)).every(Boolean)).to.equal(true)
  })
})

describeLayouts('the arena', storageLayout => {
  const bench = workbench(storageLayout)

  it('batches of many times its size pass through it', async () => {
    const cache = await bench.open({ arenaBytes: 16 * MIB })
    const keys = Array.from({ length: 64 }, (_, i) => `k${i}`)
    const page = bytes(MIB, 'page')
    expect((await cache.batchSet(keys, keys.map(() => page))).every(Boolean)).to.equal(true)
    const got = await cache.batchGet(keys)
    expect(got.every(tensor => same(tensor, page))).to.equal(true)
    expect(cache.stats()['arena_used_bytes']).to.equal(0)
  })
  it('a page larger than the arena is rejected', async () => {
    const cache = await bench.open({ arenaBytes: 16 * MIB, inFlightBytesMax: 64 * MIB })
    const [outcome] = await cache.write([['k', new Uint8Array(17 * MIB)]])
    expect(outcome).to.include({ status: 'rejected' })
    expect(await cache.set('small', bytes(10, 1))).to.equal(true)
  })
  it('sizes in any order: nothing is lost to fragments', async () => {
    const cache = await bench.open({ arenaBytes: 16 * MIB })
    for (let round = 0; round < 3; round++) {
      const sizes = [5 * MIB, 1, 4097, 3 * MIB, 70_000, MIB + 5, 2 * MIB]
      const outcomes = await cache.write(sizes.map((size, i) => [`r${round}-${i}`, bytes(size, i)] as const))
      expect(statuses(outcomes)).to.deep.equal(sizes.map(() => 'stored'))
      const [outcome] = await cache.write([[`whole-${round}`, new Uint8Array(12 * MIB)]])
      expect(outcome).to.include({ status: 'stored' })
    }
    expect(cache.stats()['arena_used_bytes']).to.equal(0)
  })
})
