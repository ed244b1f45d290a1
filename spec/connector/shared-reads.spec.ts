import { expect } from 'chai'
import type { ArenaTensor, HiCacheNixl, ReadOutcome, Target } from '../../lib/index.js'
import { bytes, bytesOf, same, tensor } from '../support/content.js'
import { describeLayouts, hangPages } from '../support/layouts.js'
import { bounded, until } from '../support/planned-faults.js'
import { MIB, workbench } from '../support/workbench.js'

const PAGE = 10_000
/** How a read ended. Of one that an object store has not answered in its time, native code may say so just before the deadline does. */
const ended = (outcome: ReadOutcome<Target>): string => outcome.status === 'miss' && outcome.reason === 'unavailable' ? 'timeout' : outcome.status
const turn = (): Promise<void> => new Promise(resolve => { setImmediate(resolve) })

describeLayouts('a page that is on its way to storage', storageLayout => {
  const bench = workbench(storageLayout, { hangs: true })
  let cache: HiCacheNixl
  const hangKey = (match = 'slow'): (() => void) => hangPages(bench, cache, match)
  /** Everything that is waited for is answered while storage hangs: by what is under way, then. */
  const now = <T>(work: Promise<T>): Promise<T> => bounded(work, 'an answer while storage hangs', 10_000)
  beforeEach(async () => {
    cache = await bench.open({ timeoutMs: 60_000 })
    // One of each size, so that room is made for them before anything hangs.
    await cache.batchSet(['slow', 'other'], [bytes(PAGE, 'old'), bytes(4 * MIB, 'other')])
  })

  it('is read from the write, with its dtype and shape, into any kind of memory', async () => {
    const page = tensor('float16', [50, 100], 'new')
    const letGo = hangKey()
    const writing = cache.set('slow', page)
    const got = (await now(cache.get('slow')))!
    expect(got).to.deep.include({ dtype: 'float16', shape: [50, 100] })
    expect(same(got, page)).to.equal(true)
    const target = tensor('float16', [50, 100], 'x')
    expect(await now(cache.get('slow', target))).to.equal(target)
    expect(same(target, page)).to.equal(true)
    const inArena = (await now(cache.getInArena('slow')))!
    expect(same(inArena, page)).to.equal(true)
    inArena.release()
    const direct = cache.allocate({ dtype: 'float16', shape: [50, 100] })
    expect(await now(cache.get('slow', direct))).to.equal(direct)
    expect(same(direct, page)).to.equal(true)
    direct.release()
    expect(cache.stats()).to.include({ batches_read: 0, reads_from_writes: 4, pages_read_hit: 4 })
    letGo()
    expect(await writing).to.equal(true)
    expect(same(await cache.get('slow'), page)).to.equal(true)
    expect(cache.stats()).to.include({ reads_from_writes: 4, arena_used_bytes: 0 })
  })
  it('what a reader got is its own: changing it changes neither the write nor another reader', async () => {
    const page = bytes(PAGE, 'new')
    const letGo = hangKey()
    const writing = cache.set('slow', page)
    const [one, two] = await now(Promise.all([cache.get('slow'), cache.get('slow')]))
    new Uint8Array(one!.data.buffer).fill(0)
    expect(same(two, page)).to.equal(true)
    letGo()
    await writing
    expect(same(await cache.get('slow'), page)).to.equal(true)
  })
  it('a source in arena memory, used as it is, answers as well', async () => {
    const source = cache.allocate({ dtype: 'uint8', shape: [8192] })
    const page = bytes(8192, 'arena')
    new Uint8Array(source.data.buffer, source.data.byteOffset, 8192).set(page)
    const letGo = hangKey()
    const writing = cache.set('slow', source)
    expect(same(await now(cache.get('slow')), page)).to.equal(true)
    const arena = (await now(cache.getInArena('slow')))!
    expect(same(arena, page)).to.equal(true)
    letGo()
    await writing
    new Uint8Array(source.data.buffer, source.data.byteOffset, 8192).fill(0)
    expect(same(arena, page), 'a copy').to.equal(true)
    arena.release()
    source.release()
  })
  it('of several calls that wait the last wins, a delete as well', async () => {
    const letGo = hangKey()
    const first = cache.set('slow', bytes(PAGE, 'first'))
    const second = cache.set('slow', bytes(PAGE + 1, 'second'))
    expect(same(await now(cache.get('slow')), bytes(PAGE + 1, 'second'))).to.equal(true)
    expect(await now(cache.exists('slow'))).to.equal(true)
    const deleting = cache.delete('slow')
    expect((await now(cache.read(['slow'])))[0]).to.include({ status: 'miss', reason: 'absent' })
    expect(await now(cache.exists('slow'))).to.equal(false)
    const third = cache.set('slow', bytes(5, 'third'))
    expect(same(await now(cache.get('slow')), bytes(5, 'third'))).to.equal(true)
    letGo()
    expect(await Promise.all([first, second, deleting, third])).to.deep.equal([true, true, true, true])
    expect(same(await cache.get('slow'), bytes(5, 'third'))).to.equal(true)
  })
  it('a target of another length or dtype is a miss, as it would be from storage', async () => {
    const letGo = hangKey()
    const writing = cache.set('slow', tensor('float32', [PAGE / 4], 'page'))
    expect((await now(cache.read([['slow', new Uint8Array(PAGE - 1)]])))[0]).to.include({ status: 'miss', reason: 'length' })
    expect((await now(cache.read([['slow', tensor('int32', [PAGE / 4], 'x')]])))[0]).to.include({ status: 'miss', reason: 'dtype' })
    letGo()
    await writing
  })
  it('when the write is given up, storage is asked', async () => {
    const letGo = hangKey()
    const controller = new AbortController()
    const first = cache.set('slow', bytes(PAGE, 'first'))
    const second = cache.set('slow', bytes(PAGE, 'second'), { signal: controller.signal })
    await turn()
    controller.abort()
    expect(await second).to.equal(false)
    expect(same(await now(cache.get('slow')), bytes(PAGE, 'first')), 'the write before it').to.equal(true)
    letGo()
    expect(await first).to.equal(true)
    expect(same(await cache.get('slow'), bytes(PAGE, 'first'))).to.equal(true)
  })
  it('a signal that has fired, and a deadline, end such a read like any other', async () => {
    const letGo = hangKey()
    const writing = cache.set('slow', bytes(PAGE, 'new'))
    expect((await now(cache.read(['slow'], { signal: AbortSignal.abort() })))[0]).to.include({ status: 'cancelled' })
    letGo()
    await writing
  })
  it('pages of many turns of copying are whole, whenever their write ends', async () => {
    const keys = Array.from({ length: 12 }, (_, i) => `large-${i}`)
    const roomy = await bench.open({ arenaBytes: 64 * MIB })
    const pages = keys.map(key => bytes(3 * MIB + 5, key))
    const writing = roomy.batchSet(keys, pages)
    const [got, again] = await Promise.all([roomy.batchGet(keys), roomy.batchGet(keys, keys.map(() => new Uint8Array(3 * MIB + 5)))])
    pages.forEach((page, i) => {
      expect(same(got[i]!, page), keys[i]).to.equal(true)
      expect(same(again[i]!, page), keys[i]).to.equal(true)
    })
    expect((await writing).every(Boolean)).to.equal(true)
    expect(roomy.stats()).to.include({ arena_used_bytes: 0, queued_requests: 0, queued_bytes: 0 })
  })
  it('stat and verify tell what storage has', async () => {
    await cache.delete('slow')
    const letGo = hangKey()
    const writing = cache.set('slow', bytes(PAGE, 'new'), { timeoutMs: 60_000 })
    await turn()
    expect(await cache.stat('slow', { timeoutMs: 200 })).to.equal(null)
    letGo()
    await writing
    expect(await cache.stat('slow')).to.include({ bytes: PAGE })
  })
})

