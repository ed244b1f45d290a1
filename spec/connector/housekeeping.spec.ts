import { mkdir, rename, stat, truncate, utimes, writeFile } from 'node:fs/promises'
import { expect } from 'chai'
import type { HiCacheNixl, PageInfo } from '../../lib/index.js'
import { loadAddon } from '../../lib/transfer/load-addon.js'
import { bytes, same, tensor } from '../support/content.js'
import { describeLayouts, placeName } from '../support/layouts.js'
import { filesBelow, flipByte, pagePath, writePythonPage } from '../support/page-files.js'
import { rejection } from '../support/rejection.js'
import { workbench } from '../support/workbench.js'

async function all(entries: AsyncIterable<PageInfo>): Promise<PageInfo[]> {
  const out: PageInfo[] = []
  for await (const entry of entries) out.push(entry)
  return out.sort((a, b) => a.key < b.key ? -1 : 1)
}

describeLayouts('delete', storageLayout => {
  const bench = workbench(storageLayout)

  it('removes a page, and tells whether there was one', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir })
    await cache.batchSet(['a', 'b'], [bytes(10, 'a'), bytes(10, 'b')])
    expect(await cache.delete('a')).to.equal(true)
    expect(await cache.delete('a')).to.equal(false)
    expect(await cache.get('a')).to.equal(null)
    expect(same(await cache.get('b'), bytes(10, 'b'))).to.equal(true)
    if (storageLayout === 'file') expect(await filesBelow(storageDir)).to.have.length(1)
  })
  it('with a memory pool: all parts of the page', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir })
    cache.registerMemPoolHost({ buffer: new SharedArrayBuffer(8192), pageBytes: 8192, pageCount: 1, parts: 2 })
    await cache.batchSetV1(['page'], [0])
    expect(await all(cache.entries())).to.have.length(2)
    expect(await cache.delete('page')).to.equal(true)
    expect(await all(cache.entries())).to.deep.equal([])
    if (storageLayout === 'file') expect(await filesBelow(storageDir)).to.deep.equal([])
  })
})

for (const directoryScheme of ['bucketed', 'flat'] as const) {
  describe(`clear, ${directoryScheme}`, () => {
    const bench = workbench('file')

    it('removes the pages of its own namespace by identity, and nothing else', async () => {
      const storageDir = await bench.directory()
      const open = (modelName: string, rest: object = {}): Promise<HiCacheNixl> => bench.open({ storageDir, directoryScheme, modelName, ...rest })
      // Names that only the identity tells apart: the stored key of `x_b` in model `a` is that of `x` in model `b_a`.
      const [a, ba, finger, rank] = await Promise.all([open('a'), open('b_a'), open('a', { fingerprint: 'f' }), open('a', { tpRank: 1, tpSize: 2 })])
      await a.batchSet(['1', '2', 'x_b', '3_a_0_1'], ['1', '2', 'x_b', '3'].map(seed => bytes(5000, seed)))
      await ba.batchSet(['1', '2'], [bytes(10, 1), bytes(10, 2)])
      await finger.set('f', bytes(10, 'f'))
      await rank.set('r', bytes(10, 'r'))
      await writePythonPage(storageDir, 'python_a_0_1', bytes(8192, 'py'), directoryScheme)
      await writeFile(`${storageDir}/notes.txt`, 'mine')
      await mkdir(`${storageDir}/other_a_0_1`)
      await writeFile(`${storageDir}/other_a_0_1/deep_a_0_1`, 'deep')
      const before = await filesBelow(storageDir)

      expect(await a.clear()).to.deep.equal({ deleted: 4 })

      expect(await filesBelow(storageDir)).to.deep.equal(before.filter(name => !/(?:^|\/)(?:1|2|x_b|3_a_0_1)_a_0_1$/.test(name)))
      expect(await a.batchExists(['1'])).to.equal(0)
      expect(await ba.batchExists(['1', '2'])).to.equal(2)
      expect(await finger.exists('f')).to.equal(true)
      expect(await rank.exists('r')).to.equal(true)
      expect((await a.read(['python']))[0]).to.include({ status: 'hit', verified: false })
      expect(await a.clear()).to.deep.equal({ deleted: 0 })
    })
    it('also the parts of pool pages', async () => {
      const storageDir = await bench.directory()
      const cache = await bench.open({ storageDir, directoryScheme })
      cache.registerMemPoolHost({ buffer: new SharedArrayBuffer(3 * 8192), pageBytes: 8192, pageCount: 3, parts: 2 })
      await cache.batchSetV1(['p', 'q', 'r'], [0, 1, 2])
      expect(await cache.clear()).to.deep.equal({ deleted: 6 })
      expect(await filesBelow(storageDir)).to.deep.equal([])
    })
  })
}

