import { expect } from 'chai'
import type { HiCacheNixl, ReadOutcome, Target, WriteOutcome } from '../../lib/index.js'
import { routePage } from '../../lib/keys/index.js'
import { bytes, same } from '../support/content.js'
import { describeLayouts, hangPages } from '../support/layouts.js'
import { rejection, thrown } from '../support/rejection.js'
import { workbench } from '../support/workbench.js'

const PAGE = 10_000
const turn = (): Promise<void> => new Promise(resolve => { setImmediate(resolve) })

/** Two directories; of these keys only those with `slow` lie in the second. Pages of one message to a worker are answered together, so what hangs lies apart. */
const placed = (want: number, name: string): string => {
  for (let i = 0;; i++) if (routePage(`${name}${i}__0_1`, 2, 'bucketed').directory === want) return `${name}${i}`
}
const [A, B, C, SLOW, SLOW_2] = [placed(0, 'a'), placed(0, 'b'), placed(0, 'c'), placed(1, 'slow'), placed(1, 'slow-2-')]

/** Its time was up. Of a page that an object store has not answered for, native code may say so just before the deadline does. */
const late = (outcome: ReadOutcome<Target> | WriteOutcome): boolean =>
  outcome.status === 'timeout' || outcome.status === 'rejected' || (outcome.status === 'miss' && outcome.reason === 'unavailable')

