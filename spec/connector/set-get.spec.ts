import { expect } from 'chai'
import type { DType, HiCacheNixl, Tensor } from '../../lib/index.js'
import { DTYPES } from '../../lib/memory/dtype.js'
import { ALL_DTYPES, bytes, bytesOf, same, tensor } from '../support/content.js'
import { describeLayouts } from '../support/layouts.js'
import { MIB, suiteWorkbench, workbench } from '../support/workbench.js'

/** The tests that the Python connector has, and what follows from them. */
describeLayouts('set and get', storageLayout => {
  const bench = suiteWorkbench(storageLayout)
  let cache: HiCacheNixl
  before(async () => { cache = await bench.open({ arenaBytes: 64 * MIB, modelName: 'Qwen/Qwen3-8B' }) })

  it('a single page goes in and comes out', async () => {
    const page = tensor('float32', [10, 10], 'single')
    expect(await cache.set('single', page)).to.equal(true)
    const target = tensor('float32', [10, 10], 'something else')
    expect(await cache.get('single', target)).to.equal(target)
    expect(same(target, page)).to.equal(true)
  })
  it('without a target it comes out as a tensor of its own', async () => {
    const page = tensor('bfloat16', [2, 3, 128], 'own')
    await cache.set('own', page)
    const got = (await cache.get('own'))!
    expect(got.dtype).to.equal('bfloat16')
    expect(got.shape).to.deep.equal([2, 3, 128])
    expect(got.data).to.be.instanceOf(Uint16Array)
    expect(same(got, page)).to.equal(true)
    // Ordinary memory: nobody has to release it, and writing to it changes nothing that is stored.
    expect(got.data.buffer).to.be.instanceOf(ArrayBuffer)
    expect('release' in got).to.equal(false)
    new Uint8Array(got.data.buffer).fill(0)
    expect(same(await cache.get('own'), page)).to.equal(true)
  })
  it('a batch goes in and comes out, an answer a page', async () => {
    const keys = Array.from({ length: 128 }, (_, i) => `batch-${i}`)
    const pages = keys.map(key => tensor('float16', [16, 64], key))
    expect(await cache.batchSet(keys, pages)).to.deep.equal(keys.map(() => true))
    const targets = keys.map(() => tensor('float16', [16, 64], 'empty'))
    expect(await cache.batchGet(keys, targets)).to.deep.equal(targets)
    targets.forEach((target, i) => expect(same(target, pages[i]!), keys[i]).to.equal(true))
    const got = await cache.batchGet([...keys].reverse())
    got.reverse().forEach((tensor, i) => expect(same(tensor, pages[i]!), keys[i]).to.equal(true))
  })
  it('mixed sizes and dtypes in one batch', async () => {
    const pages: Tensor[] = [
      tensor('float32', [4, 4], 'm0'), tensor('int8', [4097], 'm1'), tensor('bfloat16', [2, 8, 128], 'm2'), tensor('float64', [1], 'm3'),
      tensor('bool', [3], 'm4'), tensor('int64', [65_536], 'm5'), tensor('float8_e4m3fn', [1000, 7], 'm6'), tensor('uint8', [1], 'm7')
    ]
    const keys = pages.map((_, i) => `mixed-${i}`)
    expect(await cache.batchSet(keys, pages)).to.deep.equal(keys.map(() => true))
    const targets = pages.map(({ dtype, shape }) => tensor(dtype, shape, 'target'))
    expect(await cache.batchGet(keys, targets)).to.deep.equal(targets)
    const got = await cache.batchGet(keys)
    pages.forEach((page, i) => {
      expect(same(targets[i]!, page), `target ${i}`).to.equal(true)
      expect(same(got[i]!, page), `tensor ${i}`).to.equal(true)
      expect(got[i]!.dtype).to.equal(page.dtype)
      expect(got[i]!.shape).to.deep.equal(page.shape)
    })
  })
  it('every dtype keeps its bits, its name, its shape and its typed array', async () => {
    expect(ALL_DTYPES).to.have.members([
      'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64',
      'float16', 'bfloat16', 'float8_e4m3fn', 'float8_e5m2', 'float32', 'float64', 'bool'
    ] satisfies DType[])
    // 8191 elements: the last block is partial for every element size. The random bytes hold NaNs and denormals, whose bits must stay.
    const pages = ALL_DTYPES.map(dtype => tensor(dtype, [8191], `dtype ${dtype}`))
    const keys = ALL_DTYPES.map(dtype => `dtype-${dtype}`)
    expect(await cache.batchSet(keys, pages)).to.deep.equal(keys.map(() => true))
    const got = await cache.batchGet(keys)
    ALL_DTYPES.forEach((dtype, i) => {
      expect(got[i]).to.include({ dtype })
      expect(got[i]!.shape).to.deep.equal([8191])
      expect(got[i]!.data).to.be.instanceOf(DTYPES[dtype].carrier)
      expect(same(got[i]!, pages[i]!), dtype).to.equal(true)
    })
  })
  it('every length: a byte, around a block, around a page of 64 KiB, megabytes', async () => {
    for (const length of [1, 2, 511, 4095, 4096, 4097, 8191, 8192, 65_535, 65_536, 65_537, MIB, 9 * MIB, 9 * MIB + 1]) {
      const page = bytes(length, length)
      expect(await cache.set(`length-${length}`, page), `set ${length}`).to.equal(true)
      const target = new Uint8Array(length)
      expect(await cache.get(`length-${length}`, target), `get ${length}`).to.equal(target)
      expect(same(target, page), `target of ${length}`).to.equal(true)
      expect(same(await cache.get(`length-${length}`), page), `tensor of ${length}`).to.equal(true)
    }
  })
  it('plain typed arrays, Buffers and DataViews, also in the middle of their buffer', async () => {
    const around = bytes(20_000, 'around')
    const views: [string, NodeJS.ArrayBufferView, DType][] = [
      ['Buffer', Buffer.from(around.subarray(13, 9013)), 'uint8'], ['view', around.subarray(7, 7 + 5000), 'uint8'],
      ['DataView', new DataView(around.buffer as ArrayBuffer, 3, 999), 'uint8'], ['Float32Array', new Float32Array(around.buffer as ArrayBuffer, 8, 1000), 'float32'],
      ['Uint16Array', new Uint16Array(around.buffer as ArrayBuffer, 2, 5), 'uint16'], ['BigInt64Array', new BigInt64Array(around.buffer as ArrayBuffer, 16, 600), 'int64']
    ]
    for (const [name, view, dtype] of views) {
      expect(await cache.set(`view-${name}`, view), name).to.equal(true)
      const got = (await cache.get(`view-${name}`))!
      expect(got.dtype, name).to.equal(dtype)
      expect(same(got, view), name).to.equal(true)
    }
    // A target in the middle of a buffer: nothing beside it is touched.
    const large = bytes(30_000, 'large')
    const before = Buffer.from(large)
    expect(await cache.get('view-view', large.subarray(1001, 6001))).to.not.equal(null)
    expect(same(large.subarray(1001, 6001), around.subarray(7, 5007))).to.equal(true)
    expect(same(large.subarray(0, 1001), before.subarray(0, 1001)) && same(large.subarray(6001), before.subarray(6001))).to.equal(true)
  })
  it('what is not there is null, and write() and read() say so for each page', async () => {
    await cache.batchSet(['there-0', 'there-2'], [bytes(100, 0), bytes(100, 2)])
    expect(await cache.get('nowhere')).to.equal(null)
    expect(await cache.get('nowhere', new Uint8Array(100))).to.equal(null)
    const got = await cache.batchGet(['there-0', 'nowhere', 'there-2'])
    expect(got.map(page => page === null)).to.deep.equal([false, true, false])
    const outcomes = await cache.read(['there-0', 'nowhere', ['there-2', new Uint8Array(100)]])
    expect(outcomes.map(({ ok, status, key }) => ({ ok, status, key }))).to.deep.equal([
      { ok: true, status: 'hit', key: 'there-0' }, { ok: false, status: 'miss', key: 'nowhere' }, { ok: true, status: 'hit', key: 'there-2' }
    ])
    expect(outcomes[1]).to.include({ reason: 'absent' })
    expect(outcomes[0]).to.include({ verified: true })
  })
  it('a later page of the same key replaces the earlier as a whole', async () => {
    for (const [seed, length] of [['a', 70_000], ['b', 70_000], ['c', 5], ['d', 140_000]] as const) {
      expect(await cache.set('again', bytes(length, seed))).to.equal(true)
      expect(same(await cache.get('again'), bytes(length, seed)), seed).to.equal(true)
    }
  })
  it('the same bytes again are already there, and nothing is written; other bytes, or the same with another meaning, are', async () => {
    const page = bytes(8192, 'twice')
    const store = async (source: Tensor | Uint8Array): Promise<string> => (await cache.write([['twice', source]]))[0]!.status
    expect(await store(page)).to.equal('stored')
    const { writtenAt } = (await cache.stat('twice'))!
    expect(await store(page)).to.equal('already-there')
    expect((await cache.stat('twice'))!.writtenAt).to.deep.equal(writtenAt)
    expect(await store({ dtype: 'float16', shape: [4096], data: page })).to.equal('stored')
    expect((await cache.get('twice'))!.dtype).to.equal('float16')
    expect(await store(bytes(8192, 'other'))).to.equal('stored')
  })
  it('outcomes say how many bytes were stored', async () => {
    const outcomes = await cache.write(new Map([['sized-1', bytes(1, 1)], ['sized-2', bytes(70_001, 2)]]))
    expect(outcomes).to.deep.equal([
      { ok: true, status: 'stored', key: 'sized-1', byteLength: 1 }, { ok: true, status: 'stored', key: 'sized-2', byteLength: 70_001 }
    ])
  })
  it('nothing in, nothing out', async () => {
    expect(await cache.write([])).to.deep.equal([])
    expect(await cache.read([])).to.deep.equal([])
    expect(await cache.batchSet([], [])).to.deep.equal([])
    expect(await cache.batchGet([])).to.deep.equal([])
    expect(await cache.batchExists([])).to.equal(0)
  })
  it('a tensor in a Buffer or Uint8Array of the right length serves for every dtype', async () => {
    const raw = Buffer.from(bytes(64, 'raw'))
    expect(await cache.set('raw', { dtype: 'int64', shape: [2, 4], data: raw })).to.equal(true)
    const got = (await cache.get('raw'))!
    expect(got.data).to.be.instanceOf(BigInt64Array)
    expect(bytesOf(got).equals(raw)).to.equal(true)
  })
})