describeLayouts('entries and stat', storageLayout => {
  const bench = workbench(storageLayout)

  it('tell what is stored without reading it', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, modelName: 'm' })
    const began = Date.now()
    await cache.set('tensor', tensor('bfloat16', [2, 3, 4], 1))
    await cache.set('bytes', bytes(70_000, 2))
    const other = await bench.open({ storageDir, modelName: 'n' })
    await other.set('theirs', bytes(10, 3))
    const directory = placeName(storageLayout, storageDir)

    const pages = await all(cache.entries())
    expect(pages.map(({ key }) => key)).to.deep.equal(['bytes', 'tensor'])
    const [large, small] = pages
    expect(small).to.deep.include({ storedKey: 'tensor_m_0_1', bytes: 48, dtype: 'bfloat16', shape: [2, 3, 4], verified: true, directory })
    expect(large).to.deep.include({ bytes: 70_000, dtype: 'uint8', shape: [70_000] })
    expect(large!.allocatedBytes).to.be.within(70_000, 100_000)
    // File systems stamp times with the clock's tick, a few milliseconds back.
    expect(large!.writtenAt!.getTime()).to.be.within(began - 1000, Date.now() + 1000)
    expect(large!.accessedAt.getTime()).to.be.within(began - 1000, Date.now() + 1000)

    expect(await cache.stat('tensor')).to.deep.include({ key: 'tensor', bytes: 48, dtype: 'bfloat16', shape: [2, 3, 4], verified: true, directory })
    expect(await cache.stat('theirs')).to.equal(null)
    expect(await cache.stat('nothing')).to.equal(null)
  })
  it('an iteration may be left early', async () => {
    const cache = await bench.open()
    await cache.batchSet(['a', 'b', 'c'], [1, 2, 3].map(seed => bytes(10, seed)))
    for await (const { key } of cache.entries()) {
      expect(['a', 'b', 'c']).to.include(key)
      break
    }
    expect(await all(cache.entries())).to.have.length(3)
  })
})

describe('entries and stat of files that are not ours', () => {
  const bench = workbench('file')

  it('a Python page: unverified, its meaning unknown', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, modelName: 'm' })
    await writePythonPage(storageDir, 'py_m_0_1', bytes(4096, 1))
    expect(await cache.stat('py')).to.deep.include({ bytes: 4096, dtype: null, shape: null, verified: false })
  })
})