describeLayouts('deadlines and signals', storageLayout => {
  const bench = workbench(storageLayout, { hangs: true })
  let cache: HiCacheNixl
  let storageDir: string[]
  const expectLate = (outcome: ReadOutcome<Target> | WriteOutcome | undefined): void => {
    if (storageLayout === 'object') expect(late(outcome!), outcome!.status).to.equal(true)
    else expect(outcome).to.include({ status: 'timeout' })
  }
  beforeEach(async () => {
    storageDir = await bench.directories('x', 'y')
    cache = await bench.open({ timeoutMs: 20_000, storageDir })
    await cache.batchSet([A, SLOW, B], [A, SLOW, B].map(key => bytes(PAGE, key)))
  })
  /** The second directory hangs, or in the file layout those pages of it; of objects those pages. */
  const hangSlow = (match = 'slow'): (() => void) => hangPages(bench, cache, match, 1)

  it('timeoutMs ends the pages that are not settled, and only those', async () => {
    hangSlow()
    const outcomes = await cache.read([A, SLOW, B], { timeoutMs: 100 })
    expect([outcomes[0], outcomes[2]].map(outcome => outcome!.status)).to.deep.equal(['hit', 'hit'])
    const slow = outcomes[1]!
    expectLate(slow)
    if (slow.status === 'timeout') expect(slow.error).to.include({ code: 'ERR_TIMEOUT', key: SLOW })
    expect(await cache.get(SLOW, { timeoutMs: 50 })).to.equal(null)
    expect(await cache.set(SLOW, bytes(5, 5), { timeoutMs: 50 })).to.equal(false)
    if (storageLayout !== 'file') return // An index in memory answers without the disk, and what was just stored is known to be there.
    expect(await cache.exists(SLOW, { timeoutMs: 50 })).to.equal(false)
    expect(await cache.delete(SLOW, { timeoutMs: 50 })).to.equal(false)
    expect(await cache.stat(SLOW, { timeoutMs: 50 })).to.equal(null)
  })
  // Pages of one segment cannot hang one by one.
  if (storageLayout === 'file') {
    it('also of pages that one message took to a worker: what is through is not lost to one that hangs', async () => {
      await cache.set(SLOW_2, bytes(PAGE, SLOW_2))
      hangSlow(SLOW)
      const outcomes = await cache.read([SLOW_2, SLOW], { timeoutMs: 200 })
      expect(outcomes.map(({ status }) => status)).to.deep.equal(['hit', 'timeout'])
    })
  }
  it('the same for writes', async () => {
    hangSlow()
    const outcomes = await cache.write([[SLOW_2, bytes(PAGE, 1)], [C, bytes(PAGE, C)]], { timeoutMs: 100 })
    expectLate(outcomes[0])
    expect(outcomes[0]).to.include({ key: SLOW_2 })
    expect(outcomes[1]).to.include({ status: 'stored', key: C })
  })
  it('the cache\'s own timeoutMs holds where a call gives none', async () => {
    const short = await bench.open({ timeoutMs: 100, storageDir })
    hangSlow()
    expectLate((await short.write([[SLOW, bytes(10, 1)]]))[0])
    const controller = new AbortController()
    const longer = cache.write([[SLOW_2, bytes(10, 1)]], { timeoutMs: 20_000, signal: controller.signal })
    await turn()
    controller.abort()
    expect((await longer)[0]).to.include({ status: 'cancelled' })
  })
  it('a signal that has fired ends a call before anything is touched', async () => {
    const signal = AbortSignal.abort(new Error('no longer wanted'))
    const [write] = await cache.write([['new', bytes(PAGE, 1)]], { signal })
    expect(write).to.include({ ok: false, status: 'cancelled', key: 'new' })
    expect(!write!.ok && write!.error.code).to.equal('ERR_CANCELLED')
    expect(!write!.ok && (write!.error.cause as Error).message).to.equal('no longer wanted')
    const target = new Uint8Array(PAGE)
    expect((await cache.read([[A, target]], { signal }))[0]).to.include({ status: 'cancelled' })
    expect(target.every(byte => byte === 0)).to.equal(true)
    expect(await cache.set('new', bytes(PAGE, 1), { signal })).to.equal(false)
    expect(await cache.batchSet(['new'], [bytes(PAGE, 1)], { signal })).to.deep.equal([false])
    expect(await cache.get(A, { signal })).to.equal(null)
    expect(await cache.getInArena(A, { signal })).to.equal(null)
    expect(await cache.batchGet([A], { signal })).to.deep.equal([null])
    expect(await cache.batchExists([A], { signal })).to.equal(0)
    expect(await cache.delete(A, { signal })).to.equal(false)
    expect(await cache.stat(A, { signal })).to.equal(null)
    await rejection(cache.clear({ signal }), 'ERR_CANCELLED')
    await rejection(cache.verify({ signal }), 'ERR_CANCELLED')
    expect(await cache.exists('new')).to.equal(false)
    expect(await cache.exists(A)).to.equal(true)
  })
  it('a signal ends a call under way; what is settled stays as it is', async () => {
    hangSlow()
    const controller = new AbortController()
    const { signal } = controller
    // Where there are no directories, pages of one call are answered together.
    const apart = storageLayout === 'object'
    const reading = Promise.all([cache.read(apart ? [SLOW] : [A, SLOW, B], { signal }), ...(apart ? [turn().then(() => cache.read([A, B], { signal }))] : [])])
    // When a call of its own has come back, those before it have, too: the same lane and workers.
    while (cache.stats()['pages_read_hit']! < 2) await turn()
    controller.abort()
    const statusOf = Object.fromEntries((await reading).flat().map(({ key, status }) => [key, status]))
    expect(statusOf).to.deep.equal({ [A]: 'hit', [SLOW]: 'cancelled', [B]: 'hit' })
  })
  it('a target is not touched any more once its page ended by deadline', async () => {
    const letGo = hangSlow()
    const target = new Uint8Array(PAGE)
    expectLate((await cache.read([[SLOW, target]], { timeoutMs: 50 }))[0])
    target.fill(7)
    letGo()
    // The directory was held for sick; a page of it is let through now and then.
    while (await cache.get(SLOW) === null) await turn()
    await cache.flush()
    while (cache.stats()['arena_used_bytes']! > 0) await turn()
    expect(target.every(byte => byte === 7)).to.equal(true)
  }).timeout(10_000)
  it('a directory that does not answer is unavailable at once for the next calls, degraded in health(), and back when it answers', async () => {
    const letGo = hangSlow()
    expectLate((await cache.read([SLOW], { timeoutMs: 50 }))[0])
    expect(cache.health().status).to.equal('degraded')
    expect(cache.health().reasons.join()).to.match(/does not answer/)
    expect((await cache.read([storageLayout === 'file' ? SLOW_2 : SLOW], { timeoutMs: 10_000 }))[0]).to.include({ status: 'miss', reason: 'unavailable' })
    expect((await cache.write([[SLOW_2, bytes(3, 3)]], { timeoutMs: 10_000 }))[0]).to.include({ status: 'rejected' })
    if (storageLayout === 'file') expect(await cache.exists(SLOW_2, { timeoutMs: 10_000 })).to.equal(false)
    if (storageLayout === 'object') expect(await cache.get(A, { timeoutMs: 10_000 }), 'there is one endpoint').to.equal(null)
    else expect(same(await cache.get(A), bytes(PAGE, A)), 'the other directory goes on').to.equal(true)
    letGo()
    while (await cache.get(SLOW) === null) await turn()
    expect(cache.health()).to.deep.equal({ status: 'ok', reasons: [] })
  }).timeout(10_000)
  it('memory of pages that were given up comes back when the kernel lets go', async () => {
    const letGo = hangSlow()
    expectLate((await cache.read([SLOW], { timeoutMs: 50 }))[0])
    expect((await cache.write([[SLOW_2, bytes(PAGE, 2)]], { timeoutMs: 50 }))[0]).to.include({ ok: false })
    letGo()
    await cache.flush()
    while (cache.stats()['arena_used_bytes']! > 0) await turn()
    expect(cache.stats()).to.include({ arena_quarantined_bytes: 0, in_flight_bytes: 0, in_flight_requests: 0, queued_requests: 0 })
  })
  it('background requests go when no foreground request waits', async () => {
    const narrow = await bench.open({ inFlightBytesMax: PAGE, workers: 1 })
    const order: string[] = []
    const write = (key: string, priority: 'foreground' | 'background'): Promise<unknown> => narrow.set(key, bytes(PAGE, key), { priority }).then(() => order.push(key))
    await Promise.all([write('b1', 'background'), write('b2', 'background'), write('f1', 'foreground'), write('f2', 'foreground')])
    expect(order).to.deep.equal(['f1', 'f2', 'b1', 'b2'])
  })
  it('wrong options are refused before anything starts', async () => {
    for (const options of [{ timeoutMs: 0 }, { timeoutMs: -5 }, { timeoutMs: NaN }, { timeoutMs: Infinity }, { timeoutMs: 2 ** 31 }, { timeoutMs: '5' }, { priority: 'high' }, { signal: 'abort' }, { signal: {} }, 5, 'x', null] as never[]) {
      await rejection(cache.set('x', bytes(3, 3), options), 'ERR_ARGUMENT')
      await rejection(cache.get(A, options), 'ERR_ARGUMENT')
      await rejection(cache.read([A], options), 'ERR_ARGUMENT')
      await rejection(cache.batchSet(['x'], [bytes(3, 3)], options), 'ERR_ARGUMENT')
      await rejection(cache.batchGet([A], options), 'ERR_ARGUMENT')
      await rejection(cache.exists(A, options), 'ERR_ARGUMENT')
      await rejection(cache.delete(A, options), 'ERR_ARGUMENT')
      await rejection(cache.clear(options), 'ERR_ARGUMENT')
      await rejection(cache.flush(options), 'ERR_ARGUMENT')
      await rejection(cache.stat(A, options), 'ERR_ARGUMENT')
      await rejection(cache.whenReady(1, options), 'ERR_ARGUMENT')
    }
    expect(await cache.batchExists([A, B, 'x'])).to.equal(2)
  })
})

