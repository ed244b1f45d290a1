import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import type { HiCacheNixl, PageInfo } from '../../lib/index.js'
import { loadAddon } from '../../lib/transfer/load-addon.js'
import { SegmentFiles } from '../trials/segment-files.js'
import { hang } from '../support/hang.js'
import { hangPages } from '../support/layouts.js'
import { bounded, until } from '../support/planned-faults.js'
import { RemoteCache } from '../support/remote-cache.js'
import { KIB, flip, look, lookAll, mostBytesDuring, numbered, placeOf, segments, store, storeAll, tally } from '../support/segments.js'
import { MIB, workbench } from '../support/workbench.js'

const PAGE = 20_000

async function keysOf(cache: HiCacheNixl): Promise<string[]> {
  const keys: string[] = []
  for await (const { key } of cache.entries()) keys.push(key)
  return keys.sort()
}

for (const [where, processes] of [['one process', 1], ['two processes', 2]] as const) {
  describe(`segments of two caches in one directory, in ${where}`, () => {
    const bench = workbench('segment')
    let storageDir: string
    let mine: HiCacheNixl
    /** The other cache: of a process of its own, or of this one. */
    let theirs: {
      write: (keys: readonly string[], version?: number) => Promise<string[]>
      read: (keys: readonly string[], version?: number) => Promise<string[]>
      remove: (key: string) => Promise<boolean>
      stats: () => Promise<Readonly<Record<string, number>>>
    }
    let remote: RemoteCache | null
    beforeEach(async () => {
      storageDir = await bench.directory()
      if (processes === 1) {
        remote = null
        const cache = await bench.open({ storageDir, ...segments() })
        theirs = {
          write: (keys, version) => store(cache, keys, PAGE, version), read: (keys, version) => look(cache, keys, PAGE, version), remove: key => cache.delete(key),
          stats: () => Promise.resolve(cache.stats())
        }
      } else {
        const child = remote = new RemoteCache(bench, [])
        await child.open({ storageDir, ...segments() })
        theirs = {
          write: (keys, version = 0) => child.write({ keys, bytes: PAGE, version }), read: (keys, version = 0) => child.read({ keys, bytes: PAGE, version }),
          remove: async key => (await child.delete([key]))[0]!, stats: () => child.stats()
        }
      }
      mine = await bench.open({ storageDir, ...segments() })
    })

    it('what one writes the other reads at once, and looks up a moment later', async () => {
      const keys = numbered('page', 12)
      expect(tally(await theirs.write(keys))).to.deep.equal({ stored: 12 })
      // A read that misses asks what the others have written.
      expect(await look(mine, keys.slice(0, 1), PAGE)).to.deep.equal(['hit'])
      await until(async () => await mine.batchExists(keys) === 12, 'the pages of the other in lookups')
      expect(tally(await look(mine, keys, PAGE))).to.deep.equal({ hit: 12 })
      expect(await keysOf(mine)).to.deep.equal(keys)
      expect(mine.stats()).to.include({ segment_pages: 0, segment_pages_foreign: 12 })
      expect(await mine.stat(keys[3]!)).to.deep.include({ key: keys[3], bytes: PAGE })
      // And the other way round.
      expect(tally(await store(mine, numbered('back', 3), PAGE))).to.deep.equal({ stored: 3 })
      expect(tally(await theirs.read(numbered('back', 3)))).to.deep.equal({ hit: 3 })
    })

    it('a page that the other has already is not written again', async () => {
      expect(await theirs.write(['page'])).to.deep.equal(['stored'])
      await until(() => mine.exists('page'), 'the page of the other')
      expect(await store(mine, ['page'], PAGE)).to.deep.equal(['already-there'])
      expect(mine.stats().segment_pages).to.equal(0)
    })

    it('a page that the other replaces is the new one here', async () => {
      expect(await theirs.write(['page'])).to.deep.equal(['stored'])
      await until(() => mine.exists('page'), 'the page of the other')
      expect(await theirs.write(['page'], 1)).to.deep.equal(['stored'])
      await until(async () => (await look(mine, ['page'], PAGE, 1))[0] === 'hit', 'the new page')
      // Replaced by us: theirs goes, wherever it lies.
      expect(await store(mine, ['page'], PAGE, 2)).to.deep.equal(['stored'])
      await until(async () => (await theirs.read(['page'], 2))[0] === 'hit', 'our page at the other')
      await until(() => new SegmentFiles(storageDir).pages().length === 1, 'the end of the older copies')
      expect(await look(mine, ['page'], PAGE, 2)).to.deep.equal(['hit'])
    })

    it('a delete reaches the other, whoever wrote the page', async () => {
      const keys = numbered('page', 4)
      await theirs.write(keys)
      await until(async () => await mine.batchExists(keys) === 4, 'the pages of the other')
      expect(await theirs.remove(keys[0]!)).to.equal(true)
      await until(async () => !await mine.exists(keys[0]!), 'the end of the page here')
      expect(await look(mine, [keys[0]!], PAGE)).to.deep.equal(['absent'])
      // Of theirs, by us.
      expect(await mine.delete(keys[1]!)).to.equal(true)
      expect(await mine.exists(keys[1]!)).to.equal(false)
      await until(async () => (await theirs.read([keys[1]!]))[0] === 'absent', 'the end of the page at its owner')
      await until(async () => (await theirs.stats()).segment_pages === 2, 'the slots of both')
      expect(tally(await theirs.read(keys.slice(2)))).to.deep.equal({ hit: 2 })
      await until(async () => (await keysOf(mine)).length === 2, 'the list of what is left')
    })

    it('damage in a page of the other is a miss', async () => {
      await theirs.write(['page', 'other'])
      await until(async () => await mine.batchExists(['page', 'other']) === 2, 'the pages of the other')
      const { data, dataAt } = placeOf(storageDir, 'page__0_1')
      flip(data, dataAt + 77)
      expect(await look(mine, ['page', 'other'], PAGE)).to.deep.equal(['corrupt', 'hit'])
    })

    it('what was there before is found at once by who comes later', async () => {
      const keys = numbered('page', 5)
      await theirs.write(keys)
      const late = await bench.open({ storageDir, ...segments() })
      expect(await late.batchExists(keys)).to.equal(5)
      expect(tally(await look(late, keys, PAGE))).to.deep.equal({ hit: 5 })
    })

    it('gives up a page that is asked for by its generation, and leaves what has come into the slot since', async () => {
      const { segments: native } = loadAddon()
      const { folder, ownerFd } = await native.open(storageDir)
      bench.atEnd(() => native.closeWriter(storageDir, folder, ownerFd))
      // Large pages, of which a segment has few: slots are used again soon.
      const large = 300 * KIB
      let version = 0
      await until(async () => {
        expect(await store(mine, ['stays'], large, ++version)).to.deep.equal(['stored'])
        return placeOf(storageDir, 'stays__0_1').generation > 1
      }, 'a slot that is used again')
      await store(mine, ['goes'], large)
      const [stays, goes] = [placeOf(storageDir, 'stays__0_1'), placeOf(storageDir, 'goes__0_1')]
      const requests = [stays.segment, stays.slot, stays.generation - 1, goes.segment, goes.slot, goes.generation]
      await until(async () => {
        // Again, as one that came before this folder is followed is not heard.
        await native.ask(storageDir, folder, requests)
        return !await mine.exists('goes')
      }, 'the end of the page that was asked for')
      expect(await look(mine, ['stays', 'goes'], large, version)).to.deep.equal(['hit', 'absent'])
      expect(placeOf(storageDir, 'stays__0_1')).to.deep.equal(stays)
    })

    if (processes === 1) return

    it('an older copy goes although its writer hears of the newer one only when that is gone, too', async () => {
      const keys = numbered('page', 120)
      await theirs.write(keys)
      await theirs.write(['kept'])
      await until(async () => await mine.batchExists([...keys, 'kept']) === 121, 'the pages of the other')
      remote!.process.kill('SIGSTOP')
      try {
        expect(tally(await store(mine, keys, PAGE, 1))).to.deep.equal({ stored: 120 })
        expect(await Promise.all(keys.map(key => mine.delete(key)))).to.deep.equal(keys.map(() => true))
      } finally {
        remote!.process.kill('SIGCONT')
      }
      await until(async () => (await theirs.stats()).segment_pages === 1, 'the end of the older copies')
      expect(tally(await theirs.read(keys))).to.deep.equal({ absent: 120 })
      expect(await theirs.read(['kept'])).to.deep.equal(['hit'])
      expect(await mine.batchExists(keys)).to.equal(0)
    })

    it('a copy that the other began later, and ended sooner, is left to it', async () => {
      await theirs.write(['sentinel'])
      await until(() => mine.exists('sentinel'), 'the page of the other')
      // There is a segment, and what is hung is this page's data alone.
      await store(mine, ['own'], PAGE)
      const letGo = hang(bench, ...['ring.complete', 'aio.complete', 'paio.complete', 'pwritev'].map(point => ({ point, match: '.data', times: 0, hang: true })))
      const writing = store(mine, ['page'], PAGE, 1)
      await until(() => mine.stats().in_flight_bytes! >= PAGE, 'the beginning of our write')
      expect(await theirs.write(['page'], 2)).to.deep.equal(['stored'])
      await until(() => mine.stats().segment_pages_foreign === 2, 'the copy of the other')
      letGo()
      expect(await writing).to.deep.equal(['stored'])
      // What we ask for from now on the other hears later than anything that we asked for before.
      expect(await mine.delete('sentinel')).to.equal(true)
      await until(async () => (await theirs.read(['sentinel']))[0] === 'absent', 'the end of the page that was asked for')
      expect(await theirs.read(['page'], 2)).to.deep.equal(['hit'])
      expect(await look(mine, ['page'], PAGE, 2), 'both see the later one').to.deep.equal(['hit'])
    })

    it('what a writer leaves when it ends is taken over by one that lives', async () => {
      const keys = numbered('page', 12)
      await theirs.write(keys)
      await until(async () => await mine.batchExists(keys) === 12, 'the pages of the other')
      const folders = (): string[] => readdirSync(join(storageDir, 'segments')).filter(name => name.includes('-'))
      await store(mine, ['own'], PAGE)
      expect(folders()).to.have.length(2)
      remote!.process.kill('SIGKILL')
      await bounded(remote!.ended, 'the end of the process')
      await until(() => mine.stats().segments_adopted === 1, 'the taking over')
      expect(folders()).to.have.length(1)
      expect(mine.stats()).to.include({ segment_pages: 13, segment_pages_foreign: 0 })
      expect(tally(await look(mine, [...keys, 'own'], PAGE))).to.deep.equal({ hit: 13 })
      // They are its own now: deleted for good, and there when the store is opened again.
      expect(await mine.delete(keys[0]!)).to.equal(true)
      await mine.close()
      const again = await bench.open({ storageDir, ...segments() })
      expect(await keysOf(again)).to.deep.equal([...keys.slice(1), 'own'].sort())
    })
  })
}