describeLayouts('several reads of one page', storageLayout => {
  const bench = workbench(storageLayout, { hangs: true })
  let cache: HiCacheNixl
  const page = bytes(PAGE, 'page')
  const hangKey = (match = 'slow'): (() => void) => hangPages(bench, cache, match)
  const reads = (): number => cache.stats()['batches_read']!
  beforeEach(async () => {
    cache = await bench.open({ timeoutMs: 60_000, workers: 1 })
    await cache.batchSet(['slow', 'slow-2'], [page, bytes(PAGE, 'second')])
  })

  for (const leader of ['fresh', 'target', 'arena', 'direct'] as const) {
    it(`cost one read, and each gets a copy of its own (the first: ${leader})`, async () => {
      const letGo = hangKey()
      const arena = cache.allocate({ dtype: 'uint8', shape: [PAGE] })
      const target = new Uint8Array(PAGE)
      const all = {
        fresh: () => cache.get('slow'), target: () => cache.get('slow', target), arena: () => cache.getInArena('slow'), direct: () => cache.get('slow', arena)
      }
      const first = all[leader]()
      await turn()
      const others = Object.entries(all).filter(([name]) => name !== leader).map(([, read]) => read())
      const more = [cache.get('slow'), cache.getInArena('slow')]
      await turn()
      letGo()
      const got = await Promise.all([first, ...others, ...more])
      for (const one of got) expect(same(one, page)).to.equal(true)
      expect(new Set(got).size).to.equal(6)
      expect(reads()).to.equal(1)
      expect(cache.stats()).to.include({ reads_joined: 5, pages_read_hit: 6 })
      bytesOf(got[0]).fill(0)
      for (const one of got.slice(1)) expect(same(one, page)).to.equal(true)
      for (const one of got) if (one && 'release' in one) (one as ArenaTensor).release()
      await until(() => cache.stats()['arena_used_bytes'] === 0, 'the arena is empty')
    })
  }
  for (const how of ['signal', 'deadline'] as const) {
    it(`the first one's ${how} does not end it for the others`, async () => {
      const letGo = hangKey()
      const controller = new AbortController()
      const first = cache.read(['slow'], how === 'signal' ? { signal: controller.signal } : { timeoutMs: 200 })
      const others = [cache.get('slow'), cache.get('slow', new Uint8Array(PAGE))]
      await turn()
      controller.abort()
      expect(ended((await first)[0]!)).to.equal(how === 'signal' ? 'cancelled' : 'timeout')
      letGo()
      for (const other of await Promise.all(others)) expect(same(other, page)).to.equal(true)
      expect(cache.stats()).to.include({ reads_joined: 1 })
    })
    it(`a later one's ${how} ends that one alone`, async () => {
      const letGo = hangKey()
      const controller = new AbortController()
      const first = cache.get('slow')
      const second = cache.read(['slow'], how === 'signal' ? { signal: controller.signal } : { timeoutMs: 200 })
      const third = cache.get('slow')
      await turn()
      controller.abort()
      expect(ended((await second)[0]!)).to.equal(how === 'signal' ? 'cancelled' : 'timeout')
      letGo()
      expect(same(await first, page) && same(await third, page)).to.equal(true)
      expect(reads()).to.equal(1)
    })
  }
  it('who expects another length is answered for that length', async () => {
    const letGo = hangKey()
    const first = cache.get('slow')
    const wrong = cache.read([['slow', new Uint8Array(PAGE - 1)]])
    const right = cache.get('slow', new Uint8Array(PAGE))
    await turn()
    letGo()
    expect((await wrong)[0]).to.include({ status: 'miss', reason: 'length' })
    expect(same(await first, page) && same(await right, page)).to.equal(true)
  })
  it('a miss is a miss for all', async () => {
    const outcomes = await Promise.all([1, 2, 3].map(() => cache.read(['slow-none'])))
    for (const [outcome] of outcomes) expect(outcome).to.include({ status: 'miss', reason: 'absent' })
    expect(cache.stats()).to.include({ pages_read_miss_absent: 3 })
    // Of segments they may have looked twice, once more after what other processes have written was read.
    expect(cache.stats().reads_joined).to.be.oneOf(storageLayout === 'segment' ? [2, 4, 6] : [2])
  })
  it('who asks after a write gets what was written, whatever an older read brings', async () => {
    const letGo = hangKey()
    const old = cache.get('slow')
    await turn()
    const writing = cache.set('slow', bytes(PAGE, 'new'))
    expect(same(await bounded(cache.get('slow'), 'an answer from the write'), bytes(PAGE, 'new'))).to.equal(true)
    letGo()
    await writing
    expect(same(await cache.get('slow'), bytes(PAGE, 'new'))).to.equal(true)
    expect(await old).to.not.equal(null)
  })
  it('close ends all of them', async () => {
    hangKey()
    const all = [1, 2, 3].map(() => cache.read(['slow']))
    await turn()
    await cache.close({ graceMs: 0 })
    for (const [outcome] of await Promise.all(all)) expect(outcome).to.include({ status: 'cancelled' })
  })
  it('one call may ask for a key many times, and each target is filled', async () => {
    const targets = Array.from({ length: 64 }, () => new Uint8Array(PAGE))
    const got = await cache.batchGet(targets.map((_, i) => i % 2 === 0 ? 'slow' : 'slow-2'), targets)
    expect(got).to.deep.equal(targets)
    targets.forEach((target, i) => expect(same(target, i % 2 === 0 ? page : bytes(PAGE, 'second'))).to.equal(true))
    expect(cache.stats()).to.include({ reads_joined: 62, batches_read: 1 })
  })
  it('more readers in the arena than it has room for: what does not fit waits or is refused, nothing hangs', async () => {
    const large = bytes(3 * MIB, 'large')
    await cache.set('large', large)
    const outcomes = await bounded(Promise.all(Array.from({ length: 12 }, () => cache.getInArena('large'))), 'all reads')
    const got = outcomes.filter(one => one !== null)
    expect(got.length).to.be.within(1, 5)
    for (const one of got) {
      expect(same(one, large)).to.equal(true)
      one.release()
    }
    expect(cache.stats()).to.include({ arena_used_bytes: 0, queued_requests: 0 })
  })
})