describe('verify of damaged files', () => {
  const bench = workbench('file')

  it('reads every page of the namespace and counts what it finds; drop removes what is damaged', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, modelName: 'm' })
    const keys = ['a', 'b', 'payload', 'record', 'cut']
    await cache.batchSet(keys, keys.map(key => bytes(9000, key)))
    await flipByte(pagePath(storageDir, 'payload_m_0_1'), 5)
    await flipByte(pagePath(storageDir, 'record_m_0_1'), -4000)
    await writePythonPage(storageDir, 'python_m_0_1', bytes(4096, 'py'))
    const other = await bench.open({ storageDir, modelName: 'n' })
    await other.set('theirs', bytes(10, 3))
    await flipByte(pagePath(storageDir, 'theirs_n_0_1'), 5)
    await truncate(pagePath(storageDir, 'cut_m_0_1'), 12_288 + 8192)

    const before = await filesBelow(storageDir)
    const progress: { pages: number; bytes: number }[] = []
    const report = await cache.verify({ onProgress: done => progress.push(done) })
    expect(report).to.include({ pages: 6, ok: 2, missing: 0 })
    expect(report.corrupt + report.unverified).to.equal(4)
    expect(report.corrupt).to.be.at.least(2)
    expect(progress).to.have.length(6)
    expect(progress.at(-1)).to.deep.equal({ pages: report.pages, bytes: report.bytes })
    expect(await filesBelow(storageDir), 'nothing is removed unless asked for').to.deep.equal(before)

    await cache.verify({ drop: true })
    const left = (await filesBelow(storageDir)).map(name => name.slice(3))
    expect(left).to.include.members(['a_m_0_1', 'b_m_0_1', 'python_m_0_1', 'theirs_n_0_1'])
    expect(left).not.to.include.members(['payload_m_0_1'])
    expect(left).not.to.include.members(['record_m_0_1'])
    expect(await cache.verify()).to.include({ ok: 2, corrupt: 0 })
  })
})

describeLayouts('verify', storageLayout => {
  const bench = workbench(storageLayout)

  it('counts whole pages of the namespace', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, modelName: 'm' })
    await cache.batchSet(['a', 'b'], [bytes(9000, 1), bytes(100, 2)])
    const other = await bench.open({ storageDir, modelName: 'n' })
    await other.set('theirs', bytes(10, 3))
    expect(await cache.verify()).to.deep.equal({ pages: 2, bytes: 9100, ok: 2, corrupt: 0, unverified: 0, missing: 0 })
  })
  it('ends when its signal fires', async () => {
    const cache = await bench.open()
    // More than are read at once.
    const keys = Array.from({ length: 20 }, (_, i) => `k${i}`)
    await cache.batchSet(keys, keys.map(key => bytes(10, key)))
    const controller = new AbortController()
    const error = await rejection(cache.verify({ signal: controller.signal, onProgress: () => controller.abort(new Error('enough')) }), 'ERR_CANCELLED')
    expect(error.cause).to.be.an('error').with.property('message', 'enough')
  })
  it('keeps to bytesPerSecond', async () => {
    const cache = await bench.open()
    await cache.batchSet(['a', 'b'], [bytes(10_000, 1), bytes(10_000, 2)])
    const began = performance.now()
    await cache.verify({ bytesPerSecond: 200_000 })
    // 20,000 bytes at 200,000 a second: never faster than 100 ms; how much slower the machine makes it is not our matter.
    expect(performance.now() - began).to.be.at.least(95)
  })
})

describeLayouts('clear', storageLayout => {
  const bench = workbench(storageLayout)

  it('removes the pages of its own namespace, the parts of pool pages too, and no others', async () => {
    const storageDir = await bench.directory()
    const [a, ba, finger] = await Promise.all([
      bench.open({ storageDir, modelName: 'a' }), bench.open({ storageDir, modelName: 'b_a' }), bench.open({ storageDir, modelName: 'a', fingerprint: 'f' })
    ])
    // Of one stored key, and told apart by the namespace only: the key `x_b` of model `a` is that of `x` in model `b_a`.
    await a.batchSet(['1', 'x_b'], [bytes(5000, 1), bytes(5000, 2)])
    await ba.batchSet(['1', '2'], [bytes(10, 1), bytes(10, 2)])
    await finger.set('f', bytes(10, 'f'))
    a.registerMemPoolHost({ buffer: new SharedArrayBuffer(2 * 8192), pageBytes: 8192, pageCount: 2, parts: 2 })
    await a.batchSetV1(['p', 'q'], [0, 1])
    expect(await a.clear()).to.deep.equal({ deleted: 6 })
    expect(await all(a.entries())).to.deep.equal([])
    expect(await ba.batchExists(['1', '2'])).to.equal(2)
    expect(await finger.exists('f')).to.equal(true)
    expect(await a.clear()).to.deep.equal({ deleted: 0 })
  })
})

