import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'chai'
import type { HiCacheNixl } from '../../lib/index.js'
import { SegmentFiles } from '../trials/segment-files.js'
import { bytes, same, tensor } from '../support/content.js'
import { filesBelow } from '../support/page-files.js'
import { bounded } from '../support/planned-faults.js'
import { rejection } from '../support/rejection.js'
import { RemoteCache } from '../support/remote-cache.js'
import { KIB, allocatedBelow, content, look, lookAll, numbered, segments, store, storeAll, tally } from '../support/segments.js'
import { MIB, workbench } from '../support/workbench.js'

const PAGE = 20_000
const folders = (storageDir: string): string[] => new SegmentFiles(storageDir).folders().map(({ name }) => name)

async function keysOf(cache: HiCacheNixl): Promise<string[]> {
  const keys: string[] = []
  for await (const { key } of cache.entries()) keys.push(key)
  return keys.sort()
}

describe('a store of segments that is opened again', () => {
  const bench = workbench('segment')

  it('has every page, with its bytes, dtype and shape, in the folder that was there', async () => {
    const storageDir = await bench.directory()
    const first = await bench.open({ storageDir, ...segments() })
    const tensors = [tensor('bfloat16', [2, 3, 4], 1), tensor('float32', [7], 2), tensor('int64', [1, 5], 3), tensor('uint8', [10_000], 4)]
    await first.batchSet(tensors.map((_, i) => `tensor-${i}`), tensors)
    const keys = numbered('page', 120)
    await storeAll(first, keys, PAGE)
    const [folder, ...others] = folders(storageDir)
    expect(others).to.deep.equal([])
    await first.close()

    const second = await bench.open({ storageDir, ...segments() })
    expect(folders(storageDir)).to.deep.equal([folder])
    expect(await keysOf(second)).to.deep.equal([...keys, ...tensors.map((_, i) => `tensor-${i}`)].sort())
    expect(second.stats().segment_pages).to.equal(124)
    expect(tally(await lookAll(second, keys, PAGE))).to.deep.equal({ hit: 120 })
    for (const [i, expected] of tensors.entries()) {
      const read = await second.get(`tensor-${i}`)
      expect(read).to.deep.include({ dtype: expected.dtype, shape: expected.shape })
      expect(same(read, expected), `bytes of ${expected.dtype}`).to.equal(true)
    }
    // And it is written on: new pages lie beside the old ones.
    expect(tally(await storeAll(second, numbered('new', 60), PAGE))).to.deep.equal({ stored: 60 })
    expect(tally(await lookAll(second, keys, PAGE))).to.deep.equal({ hit: 120 })
  })

  it('after its process was killed', async () => {
    const storageDir = await bench.directory()
    const child = new RemoteCache(bench, [])
    await child.open({ storageDir, ...segments() })
    const keys = numbered('page', 60)
    expect(tally(await child.write({ keys, bytes: PAGE }))).to.deep.equal({ stored: 60 })
    expect(await child.delete([keys[0]!])).to.deep.equal([true])
    const before = folders(storageDir)
    child.process.kill('SIGKILL')
    await bounded(child.ended, 'the end of the process')

    const cache = await bench.open({ storageDir, ...segments() })
    expect(folders(storageDir)).to.deep.equal(before)
    expect(await keysOf(cache)).to.deep.equal(keys.slice(1))
    expect(tally(await lookAll(cache, keys.slice(1), PAGE))).to.deep.equal({ hit: 59 })
    expect(await look(cache, [keys[0]!], PAGE)).to.deep.equal(['absent'])
  })

  it('folders of several that died are one afterwards, with the pages of all', async () => {
    const storageDir = await bench.directory()
    const open = await Promise.all([0, 1].map(() => bench.open({ storageDir, ...segments() })))
    for (const [i, cache] of open.entries()) await storeAll(cache, numbered(`of-${i}`, 20), PAGE)
    expect(folders(storageDir)).to.have.length(2)
    await Promise.all(open.map(cache => cache.close()))

    const cache = await bench.open({ storageDir, ...segments() })
    expect(folders(storageDir)).to.have.length(1)
    expect(tally(await lookAll(cache, [...numbered('of-0', 20), ...numbered('of-1', 20)], PAGE))).to.deep.equal({ hit: 40 })
    await cache.close()
    expect(new SegmentFiles(storageDir).leftovers()).to.deep.equal([])
  })

  it('what was deleted, replaced or evicted is as it was left', async () => {
    const storageDir = await bench.directory()
    const first = await bench.open({ storageDir, ...segments(6) })
    const keys = numbered('page', 30)
    await storeAll(first, keys, PAGE)
    for (const key of keys.slice(0, 5)) expect(await first.delete(key)).to.equal(true)
    expect(tally(await store(first, keys.slice(5, 10), PAGE, 1))).to.deep.equal({ stored: 5 })
    // Another length: another size of extents.
    expect(tally(await store(first, keys.slice(10, 12), 3 * PAGE))).to.deep.equal({ stored: 2 })
    const state = async (cache: HiCacheNixl): Promise<void> => {
      expect(tally(await look(cache, keys.slice(0, 5), PAGE))).to.deep.equal({ absent: 5 })
      expect(tally(await look(cache, keys.slice(5, 10), PAGE, 1))).to.deep.equal({ hit: 5 })
      expect(tally(await look(cache, keys.slice(10, 12), 3 * PAGE))).to.deep.equal({ hit: 2 })
      expect(tally(await look(cache, keys.slice(12), PAGE))).to.deep.equal({ hit: 18 })
    }
    await state(first)
    await first.close()
    const second = await bench.open({ storageDir, ...segments(6) })
    await state(second)
    expect(await keysOf(second)).to.deep.equal(keys.slice(5))
    const filling = numbered('filling', 300)
    await storeAll(second, filling, PAGE)
    const left = await keysOf(second)
    expect(left).to.have.length.lessThan(325)
    await second.close()
    const third = await bench.open({ storageDir, ...segments(6) })
    expect(await keysOf(third)).to.deep.equal(left)
  })

  it('a page that is there already is not written again, one of other bytes, dtype or shape replaces it', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, ...segments() })
    const status = async (value: Parameters<HiCacheNixl['set']>[1]): Promise<string> => (await cache.write([['page', value]]))[0]!.status
    const page = content('page', PAGE)
    expect(await status(page)).to.equal('stored')
    const free = cache.stats().segment_slots_free
    expect(await status(page)).to.equal('already-there')
    expect(cache.stats().segment_slots_free, 'the slot that was taken for it').to.equal(free)
    expect(await status(content('page', PAGE, 1))).to.equal('stored')
    expect(await look(cache, ['page'], PAGE, 1)).to.deep.equal(['hit'])
    expect(await status({ dtype: 'uint8', shape: [2, PAGE / 2], data: content('page', PAGE, 1) })).to.equal('stored')
    expect(await cache.get('page')).to.deep.include({ shape: [2, PAGE / 2] })
    expect(await keysOf(cache)).to.deep.equal(['page'])
    await cache.close()
    // After it was opened again, too.
    const again = await bench.open({ storageDir, ...segments() })
    const [outcome] = await again.write([['page', { dtype: 'uint8', shape: [2, PAGE / 2], data: content('page', PAGE, 1) }]])
    expect(outcome).to.include({ status: 'already-there' })
  })

  it('of a newer version is refused, and nothing of it is touched', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, ...segments() })
    await store(cache, ['page'], PAGE)
    await cache.close()
    const format = join(storageDir, 'segments', 'FORMAT')
    expect(await readFile(format, 'utf8')).to.equal('hicache-nixl segments 1\n')
    await writeFile(format, 'hicache-nixl segments 2\n')
    const files = await filesBelow(storageDir)
    const contents = await Promise.all(files.map(file => readFile(join(storageDir, file))))
    const error = await rejection(bench.open({ storageDir, ...segments() }), 'ERR_CONFIG')
    expect(error.message).to.match(/newer version/)
    expect(await filesBelow(storageDir)).to.deep.equal(files)
    for (const [i, file] of files.entries()) expect((await readFile(join(storageDir, file))).equals(contents[i]!), file).to.equal(true)
    // It is the number alone that was wrong with it.
    await writeFile(format, 'hicache-nixl segments 1\n')
    expect(await look(await bench.open({ storageDir, ...segments() }), ['page'], PAGE)).to.deep.equal(['hit'])
  })

  it('that is no store of ours is refused as well', async () => {
    const storageDir = await bench.directory()
    await mkdir(join(storageDir, 'segments'))
    await writeFile(join(storageDir, 'segments', 'FORMAT'), 'somebody else\'s\n')
    await rejection(bench.open({ storageDir, ...segments() }), 'ERR_CONFIG')
    expect(await filesBelow(storageDir)).to.deep.equal([join('segments', 'FORMAT')])
  })
})