describeLayouts('calls that are not waited for', storageLayout => {
  const bench = workbench(storageLayout)

  it('of writes of one key the last wins, and reads see whole pages', async () => {
    const cache = await bench.open()
    const rounds = Array.from({ length: 40 }, (_, i) => bytes(i % 2 === 0 ? 50_000 : 12_345, i))
    const writes = rounds.map(page => cache.set('contended', page))
    const reads = Array.from({ length: 20 }, () => cache.get('contended'))
    expect(await Promise.all(writes)).to.deep.equal(rounds.map(() => true))
    for (const page of await Promise.all(reads)) {
      if (page) expect(rounds.some(round => round.byteLength === page.data.byteLength && same(page, round))).to.equal(true)
    }
    expect(same(await cache.get('contended'), rounds.at(-1)!)).to.equal(true)
  })
  it('a delete between two writes keeps its place', async () => {
    const cache = await bench.open()
    const results = await Promise.all([cache.set('k', bytes(10, 1)), cache.delete('k'), cache.set('k', bytes(10, 2)), cache.delete('k')])
    expect(results).to.deep.equal([true, true, true, true])
    expect(await cache.get('k')).to.equal(null)
  })
  it('of a key twice in one batch the later wins, and both are answered', async () => {
    const cache = await bench.open()
    expect(await cache.batchSet(['dup', 'other', 'dup'], [bytes(5000, 'first'), bytes(10, 'other'), bytes(6000, 'second')])).to.deep.equal([true, true, true])
    const [a, b] = await cache.batchGet(['dup', 'dup'])
    expect(same(a!, bytes(6000, 'second')) && same(b!, bytes(6000, 'second'))).to.equal(true)
    expect(await cache.batchExists(['dup', 'dup', 'other'])).to.equal(3)
  })
  it('lookups, a read and a write at the same time', async () => {
    const cache = await bench.open()
    const keys = Array.from({ length: 100 }, (_, i) => `page-${i}`)
    await cache.batchSet(keys, keys.map(key => bytes(10_000, key)))
    const fresh = keys.map(key => `${key}-new`)
    const [stored, read, there] = await Promise.all([
      cache.batchSet(fresh, fresh.map(key => bytes(10_000, key))), cache.batchGet(keys), cache.batchExists(keys)
    ])
    expect(stored.every(Boolean)).to.equal(true)
    read.forEach((page, i) => expect(same(page, bytes(10_000, keys[i]!))).to.equal(true))
    expect(there).to.equal(100)
  })
})

