import { basename } from 'node:path'
import { expect } from 'chai'
import type { HiCacheNixl } from '../../lib/index.js'
import { plan, until } from '../support/planned-faults.js'
import { SegmentFiles } from '../trials/segment-files.js'
import { copyRecord, flip, look, numbered, placeOf, segments, store, tally } from '../support/segments.js'
import { workbench } from '../support/workbench.js'

const PAGE = 20_000
/** The stored key of a cache without a model's name. */
const stored = (key: string): string => `${key}__0_1`

describe('damaged files of segments', () => {
  const bench = workbench('segment')
  const keys = numbered('page', 10)
  let storageDir: string
  let cache: HiCacheNixl
  beforeEach(async () => {
    storageDir = await bench.directory()
    cache = await bench.open({ storageDir, ...segments() })
    expect(tally(await store(cache, keys, PAGE))).to.deep.equal({ stored: 10 })
  })
  const reopen = async (): Promise<void> => {
    await cache.close()
    cache = await bench.open({ storageDir, ...segments() })
  }
  const others = keys.filter(key => key !== keys[4])

  it('a byte of a page: a miss that says so, then nothing is there, and the page can be written again', async () => {
    const { data, dataAt } = placeOf(storageDir, stored(keys[4]!))
    flip(data, dataAt + 12_345)
    expect(await look(cache, [keys[4]!], PAGE)).to.deep.equal(['corrupt'])
    expect(cache.stats().segment_corrupt_pages).to.equal(1)
    expect(await cache.exists(keys[4]!)).to.equal(false)
    expect(await look(cache, [keys[4]!], PAGE)).to.deep.equal(['absent'])
    expect(tally(await look(cache, others, PAGE))).to.deep.equal({ hit: 9 })
    expect(await store(cache, [keys[4]!], PAGE)).to.deep.equal(['stored'])
    expect(tally(await look(cache, keys, PAGE))).to.deep.equal({ hit: 10 })
  })

  it('damage that was read is gone after a restart as well', async () => {
    const { data, dataAt } = placeOf(storageDir, stored(keys[4]!))
    flip(data, dataAt)
    expect(await look(cache, [keys[4]!], PAGE)).to.deep.equal(['corrupt'])
    await reopen()
    expect(await look(cache, [keys[4]!], PAGE)).to.deep.equal(['absent'])
    expect(tally(await look(cache, others, PAGE))).to.deep.equal({ hit: 9 })
  })

  it('bytes behind the end of a page mean nothing', async () => {
    const { data, dataAt, bytes } = placeOf(storageDir, stored(keys[4]!))
    expect(bytes).to.equal(PAGE)
    flip(data, dataAt + PAGE)
    expect(tally(await look(cache, keys, PAGE))).to.deep.equal({ hit: 10 })
  })

  for (const [what, at] of [['its generation', 8], ['the page\'s checksum', 40], ['its key', 100], ['its own checksum', 504]] as const) {
    it(`a byte of a record (${what}): that page is absent after a restart, the others are as they were`, async () => {
      const { index, recordAt } = placeOf(storageDir, stored(keys[4]!))
      await cache.close()
      flip(index, recordAt + at)
      await reopen()
      expect(cache.stats().segment_records_damaged).to.equal(1)
      expect(await look(cache, [keys[4]!], PAGE)).to.deep.equal(['absent'])
      expect(tally(await look(cache, others, PAGE))).to.deep.equal({ hit: 9 })
      expect(await store(cache, [keys[4]!], PAGE)).to.deep.equal(['stored'])
      await reopen()
      expect(tally(await look(cache, keys, PAGE))).to.deep.equal({ hit: 10 })
    })
  }

  it('a record that is copied to another slot is no page there', async () => {
    const { index, recordAt } = placeOf(storageDir, stored(keys[4]!))
    const other = placeOf(storageDir, stored(keys[5]!))
    expect(other.index).to.equal(index)
    await cache.close()
    copyRecord(index, recordAt, other.recordAt)
    await reopen()
    expect(await look(cache, [keys[5]!], PAGE)).to.deep.equal(['absent'])
    expect(tally(await look(cache, keys.filter(key => key !== keys[5]), PAGE))).to.deep.equal({ hit: 9 })
  })
})