describe('gc', () => {
  const bench = workbench('file')

  it('removes what dead writers left, and never what a living one holds', async () => {
    for (const directoryScheme of ['bucketed', 'flat'] as const) {
      const storageDir = await bench.directory()
      const cache = await bench.open({ storageDir, directoryScheme })
      await cache.gc()
      await cache.set('k', bytes(100, 1))
      await cache.set('k', bytes(100, 2))
      const [page] = await filesBelow(storageDir)
      const temporaries = `${storageDir}/.hicache-nixl-tmp`
      await writeFile(`${temporaries}/.hicache-nixl-tmp-0123456789abcdef01234567`, 'half a page')
      await writeFile(`${temporaries}/.hicache-nixl-tmp-aaaaaaaaaaaaaaaaaaaaaaaa`, 'half a page')
      const living = loadAddon().tryLock(`${temporaries}/.hicache-nixl-tmp-bbbbbbbbbbbbbbbbbbbbbbbb`)
      expect(await cache.gc()).to.include({ leftovers: 2, evictedPages: 0 })
      expect(await filesBelow(storageDir)).to.have.members([page, '.hicache-nixl-tmp/.hicache-nixl-tmp-bbbbbbbbbbbbbbbbbbbbbbbb'])
      loadAddon().unlock(living)
      expect(await cache.gc()).to.include({ leftovers: 1 })
      expect(cache.stats()['leftovers_removed']).to.equal(3)
    }
  })
  it('leftovers are no pages, whatever they hold', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, modelName: 'm' })
    await cache.set('k', bytes(100, 1))
    await rename(pagePath(storageDir, 'k_m_0_1'), pagePath(storageDir, 'k_m_0_1').replace('k_m_0_1', '.hicache-nixl-tmp-0123456789abcdef01234567'))
    expect(await cache.exists('k')).to.equal(false)
    expect(await all(cache.entries())).to.deep.equal([])
    expect(await cache.clear()).to.deep.equal({ deleted: 0 })
  })
})