describeLayouts('exists', storageLayout => {
  const bench = workbench(storageLayout)

  it('answers the leading run of keys that are there', async () => {
    const cache = await bench.open()
    await cache.batchSet(['0', '1', '3'], ['0', '1', '3'].map(seed => bytes(500, seed)))
    expect(await cache.exists('0')).to.equal(true)
    expect(await cache.exists('2')).to.equal(false)
    expect(await cache.batchExists(['0', '1', '2', '3'])).to.equal(2)
    expect(await cache.batchExists(['2', '0', '1'])).to.equal(0)
    expect(await cache.batchExists(['3', '1', '0'])).to.equal(3)
    expect(await cache.batchExists([])).to.equal(0)
  })
  it('also of more keys than one look-up takes', async () => {
    const cache = await bench.open()
    const keys = Array.from({ length: 300 }, (_, i) => `k${i}`)
    await cache.batchSet(keys, keys.map(key => bytes(10, key)))
    expect(await cache.batchExists(keys)).to.equal(300)
    await cache.delete('k257')
    expect(await cache.batchExists(keys)).to.equal(257)
    await cache.delete('k128')
    expect(await cache.batchExists(keys)).to.equal(128)
  })
})

describeLayouts('reopening', storageLayout => {
  const bench = workbench(storageLayout)

  it('finds everything that was stored', async () => {
    const storageDir = await bench.directory()
    const first = await bench.open({ storageDir, modelName: 'm' })
    const keys = Array.from({ length: 50 }, (_, i) => `k${i}`)
    const pages = keys.map((key, i) => tensor('float16', [i + 1, 33], key))
    await first.batchSet(keys, pages)
    await first.close()
    const second = await bench.open({ storageDir, modelName: 'm' })
    expect(await second.batchExists(keys)).to.equal(50)
    const got = await second.batchGet(keys)
    got.forEach((page, i) => {
      expect(page!.shape).to.deep.equal([i + 1, 33])
      expect(same(page, pages[i]!)).to.equal(true)
    })
  })
})
