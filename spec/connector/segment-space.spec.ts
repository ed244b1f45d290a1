import { mkdir } from 'node:fs/promises'
import { statfsSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { configSchema } from '../../lib/config/config-schema.generated.js'
import { SegmentFiles } from '../trials/segment-files.js'
import { bounded, skipLoudly, until } from '../support/planned-faults.js'
import { rejection } from '../support/rejection.js'
import { RemoteCache, tmpfsAt } from '../support/remote-cache.js'
import { KIB, allocatedBelow, look, lookAll, mostBytesDuring, numbered, segments, store, storeAll, tally } from '../support/segments.js'
import { MIB, workbench } from '../support/workbench.js'

const PAGE = 64 * KIB

describe('the space of segments', () => {
  const bench = workbench('segment')

  it('the capacity is never exceeded on the disk, and writes go on: pages make room', async () => {
    const storageDir = await bench.directory()
    const capacity = 8 * MIB
    const cache = await bench.open({ storageDir, ...segments(8) })
    const keys = numbered('page', 400)
    let stored: string[] = []
    const most = await mostBytesDuring(storageDir, async () => { stored = await storeAll(cache, keys, PAGE) })
    expect(tally(stored)).to.deep.equal({ stored: 400 })
    expect(most).to.be.at.most(capacity)
    expect(most, 'of which nearly all is used').to.be.greaterThan(capacity - 2 * MIB)
    const found = tally(await lookAll(cache, keys, PAGE))
    expect(Object.keys(found).sort()).to.deep.equal(['absent', 'hit'])
    expect(found.hit! * PAGE, 'what is kept').to.be.within(2 * MIB, capacity)
    expect(await look(cache, keys.slice(-4), PAGE)).to.deep.equal(Array(4).fill('hit'))
    const stats = cache.stats()
    expect(stats.segment_evicted_pages).to.be.at.least(400 - found.hit!)
    expect(stats.segment_bytes).to.be.at.most(capacity)
    expect(stats.segment_pages).to.equal(found.hit)
  })

  it('the least capacity that is taken stores pages, with the default size of segments; less is refused', async () => {
    const storageDir = await bench.directory()
    const { minimum } = configSchema.properties.capacity
    const options = { storageDir, segmentBytes: undefined as never, leaseMs: 0 }
    await rejection(bench.open({ ...options, capacity: minimum - 1 }), 'ERR_ARGUMENT')
    // Opened again, it is as good as new: what one has taken the next one has.
    for (const round of [0, 1, 2]) {
      const cache = await bench.open({ ...options, capacity: minimum })
      const keys = numbered('page', 40, round * 40)
      const most = await mostBytesDuring(storageDir, async () => { expect(tally(await storeAll(cache, keys, PAGE, 4)), `round ${round}`).to.deep.equal({ stored: 40 }) })
      expect(most).to.be.at.most(minimum)
      expect(tally(await lookAll(cache, keys, PAGE)).hit, `kept in round ${round}`).to.be.at.least(8)
      await cache.close()
    }
  })

  it('the capacity holds for what was there before: a store that is opened again does not begin anew', async () => {
    const storageDir = await bench.directory()
    const most = await mostBytesDuring(storageDir, async () => {
      for (const round of [0, 1, 2]) {
        const cache = await bench.open({ storageDir, ...segments(6) })
        expect(tally(await storeAll(cache, numbered('page', 64, round * 64), PAGE))).to.deep.equal({ stored: 64 })
        await cache.close()
      }
    })
    expect(most).to.be.at.most(6 * MIB)
    expect(new SegmentFiles(storageDir).leftovers()).to.deep.equal([])
  })

  it('a store that is opened with a smaller capacity gives back what is beyond it', async () => {
    const storageDir = await bench.directory()
    const before = await bench.open({ storageDir, ...segments(12) })
    const keys = numbered('page', 200)
    await storeAll(before, keys, PAGE)
    await before.close()
    const path = join(storageDir, 'segments')
    expect(allocatedBelow(path)).to.be.greaterThan(8 * MIB)
    const cache = await bench.open({ storageDir, ...segments(8) })
    await until(() => allocatedBelow(path) <= 8 * MIB, 'the smaller store')
    expect(allocatedBelow(path), 'and hardly less').to.be.greaterThan(5 * MIB)
    const found = tally(await lookAll(cache, keys, PAGE))
    expect(found).to.have.all.keys('hit', 'absent')
    const most = await mostBytesDuring(storageDir, async () => {
      expect(tally(await storeAll(cache, numbered('more', 100), PAGE))).to.deep.equal({ stored: 100 })
    })
    expect(most).to.be.at.most(8 * MIB)
  })

  it('a page for which no room can be made is not stored, and the outcome says why; smaller ones are', async () => {
    const cache = await bench.open(segments(6))
    const [outcome] = await cache.write([['large', new Uint8Array(5 * MIB)]])
    expect(outcome).to.include({ ok: false })
    expect(outcome!.ok ? '' : outcome!.error.message).to.match(/capacity of 6291456 bytes/)
    expect(await cache.exists('large')).to.equal(false)
    expect(tally(await storeAll(cache, numbered('small', 20), PAGE))).to.deep.equal({ stored: 20 })
  })

  it('one call writes more than fits: its first pages make room for its last', async () => {
    const cache = await bench.open(segments(6))
    const keys = numbered('page', 300)
    expect(tally(await bounded(store(cache, keys, PAGE), 'the call'))).to.deep.equal({ stored: 300 })
    const found = tally(await lookAll(cache, keys, PAGE))
    expect(found).to.have.all.keys('hit', 'absent')
    expect(found.hit).to.be.within(20, 64)
  })

  it('a page for which no room can be made costs no other page its place', async () => {
    const cache = await bench.open(segments(6))
    const keys = numbered('page', 40)
    await storeAll(cache, keys, PAGE)
    expect(await store(cache, ['large'], 5 * MIB)).to.deep.equal(['rejected ERR_REJECTED'])
    expect(tally(await lookAll(cache, keys, PAGE))).to.deep.equal({ hit: 40 })
  })

  it('without a capacity a tenth of the file system stays free', async function () {
    const directory = join(await bench.directory(), 'disk')
    await mkdir(directory)
    const mounted = tmpfsAt(directory, 'size=48m')
    if ('refusal' in mounted) return skipLoudly(this, `a small file system: it cannot be mounted here: ${mounted.refusal}`)
    const cache = new RemoteCache(bench, mounted.through)
    await cache.open({ storageDir: directory, ...segments() })
    const keys = numbered('page', 1000)
    for (let at = 0; at < keys.length; at += 100) {
      expect(tally(await cache.write({ keys: keys.slice(at, at + 100), bytes: PAGE })), `pages from ${at}`).to.deep.equal({ stored: 100 })
      // The mount is in a namespace of its own, which is seen through its process.
      const { bavail, blocks } = statfsSync(join('/proc', String(cache.process.pid), 'root', directory))
      expect(bavail / blocks, `free after ${at + 100} pages`).to.be.at.least(0.1)
    }
    const { bavail, blocks } = statfsSync(join('/proc', String(cache.process.pid), 'root', directory))
    expect(bavail / blocks, 'and hardly more').to.be.lessThan(0.2)
    expect((await cache.stats()).segment_evicted_pages).to.be.greaterThan(0)
    expect(tally(await cache.read({ keys: keys.slice(-20), bytes: PAGE }))).to.deep.equal({ hit: 20 })
  })

  it('another size of pages is given whole segments of the one that is used less and less', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, ...segments(10) })
    const small = numbered('small', 200)
    const large: string[] = []
    const most = await mostBytesDuring(storageDir, async () => {
      expect(tally(await storeAll(cache, small, PAGE))).to.deep.equal({ stored: 200 })
      // A first segment at once, because there is none; more as the pages of the other size are not used.
      await until(async () => {
        const more = numbered('large', 8, large.length)
        large.push(...more)
        expect(tally(await store(cache, more, 4 * PAGE))).to.deep.equal({ stored: 8 })
        return cache.stats().segments_reassigned! >= 3
      }, 'segments of the other size')
    })
    expect(most).to.be.at.most(10 * MIB)
    for (const [keys, bytes] of [[small, PAGE], [large, 4 * PAGE]] as const) {
      const found = tally(await lookAll(cache, keys, bytes, 8))
      expect(Object.keys(found).sort(), `pages of ${bytes} bytes`).to.deep.equal(['absent', 'hit'])
      expect(found.hit, `pages of ${bytes} bytes`).to.be.at.least(8)
    }
    // What the segments hold now is found again.
    const before = [...await lookAll(cache, small, PAGE), ...await lookAll(cache, large, 4 * PAGE, 8)]
    await cache.close()
    const again = await bench.open({ storageDir, ...segments(10) })
    expect([...await lookAll(again, small, PAGE), ...await lookAll(again, large, 4 * PAGE, 8)]).to.deep.equal(before)
  })

  it('a page larger than any segment takes the place of several, and of no more than it needs', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, ...segments(10) })
    const small = numbered('small', 200)
    await storeAll(cache, small, PAGE)
    const most = await mostBytesDuring(storageDir, async () => { expect(await store(cache, ['large'], 3 * MIB)).to.deep.equal(['stored']) })
    expect(most).to.be.at.most(10 * MIB)
    expect(cache.stats().segments_released).to.be.within(3, 4)
    expect(await look(cache, ['large'], 3 * MIB)).to.deep.equal(['hit'])
    expect(tally(await lookAll(cache, small, PAGE))).to.have.all.keys('hit', 'absent')
  })

  it('a process that has filled the capacity gives another one space', async () => {
    const storageDir = await bench.directory()
    const first = await bench.open({ storageDir, ...segments(12) })
    const keys = numbered('first', 200)
    await storeAll(first, keys, PAGE)
    const second = new RemoteCache(bench, [])
    await second.open({ storageDir, ...segments(12) })
    const most = await mostBytesDuring(storageDir, async () => {
      const written = await bounded(second.write({ keys: numbered('second', 8), bytes: PAGE, timeoutMs: 15_000 }), 'the writes of the second')
      expect(tally(written)).to.deep.equal({ stored: 8 })
    })
    expect(most).to.be.at.most(12 * MIB)
    expect(await second.read({ keys: numbered('second', 8), bytes: PAGE })).to.deep.equal(Array(8).fill('hit'))
    expect(first.stats().segments_released).to.be.at.least(1)
    // The first one lost what it gave back, and no more; it writes on.
    const found = tally(await lookAll(first, keys, PAGE))
    expect(found).to.have.all.keys('hit', 'absent')
    expect(await store(first, ['more'], PAGE)).to.deep.equal(['stored'])
  })
})