describeLayouts('flush and close', storageLayout => {
  const bench = workbench(storageLayout, { hangs: true })

  it('flush waits for everything that was asked for', async () => {
    const cache = await bench.open()
    const settled: boolean[] = []
    const writes = Array.from({ length: 20 }, (_, i) => cache.set(`k${i}`, bytes(PAGE, i)).then(ok => settled.push(ok)))
    await cache.flush()
    await Promise.resolve()
    await Promise.resolve()
    await Promise.resolve()
    await Promise.all(writes)
    expect(await cache.batchExists(Array.from({ length: 20 }, (_, i) => `k${i}`))).to.equal(20)
    await cache.flush()
    hangPages(bench, cache, 'slow')
    const slow = cache.set('slow', bytes(10, 1), { timeoutMs: 10_000 })
    await rejection(cache.flush({ timeoutMs: 50 }), 'ERR_TIMEOUT')
    await rejection(cache.flush({ signal: AbortSignal.abort() }), 'ERR_CANCELLED')
    await cache.close({ graceMs: 0 })
    expect(await slow).to.equal(false)
  })
  it('close lets what is under way finish', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir })
    const keys = Array.from({ length: 100 }, (_, i) => `k${i}`)
    const writing = cache.batchSet(keys, keys.map(key => bytes(PAGE, key)))
    const reading = cache.get('k0')
    const closing = cache.close()
    expect(cache.health().status).to.equal('closing')
    await rejection(cache.set('late', bytes(1, 1)), 'ERR_CLOSED')
    await closing
    expect((await writing).every(Boolean)).to.equal(true)
    await reading
    expect(cache.health().status).to.equal('closed')
    const again = await bench.open({ storageDir })
    expect(await again.batchExists(keys)).to.equal(100)
  })
  it('what is not over within the grace ends as cancelled, and close returns', async () => {
    const cache = await bench.open({ workers: 1 })
    await cache.batchSet(['a', 'slow'], ['a', 'slow'].map(key => bytes(PAGE, key)))
    hangPages(bench, cache, 'slow')
    const reading = cache.read(['slow', 'a'])
    const writing = cache.write([['slow-2', bytes(PAGE, 1)]])
    const began = performance.now()
    await cache.close({ graceMs: 100 })
    // Not a measurement: far below the 30 s that a request would wait.
    expect(performance.now() - began).to.be.lessThan(10_000)
    const outcomes = await reading
    expect(outcomes[0]).to.include({ status: 'cancelled' })
    expect(outcomes[0]!.status === 'cancelled' && outcomes[0]!.error.code).to.equal('ERR_CLOSED')
    expect((await writing)[0]).to.include({ status: 'cancelled' })
  })
  it('close is idempotent, also while it runs, and with await using', async () => {
    const cache = await bench.open()
    await Promise.all([cache.close(), cache.close(), cache[Symbol.asyncDispose]()])
    await cache.close({ graceMs: 0 })
    let used: HiCacheNixl
    {
      await using scoped = await bench.open()
      used = scoped
      await scoped.set('k', bytes(1, 1))
    }
    expect(used.health().status).to.equal('closed')
  })
  it('a closed cache throws ERR_CLOSED from every call, and still tells its state', async () => {
    const cache = await bench.open()
    const arena = cache.allocate({ dtype: 'uint8', shape: [10] })
    const registration = cache.registerMemPoolHost({ buffer: new SharedArrayBuffer(4096), pageBytes: 4096, pageCount: 1 })
    await cache.close()
    const calls: Record<string, () => Promise<unknown>> = {
      set: () => cache.set('k', bytes(1, 1)), get: () => cache.get('k'), getInArena: () => cache.getInArena('k'), batchSet: () => cache.batchSet(['k'], [bytes(1, 1)]),
      batchGet: () => cache.batchGet(['k']), write: () => cache.write([]), read: () => cache.read([]), exists: () => cache.exists('k'), batchExists: () => cache.batchExists([]),
      delete: () => cache.delete('k'), clear: () => cache.clear(), batchSetV1: () => cache.batchSetV1(['k'], [0]), batchGetV1: () => cache.batchGetV1(['k'], [0]),
      whenReady: () => cache.whenReady(1), flush: () => cache.flush(), stat: () => cache.stat('k'), verify: () => cache.verify(), gc: () => cache.gc(),
      entries: () => cache.entries().next()
    }
    for (const [name, call] of Object.entries(calls)) expect((await rejection(call(), 'ERR_CLOSED')).message, name).to.match(/closed/)
    thrown(() => cache.allocate({ dtype: 'uint8', shape: [1] }), 'ERR_CLOSED')
    thrown(() => cache.registerBuffers([new SharedArrayBuffer(1)]), 'ERR_CLOSED')
    thrown(() => cache.registerFiles([]), 'ERR_CLOSED')
    thrown(() => cache.registerMemPoolHost({ buffer: new SharedArrayBuffer(1), pageBytes: 1, pageCount: 1 }), 'ERR_CLOSED')
    expect(cache.ready(1)).to.equal(false)
    expect(cache.health()).to.deep.equal({ status: 'closed', reasons: [] })
    expect(cache.stats()).to.include({ in_flight_bytes: 0 })
    expect(cache.metrics()).to.match(/hicache_nixl_pages_total/)
    arena.release()
    registration.release()
  })
  it('wrong arguments of close are refused, and the cache stays open', async () => {
    const cache = await bench.open()
    for (const options of [{ graceMs: -1 }, { graceMs: NaN }, { graceMs: '1' }, null, 5] as never[]) thrown(() => cache.close(options), 'ERR_ARGUMENT')
    expect(await cache.set('k', bytes(1, 1))).to.equal(true)
    expect(same(await cache.get('k'), bytes(1, 1))).to.equal(true)
  })
  it('whoever waits for room hears of the end', async () => {
    const cache = await bench.open({ inFlightBytesMax: 16_384 })
    hangPages(bench, cache, 'slow')
    const slow = cache.set('slow', bytes(16_384, 1))
    await turn()
    const waiting = cache.whenReady(16_384)
    await Promise.all([rejection(waiting, 'ERR_CLOSED'), cache.close({ graceMs: 0 })])
    expect(await slow).to.equal(false)
  })
})