describe('segments of two processes in a full directory', () => {
  const bench = workbench('segment')

  it('both write on, never more than the capacity together, and read what the other keeps', async () => {
    const storageDir = await bench.directory()
    const large = 64 * KIB
    const capacity = 14
    const mine = await bench.open({ storageDir, ...segments(capacity) })
    const other = new RemoteCache(bench, [])
    await other.open({ storageDir, ...segments(capacity) })
    const most = await mostBytesDuring(storageDir, async () => {
      for (let round = 0; round < 6; round++) {
        const [ours, theirs] = await Promise.all([
          storeAll(mine, numbered('mine', 48, 48 * round), large), other.write({ keys: numbered('theirs', 48, 48 * round), bytes: large })
        ])
        expect(tally(ours)).to.deep.equal({ stored: 48 })
        expect(tally(theirs)).to.deep.equal({ stored: 48 })
      }
    })
    expect(most).to.be.at.most(capacity * MIB)
    const theirs = numbered('theirs', 288)
    const here = tally(await lookAll(mine, theirs, large))
    expect(Object.keys(here).sort()).to.deep.equal(['absent', 'hit'])
    expect(await other.read({ keys: numbered('theirs', 4, 284), bytes: large })).to.deep.equal(Array(4).fill('hit'))
  })
})