for (const directoryScheme of ['bucketed', 'flat'] as const) {
  describe(`both layouts in one directory, ${directoryScheme}`, () => {
    const bench = workbench('segment')

    it('have pages of their own, and leave those of the other alone', async () => {
      const storageDir = await bench.directory()
      const inFiles = await bench.open({ storageDir, storageLayout: 'file', directoryScheme })
      const inSegments = await bench.open({ storageDir, ...segments(6), directoryScheme })
      const keys = numbered('page', 20)
      await store(inFiles, keys, PAGE)
      expect(tally(await look(inSegments, keys, PAGE))).to.deep.equal({ absent: 20 })
      await store(inSegments, keys, PAGE, 1)
      const files = (await filesBelow(storageDir)).filter(file => !file.startsWith('segments'))
      expect(await keysOf(inFiles)).to.deep.equal(keys)
      expect(await keysOf(inSegments)).to.deep.equal(keys)

      await inSegments.gc()
      await storeAll(inSegments, numbered('filling', 200), PAGE)
      await inSegments.clear()
      expect((await filesBelow(storageDir)).filter(file => !file.startsWith('segments'))).to.deep.equal(files)
      expect(tally(await look(inFiles, keys, PAGE))).to.deep.equal({ hit: 20 })

      await store(inSegments, keys, PAGE, 1)
      const taken = allocatedBelow(join(storageDir, 'segments'))
      await inFiles.gc()
      expect((await inFiles.verify()).pages).to.equal(20)
      expect(await inFiles.clear()).to.deep.equal({ deleted: 20 })
      expect(allocatedBelow(join(storageDir, 'segments'))).to.equal(taken)
      expect(tally(await look(inSegments, keys, PAGE, 1))).to.deep.equal({ hit: 20 })
      await inSegments.close()
      expect(tally(await look(await bench.open({ storageDir, ...segments(6), directoryScheme }), keys, PAGE, 1))).to.deep.equal({ hit: 20 })
    })
  })
}

describe('the size of a page in segments', () => {
  const bench = workbench('segment')

  it('is any, from one byte to more than a segment', async () => {
    const cache = await bench.open(segments())
    for (const length of [1, 4095, 4096, 4097, 3 * KIB, MIB, MIB + 1, 3 * MIB]) {
      const page = bytes(length, length)
      expect(await cache.set(`page-${length}`, page)).to.equal(true)
      expect(same(await cache.get(`page-${length}`), page), `${length} bytes`).to.equal(true)
    }
  })
})