describe('the l3 cleaner', () => {
  const bench = workbench('file')
  const MIB = 1024 * 1024
  /** Capacity of 1 MiB in all: above 800 KiB pages go until 500 KiB are left. */
  const config = { l3_cleaner_enabled: true, l3_cleaner_capacity_gb: 1 / 1024, l3_cleaner_high_watermark: 80, l3_cleaner_low_watermark: 50 }
  const hash = (i: number): string => i.toString(16).padStart(64, '0')
  const usedBytes = async (cache: HiCacheNixl): Promise<number> => (await all(cache.entries())).reduce((sum, { allocatedBytes }) => sum + allocatedBytes, 0)

  it('frees down to its low watermark, longest unread first, all parts of a page together', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, config, modelName: 'm' })
    const pages = 16
    cache.registerMemPoolHost({ buffer: new SharedArrayBuffer(pages * 65_536), pageBytes: 65_536, pageCount: pages, parts: 2 })
    const keys = Array.from({ length: pages }, (_, i) => hash(i))
    expect((await cache.batchSetV1(keys, keys.map((_, i) => i))).every(Boolean)).to.equal(true)
    // The even ones were used longest ago; the keys' part of a page long before its values' part, which counts as one use.
    for (const [i, key] of keys.entries()) {
      const day = new Date(Date.UTC(2020, 0, i % 2 === 0 ? 1 : 20, i))
      for (const part of ['_k', '_v']) await utimes(pagePath(storageDir, `${key}_m_0_1${part}`), part === '_k' ? new Date(0) : day, part === '_k' ? new Date(0) : day)
    }
    expect(await usedBytes(cache)).to.be.greaterThan(0.8 * MIB)
    const report = await cache.gc()
    expect(report.evictedPages).to.be.greaterThan(0)
    expect(await usedBytes(cache)).to.be.within(0.3 * MIB, 0.5 * MIB)
    const there = await Promise.all(keys.map(key => cache.exists(key)))
    // Whole pages only: as many files as twice the pages that are there.
    expect((await filesBelow(storageDir)).filter(name => /_[kv]$/.test(name))).to.have.length(2 * there.filter(Boolean).length)
    // Whatever was used longer ago than something that went, went too.
    const order = [...keys.keys()].sort((x, y) => x % 2 - y % 2 || x - y)
    const gone = order.map(i => !there[i]!)
    expect(gone.lastIndexOf(true)).to.equal(gone.filter(Boolean).length - 1)
    expect(cache.stats()).to.include({ cleaner_evicted_pages: report.evictedPages, cleaner_evicted_bytes: report.evictedBytes })
    expect(await cache.gc()).to.include({ evictedPages: 0 })
  })
  it('without a capacity the watermarks are percent of the file system', async () => {
    const settings = { l3_cleaner_enabled: true, l3_cleaner_low_watermark: 1 }
    const full = await bench.open({ config: { ...settings, l3_cleaner_high_watermark: 1 } })
    const roomy = await bench.open({ config: { ...settings, l3_cleaner_high_watermark: 100 } })
    // Any disk that programs are installed on is filled by more than a hundredth, and none beyond all of it.
    for (const cache of [full, roomy]) await cache.batchSet([hash(1), hash(2)], [bytes(5000, 1), bytes(5000, 2)])
    expect(await full.gc()).to.include({ evictedPages: 2 })
    expect(await roomy.gc()).to.include({ evictedPages: 0 })
  })
  it('spares what was read just now', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, config, modelName: 'm' })
    const keys = Array.from({ length: 16 }, (_, i) => hash(i))
    await cache.batchSet(keys, keys.map(key => bytes(65_536, key)))
    for (const key of keys) await utimes(pagePath(storageDir, `${key}_m_0_1`), new Date(0), new Date(0))
    await cache.batchGet([keys[3]!, keys[7]!])
    await cache.gc()
    expect(await cache.exists(keys[3]!)).to.equal(true)
    expect(await cache.exists(keys[7]!)).to.equal(true)
    expect((await all(cache.entries())).length).to.be.lessThan(16)
    // Reading renewed the access time on the disk, for the cleaners of other processes.
    await cache.flush()
    expect((await stat(pagePath(storageDir, `${keys[3]!}_m_0_1`))).atimeMs).to.be.greaterThan(Date.UTC(2024))
  })
  it('below its high watermark, or not enabled, it removes nothing', async () => {
    const cache = await bench.open({ config })
    await cache.set('k', bytes(65_536, 1))
    expect(await cache.gc()).to.include({ evictedPages: 0 })
    const off = await bench.open({ config: { ...config, l3_cleaner_enabled: false } })
    await off.batchSet(Array.from({ length: 20 }, (_, i) => hash(i)), Array.from({ length: 20 }, (_, i) => bytes(65_536, i)))
    expect(await off.gc()).to.include({ evictedPages: 0 })
  })
  it('takes Python pages and those of other models too, and nothing that is no page', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, config, modelName: 'm', directoryScheme: 'flat' })
    for (let i = 0; i < 10; i++) await writePythonPage(storageDir, `${hash(i)}_other_0_1`, bytes(131_072, i), 'flat')
    await writeFile(`${storageDir}/README`, bytes(131_072, 'README'))
    await writeFile(`${storageDir}/photo_m_0_1`, bytes(131_072, 'photo'))
    expect((await cache.gc()).evictedPages).to.be.within(1, 9)
    const left = await filesBelow(storageDir)
    expect(left).to.include.members(['README', 'photo_m_0_1'])
    expect(left.filter(name => name.includes('_other_')).length).to.be.within(1, 6)
  })
  it('one at a time: while another holds the lock, it waits for its next turn', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, config })
    await cache.batchSet(Array.from({ length: 16 }, (_, i) => hash(i)), Array.from({ length: 16 }, (_, i) => bytes(65_536, i)))
    const lock = loadAddon().tryLock(`${storageDir}/.hicache-nixl-cleaner.lock`)
    expect(lock).to.be.at.least(0)
    expect(await cache.gc()).to.include({ evictedPages: 0 })
    loadAddon().unlock(lock)
    expect((await cache.gc()).evictedPages).to.be.greaterThan(0)
  })
})