describe('failures of the disk while a page is written to a segment', () => {
  const bench = workbench('segment')
  let storageDir: string
  let cache: HiCacheNixl
  let free: number
  const open = async (fsync: 'never' | 'batch' = 'never'): Promise<void> => {
    storageDir = await bench.directory()
    cache = await bench.open({ storageDir, ...segments(undefined, { fsync }) })
    // The segment is there, and half empty: no other one is made meanwhile.
    expect(await store(cache, ['before'], PAGE)).to.deep.equal(['stored'])
    free = cache.stats().segment_slots_free!
  }
  /** What every failure must leave: the page is not there, its slot is used again, and everything else goes on. */
  const expectNoTrace = async (): Promise<void> => {
    expect(await cache.exists('page')).to.equal(false)
    expect(await look(cache, ['page', 'before'], PAGE)).to.deep.equal(['absent', 'hit'])
    await until(() => cache.stats().segment_slots_free === free, 'the slot')
    expect(cache.health().status).to.equal('ok')
    await cache.close()
    expect(new SegmentFiles(storageDir).pages().map(({ key }) => key)).to.deep.equal([stored('before')])
    cache = await bench.open({ storageDir, ...segments() })
    expect(await look(cache, ['page', 'before'], PAGE)).to.deep.equal(['absent', 'hit'])
    expect(await store(cache, ['page'], PAGE)).to.deep.equal(['stored'])
    expect(await look(cache, ['page', 'before'], PAGE)).to.deep.equal(['hit', 'hit'])
  }

  it('the record cannot be written: the page is not stored', async () => {
    await open()
    const end = plan(bench, { point: 'pwritev', match: '.index', errno: 'EIO', times: 1 })
    expect(await store(cache, ['page'], PAGE)).to.deep.equal(['failed EIO'])
    expect(end()).to.deep.equal([1])
    await expectNoTrace()
  })

  it('nor can the record that takes the slot back: it is tried again', async () => {
    await open()
    const end = plan(bench, { point: 'pwritev', match: '.index', errno: 'EIO', times: 2 })
    expect(await store(cache, ['page'], PAGE)).to.deep.equal(['failed EIO'])
    await until(() => cache.stats().tombstones_failed === 1, 'the second failure')
    expect(cache.stats().segment_slots_free, 'out of use meanwhile').to.equal(free - 1)
    await until(() => cache.stats().segment_slots_free === free, 'the slot')
    expect(end()).to.deep.equal([2])
    await expectNoTrace()
  })

  it('an index file that cannot be written keeps its own slots out of use, and no others that were to be free in the same turn', async () => {
    await open()
    expect(await store(cache, ['other'], 3 * PAGE)).to.deep.equal(['stored'])
    expect(await store(cache, ['third'], 6 * PAGE)).to.deep.equal(['stored'])
    const end = plan(bench, { point: 'pwritev', match: basename(placeOf(storageDir, stored('before')).index), errno: 'EIO', times: 0 })
    expect(await store(cache, ['before', 'other'], 6 * PAGE)).to.deep.equal(['stored', 'stored'])
    const taken = (): number => cache.stats().segment_slots! - cache.stats().segment_slots_free!
    await until(() => taken() === 4, 'the slot of the other index file')
    expect(new SegmentFiles(storageDir).pages().map(({ key }) => key).sort()).to.deep.equal(['before', 'before', 'other', 'third'].map(stored))
    expect(end()[0]).to.be.greaterThan(1)
    await until(() => taken() === 3, 'its own slot')
  })

  it('a replaced page whose tombstone could not be written goes with a delete that follows: what was deleted is on the disk in no version', async () => {
    await open()
    const end = plan(bench, { point: 'pwritev', match: basename(placeOf(storageDir, stored('before')).index), errno: 'EIO', times: 1 })
    // Another size, therefore another index file.
    expect(await store(cache, ['before'], 3 * PAGE)).to.deep.equal(['stored'])
    expect(end()).to.deep.equal([1])
    expect(await cache.delete('before')).to.equal(true)
    expect(new SegmentFiles(storageDir).pages()).to.deep.equal([])
    await until(() => cache.stats().segment_slots_free === cache.stats().segment_slots, 'all slots')
    expect(await store(cache, ['page'], PAGE)).to.deep.equal(['stored'])
    expect(new SegmentFiles(storageDir).pages()).to.have.length(1)
  })

  it('a page that was evicted and whose tombstone could not be written goes with a delete, though it cannot be found any more', async () => {
    storageDir = await bench.directory()
    cache = await bench.open({ storageDir, ...segments(6, { evictionPolicy: 'lru', leaseMs: 0 }) })
    const first = numbered('first', 4)
    expect(tally(await store(cache, first, PAGE))).to.deep.equal({ stored: 4 })
    const onDisk = (): string[] => new SegmentFiles(storageDir).pages().map(({ key }) => key).filter(key => first.some(one => stored(one) === key)).sort()
    const end = plan(bench, { point: 'pwritev', match: basename(placeOf(storageDir, stored(first[0]!)).index), errno: 'EIO', times: 0 })
    // Those that go to the same index file fail.
    for (let i = 0; cache.stats().segment_evicted_pages! < 4; i++) await store(cache, [`more-${i}`], PAGE)
    expect(await look(cache, first, PAGE)).to.deep.equal(['absent', 'absent', 'absent', 'absent'])
    expect(onDisk()).to.deep.equal(first.map(stored))
    expect(await cache.delete(first[0]!), 'nothing could be found').to.equal(false)
    expect(onDisk(), 'its tombstone failed again').to.deep.equal(first.map(stored))
    end()
    expect(await cache.delete(first[0]!)).to.equal(false)
    expect(onDisk()).to.not.include(stored(first[0]!))
  })

  it('nor does a write come back that failed once its record was written, and then was deleted', async () => {
    await open('batch')
    const index = basename(placeOf(storageDir, stored('before')).index)
    const end = plan(bench, { point: 'fsync', match: index, errno: 'EIO', times: 1 }, { point: 'pwritev', match: index, errno: 'EIO', times: 0, after: 1 })
    expect(await store(cache, ['page'], PAGE)).to.deep.equal(['failed EIO'])
    expect(new SegmentFiles(storageDir).pages().map(({ key }) => key)).to.include(stored('page'))
    end()
    expect(await cache.delete('page')).to.equal(false)
    expect(new SegmentFiles(storageDir).pages().map(({ key }) => key)).to.deep.equal([stored('before')])
    await until(() => cache.stats().segment_slots_free === free, 'the slot')
  })

  it('nor is a delete answered that came before the tombstone of the replaced page', async () => {
    await open()
    const end = plan(bench, { point: 'pwritev', match: basename(placeOf(storageDir, stored('before')).index), hang: true, times: 0 })
    const replaced = store(cache, ['before'], 3 * PAGE)
    expect(await cache.delete('before', { timeoutMs: 300 })).to.equal(false)
    expect(new SegmentFiles(storageDir).pages()).to.have.length.greaterThan(0)
    expect(end()[0]).to.be.greaterThan(0)
    expect(await replaced).to.deep.equal(['stored'])
    await until(() => cache.stats().segment_slots_free === cache.stats().segment_slots, 'all slots')
    expect(new SegmentFiles(storageDir).pages()).to.deep.equal([])
  })

  it('a page that could not be replaced stays as it was', async () => {
    await open()
    const end = plan(bench, { point: 'pwritev', match: '.index', errno: 'EIO', times: 1 })
    expect(await store(cache, ['before'], PAGE, 1)).to.deep.equal(['failed EIO'])
    expect(end()).to.deep.equal([1])
    expect(await look(cache, ['before'], PAGE)).to.deep.equal(['hit'])
    await cache.close()
    cache = await bench.open({ storageDir, ...segments() })
    expect(await look(cache, ['before'], PAGE)).to.deep.equal(['hit'])
  })

  for (const file of ['.data', '.index']) {
    it(`fsync batch: the ${file} file cannot be synchronised: the page is not stored`, async () => {
      await open('batch')
      const end = plan(bench, { point: 'fsync', match: file, errno: 'EIO', times: 1 })
      expect(await store(cache, ['page'], PAGE)).to.deep.equal(['failed EIO'])
      expect(end()).to.deep.equal([1])
      await expectNoTrace()
    })
  }

  it('fsync batch synchronises what a write is answered for; never does not', async () => {
    await open('batch')
    let end = plan(bench, { point: 'fsync', match: '.data', times: 0 }, { point: 'fsync', match: '.index', times: 0 })
    expect(await store(cache, ['page'], PAGE)).to.deep.equal(['stored'])
    expect(end()).to.deep.equal([1, 1])
    await open('never')
    end = plan(bench, { point: 'fsync', match: '.data', times: 0 }, { point: 'fsync', match: '.index', times: 0 })
    expect(await store(cache, ['page'], PAGE)).to.deep.equal(['stored'])
    expect(end()).to.deep.equal([0, 0])
  })

  it('a segment cannot be made: the write says why; later it can', async () => {
    storageDir = await bench.directory()
    cache = await bench.open({ storageDir, ...segments() })
    const end = plan(bench, { point: 'fallocate', match: '.new', errno: 'EIO', times: 1 })
    const [outcome] = await cache.write([['page', new Uint8Array(PAGE)]])
    expect(outcome!.ok).to.equal(false)
    expect(outcome!.ok ? '' : outcome!.error.message).to.match(/no segment could be made/)
    expect(end()).to.deep.equal([1])
    expect(await look(cache, ['page'], PAGE)).to.deep.equal(['absent'])
    // Housekeeping makes it ask again at once.
    await cache.gc()
    expect(await store(cache, ['page'], PAGE)).to.deep.equal(['stored'])
    expect(await look(cache, ['page'], PAGE)).to.deep.equal(['hit'])
  })
})