describe('housekeeping of segments', () => {
  const bench = workbench('segment')

  it('clear() and entries() are of the own namespace, of all writers; other models, fingerprints and ranks keep their pages', async () => {
    const storageDir = await bench.directory()
    const open = (modelName: string, rest: object = {}): Promise<HiCacheNixl> => bench.open({ storageDir, ...segments(), modelName, ...rest })
    const a = await open('a')
    const same = await open('a')
    const others = await Promise.all([open('b'), open('a', { fingerprint: 'f' }), open('a', { tpRank: 1, tpSize: 2 })])
    const keys = numbered('page', 6)
    await store(a, keys, PAGE)
    await store(same, ['of-the-other-writer'], PAGE)
    for (const [i, other] of others.entries()) await store(other, [...keys, `only-${i}`], PAGE, i + 1)
    await until(async () => (await keysOf(a)).length === 7, 'the page of the other writer')
    expect(await keysOf(a)).to.deep.equal(['of-the-other-writer', ...keys])
    expect(await a.stat('only-0')).to.equal(null)

    expect(await a.clear()).to.deep.equal({ deleted: 7 })
    expect(await keysOf(a)).to.deep.equal([])
    expect(await a.batchExists(keys)).to.equal(0)
    await until(async () => !await same.exists('of-the-other-writer'), 'the end of the page at its writer')
    for (const [i, other] of others.entries()) {
      expect(await keysOf(other)).to.deep.equal([...keys, `only-${i}`].sort())
      expect(tally(await look(other, keys, PAGE, i + 1))).to.deep.equal({ hit: 6 })
    }
    // Nor does it come back, or what is another's go, when all is opened again.
    await Promise.all([a, same, ...others].map(cache => cache.close()))
    expect(await keysOf(await open('a'))).to.deep.equal([])
    expect(await keysOf(await open('b'))).to.deep.equal([...keys, 'only-0'].sort())
  })

  it('stat() tells what is stored without reading it', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, ...segments(), modelName: 'm' })
    const before = Date.now()
    await cache.set('page', { dtype: 'float32', shape: [5, 1000], data: new Float32Array(5000) })
    const { data, dataAt } = placeOf(storageDir, 'page_m_0_1')
    flip(data, dataAt)
    const info: PageInfo = (await cache.stat('page'))!
    expect(info).to.deep.include({
      key: 'page', storedKey: 'page_m_0_1', bytes: 20_000, dtype: 'float32', shape: [5, 1000], verified: true, allocatedBytes: 20_480, directory: storageDir
    })
    expect(info.writtenAt!.getTime()).to.be.within(before - 1000, Date.now() + 1000)
    expect(await cache.stat('nothing')).to.equal(null)
    await cache.delete('page')
    expect(await cache.stat('page')).to.equal(null)
  })

  it('verify() reads every page and gives up what is damaged', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, ...segments() })
    const keys = numbered('page', 20)
    await store(cache, keys, PAGE)
    for (const key of keys.slice(3, 6)) {
      const { data, dataAt } = placeOf(storageDir, `${key}__0_1`)
      flip(data, dataAt + 1000)
    }
    const progress: number[] = []
    const report = await cache.verify({ onProgress: ({ pages }) => progress.push(pages) })
    expect(report).to.include({ pages: 20, ok: 17, corrupt: 3, missing: 0, unverified: 0, bytes: 20 * PAGE })
    expect(progress.at(-1)).to.equal(20)
    expect(await keysOf(cache)).to.deep.equal([...keys.slice(0, 3), ...keys.slice(6)])
    expect(await cache.verify()).to.include({ pages: 17, ok: 17, corrupt: 0 })
    expect(tally(await look(cache, keys, PAGE))).to.deep.equal({ hit: 17, absent: 3 })
  })

  it('gc() takes over at once what a dead process left', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, ...segments() })
    const child = new RemoteCache(bench, [])
    await child.open({ storageDir, ...segments() })
    await child.write({ keys: ['page'], bytes: PAGE })
    child.process.kill('SIGKILL')
    await bounded(child.ended, 'the end of the process')
    const { leftovers } = await cache.gc()
    // It may have been found without being asked.
    expect(leftovers).to.be.at.most(1)
    expect(cache.stats()).to.include({ segments_adopted: 1, segment_pages: 1 })
    expect(await look(cache, ['page'], PAGE)).to.deep.equal(['hit'])
    expect(await cache.gc()).to.deep.include({ leftovers: 0, evictedPages: 0 })
  })

  it('while a page is being written or deleted, lookups answer as if it were done', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, ...segments() })
    await store(cache, ['before'], PAGE)
    const letGo = hangPages(bench, cache, '')
    const writing = store(cache, ['page'], PAGE)
    expect(await cache.exists('page')).to.equal(true)
    expect(await cache.batchExists(['before', 'page'])).to.equal(2)
    expect(await bounded(look(cache, ['page'], PAGE), 'a read from the write')).to.deep.equal(['hit'])
    const deleting = cache.delete('before')
    expect(await cache.exists('before')).to.equal(false)
    letGo()
    expect(await writing).to.deep.equal(['stored'])
    expect(await deleting).to.equal(true)
    expect(await cache.exists('page')).to.equal(true)
    expect(await cache.exists('before')).to.equal(false)
  })
})
