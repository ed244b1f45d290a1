import { runInNewContext } from 'node:vm'
import { expect } from 'chai'
import { HiCacheNixl, type Tensor } from '../../lib/index.js'
import { bytes, bytesOf, same } from '../support/content.js'
import { describeLayouts } from '../support/layouts.js'
import { filesBelow } from '../support/page-files.js'
import { rejection } from '../support/rejection.js'
import { MIB, suiteWorkbench, workbench } from '../support/workbench.js'

const NO_KEYS: readonly unknown[] = [undefined, null, 5, 5n, Symbol('key'), {}, [], ['a'], Buffer.from('a'), () => {}]
const BAD_KEYS: readonly string[] = ['', '.', '..', 'a/b', '/etc/passwd', '../escape', 'nul\0', '\ud800', '.hicache-nixl-tmp-x', 'x'.repeat(256), 'é'.repeat(126)]
const NO_SOURCES: readonly unknown[] = [
  undefined, null, 5, 'bytes', {}, [], [1, 2, 3], new ArrayBuffer(10), new SharedArrayBuffer(10), new Uint8Array(0), Buffer.alloc(0), new DataView(new ArrayBuffer(0)),
  { dtype: 'uint8', shape: [4] }, { dtype: 'uint8', shape: [4], data: [1, 2, 3, 4] }, { dtype: 'uint8', shape: [5], data: new Uint8Array(4) },
  { dtype: 'uint8', shape: [3], data: new Uint8Array(4) }, { dtype: 'uint8', shape: [0], data: new Uint8Array(0) }, { dtype: 'int4', shape: [4], data: new Uint8Array(4) },
  { shape: [4], data: new Uint8Array(4) }, { dtype: 'uint8', shape: 4, data: new Uint8Array(4) }, { dtype: 'uint8', shape: [-4], data: new Uint8Array(4) },
  { dtype: 'uint8', shape: [2, NaN], data: new Uint8Array(4) }, { dtype: 'uint8', shape: ['4'], data: new Uint8Array(4) }, { dtype: 'float32', shape: [4], data: new Uint8Array(4) },
  { type: 'VRAM', deviceId: 0, address: 0x7f00n, length: 4096 }
]

describeLayouts('wrong arguments', storageLayout => {
  const bench = suiteWorkbench(storageLayout)
  let cache: HiCacheNixl
  let storageDir: string
  before(async () => {
    storageDir = await bench.directory()
    cache = await bench.open({ storageDir })
    await cache.set('there', bytes(100, 'there'))
  })
  /** Every call that takes a key. */
  const withKey = (key: never): Promise<unknown>[] => [
    cache.set(key, bytes(5, 5)), cache.get(key), cache.get(key, new Uint8Array(100)), cache.getInArena(key), cache.batchSet([key], [bytes(5, 5)]), cache.batchSet(['new', key], [bytes(5, 5), bytes(5, 5)]),
    cache.batchGet([key]), cache.batchGet(['there', key], [new Uint8Array(100), new Uint8Array(100)]), cache.write([['new', bytes(5, 5)], [key, bytes(5, 5)]]),
    cache.read([['there', new Uint8Array(100)], [key, new Uint8Array(100)]]), cache.exists(key), cache.batchExists(['there', key]), cache.delete(key), cache.stat(key)
  ]

  it('a key that is no string: ERR_ARGUMENT', async () => {
    for (const key of NO_KEYS) for (const call of withKey(key as never)) await rejection(call, 'ERR_ARGUMENT')
    await rejection(cache.read([undefined as never]), 'ERR_ARGUMENT')
  })
  it('a key that cannot name a page: ERR_KEY, with the key', async () => {
    for (const key of BAD_KEYS) for (const call of withKey(key as never)) expect((await rejection(call, 'ERR_KEY')).key).to.equal(key)
  })
  it('a source that is none: ERR_ARGUMENT, and nothing of its batch is stored', async () => {
    for (const source of NO_SOURCES as never[]) {
      await rejection(cache.set('new', source), 'ERR_ARGUMENT')
      await rejection(cache.batchSet(['new', 'new-2'], [bytes(5, 5), source]), 'ERR_ARGUMENT')
      await rejection(cache.write([['new', bytes(5, 5)], ['new-2', source]]), 'ERR_ARGUMENT')
    }
  })
  it('a target that is none: ERR_ARGUMENT, and nothing of its batch is read', async () => {
    for (const target of NO_SOURCES as never[]) {
      if (target === undefined || target === null) continue // Without a target: a tensor of its own.
      const other = new Uint8Array(100)
      await rejection(cache.read<Uint8Array>([['there', other], ['there', target]]), 'ERR_ARGUMENT')
      await rejection(cache.batchGet(['there', 'there'], [other, target]), 'ERR_ARGUMENT')
      expect(other.every(byte => byte === 0)).to.equal(true)
    }
    await rejection(cache.get('there', new Uint8Array(0)), 'ERR_ARGUMENT')
    await rejection(cache.get('there', { dtype: 'uint8', shape: [99], data: new Uint8Array(100) }), 'ERR_ARGUMENT')
    await rejection(cache.get('there', 5 as never), 'ERR_ARGUMENT')
  })
  it('lists that are none, or of different lengths: ERR_ARGUMENT', async () => {
    for (const list of [undefined, null, 5, 'ab', {}, new Set(['a'])] as never[]) {
      await rejection(cache.batchSet(list, []), 'ERR_ARGUMENT')
      await rejection(cache.batchSet(['a'], list), 'ERR_ARGUMENT')
      await rejection(cache.batchGet(list), 'ERR_ARGUMENT')
      await rejection(cache.batchExists(list), 'ERR_ARGUMENT')
    }
    await rejection(cache.batchSet(['a', 'b'], [bytes(1, 1)]), 'ERR_ARGUMENT')
    await rejection(cache.batchSet(['a'], [bytes(1, 1), bytes(1, 1)]), 'ERR_ARGUMENT')
    await rejection(cache.batchGet(['there'], []), 'ERR_ARGUMENT')
    for (const pages of [undefined, null, 5, 'there', {}] as never[]) {
      await rejection(cache.write(pages), 'ERR_ARGUMENT')
      await rejection(cache.read(pages), 'ERR_ARGUMENT')
    }
    for (const page of [undefined, null, 5, 'there', {}, [], ['new']] as never[]) await rejection(cache.write([['new', bytes(5, 5)], page]), 'ERR_ARGUMENT')
    for (const page of [null, 5, {}, []] as never[]) await rejection(cache.read(['there', page]), 'ERR_ARGUMENT')
  })
  it('an iterable that throws ends the call with its own error, and nothing of it is stored', async () => {
    const failing = function * (): Generator<readonly [string, Uint8Array]> {
      yield ['new', bytes(5, 5)]
      throw new RangeError('mine')
    }
    try {
      await cache.write(failing())
      expect.fail('It resolved.')
    } catch (error) {
      expect(error).to.be.instanceOf(RangeError).with.property('message', 'mine')
    }
    expect(await cache.exists('new')).to.equal(false)
  })
  it('messages say what was wrong and which value, never the bytes', async () => {
    expect((await rejection(cache.set('k', 'secret-bytes-as-a-string'.repeat(10) as never), 'ERR_ARGUMENT')).message).to.match(/source of "k" is neither a tensor .* nor a typed array.*got "secret-bytes-as-a-string.{56}" and 160 more characters\.$/)
    expect((await rejection(cache.set('k', { dtype: 'float16', shape: [3], data: new Uint8Array(5) }), 'ERR_ARGUMENT')).message).to.equal('The source of "k" has 5 bytes of data; float16 [3] takes 6.')
    expect((await rejection(cache.set('k', { type: 'VRAM', deviceId: 0, address: 1n, length: 1 }), 'ERR_ARGUMENT')).message).to.match(/GPU memory, which the storage plugin in use does not move\. Copy it to host memory first/)
  })
  it('all that was refused did nothing', async () => {
    if (storageLayout === 'file') expect(await filesBelow(storageDir)).to.have.length(1)
    const stored: string[] = []
    for await (const { key } of cache.entries()) stored.push(key)
    expect(stored).to.deep.equal(['there'])
    expect(cache.stats()).to.include({ queued_requests: 0, in_flight_requests: 0, arena_used_bytes: 0 })
  })
}, { systems: false })

describe('wrong options of open', () => {
  const bench = workbench()

  it('ERR_ARGUMENT or ERR_CONFIG, with a likely spelling', async () => {
    const storageDir = await bench.directory()
    for (const options of [null, 5, 'x', [] as unknown, { unknown: 1 }, { modelname: 'm' }, { modelName: 5 }, { tpRank: 2, tpSize: 2 }, { tpSize: 0 }, { ppRank: -1 }, { isMlaModel: 'yes' },
      { engine: 'uring' }, { logger: {} }, { signal: 5 }, { modelName: 'x'.repeat(200) }, { modelName: 'a\0b' }] as never[]) {
      const given = options as object | null
      await rejection(HiCacheNixl.open(typeof given === 'object' && given !== null && !Array.isArray(given) ? { env: {}, storageDir, ...given } : given as never), 'ERR_ARGUMENT')
    }
    expect((await rejection(HiCacheNixl.open({ env: {}, storageDir, modelname: 'm' } as never), 'ERR_ARGUMENT')).message).to.match(/did you mean modelName\?/)
    for (const options of [{ workers: 0 }, { workers: 65 }, { workers: 1.5 }, { arenaBytes: 1 }, { arenaBytes: 2 ** 40 }, { inFlightBytesMax: 0 }, { whenFull: 'block' }, { timeoutMs: 0 }, { acceptUnverified: 'yes' },
      { storageDir: 5 }, { storageDir: [] }, { directoryScheme: 'deep' }, { storageLayout: 'cloud' }, { capacity: 5 }, { capacity: '1GiB' }, { evictionPolicy: 'fifo' }, { fsync: true },
      { segmentBytes: 2 ** 20 + 1 }, { leaseMs: -1 }, { agent: 'mine' }, { fingerprint: 'x'.repeat(129) }, { queueDepth: 0 }, { threads: 0 }, { plugin: 'tape' }] as never[]) {
      await rejection(HiCacheNixl.open({ env: {}, storageDir, ...(options as object) }), 'ERR_ARGUMENT')
    }
    // What is not the program's own argument is configuration.
    for (const options of [{ config: 5 }, { config: '@/nowhere/config.toml' }, { config: '{' }, { config: { colour: 1 } }, { config: { workers: 0 } }, { env: { SGLANG_HICACHE_NIXL_BACKEND_PLUGIN: 'tape' } }] as never[]) {
      await rejection(HiCacheNixl.open({ env: {}, storageDir, ...(options as object) }), 'ERR_CONFIG')
    }
  })
  it('a signal ends the opening', async () => {
    const error = await rejection(HiCacheNixl.open({ env: {}, storageDir: await bench.directory(), signal: AbortSignal.abort(new Error('no')) }), 'ERR_CANCELLED')
    expect((error.cause as Error).message).to.equal('no')
  })
  it('a plugin that is not there: ERR_PLUGIN_UNAVAILABLE with the reason', async () => {
    for (const plugin of ['3fs', 'gds', 'gds_mt', 'obj']) {
      const error = await rejection(HiCacheNixl.open({ env: {}, storageDir: await bench.directory(), plugin }), 'ERR_PLUGIN_UNAVAILABLE')
      expect(error.message.toLowerCase()).to.include(plugin)
    }
  })
})

describeLayouts('memory that changes under a call', storageLayout => {
  const bench = workbench(storageLayout)

  it('a source that is detached before its promise settles: stored as it was, or failed, never other bytes', async () => {
    const cache = await bench.open()
    const page = bytes(70_000, 'detached')
    const sources = Array.from({ length: 10 }, () => new Uint8Array(page))
    const writing = cache.write(sources.map((source, i) => [`k${i}`, source] as const))
    for (const source of sources) structuredClone(source.buffer, { transfer: [source.buffer] })
    const outcomes = await writing
    for (const outcome of outcomes) {
      const got = await cache.get(outcome.key)
      if (outcome.ok) expect(same(got, page)).to.equal(true)
      else {
        expect(outcome).to.have.nested.property('error.code', 'ERR_ARGUMENT')
        expect(got).to.equal(null)
      }
    }
    // One that was detached before the call is an argument error.
    await rejection(cache.set('k', sources[0]!), 'ERR_ARGUMENT')
    expect(await cache.set('after', page)).to.equal(true)
  })
  it('a target that is detached: failed, and nothing crashes', async () => {
    const cache = await bench.open()
    await cache.set('k', bytes(70_000, 'k'))
    const target = new Uint8Array(70_000)
    const reading = cache.read([['k', target], ['k', new Uint8Array(70_000)]])
    structuredClone(target.buffer, { transfer: [target.buffer] })
    const outcomes = await reading
    expect(outcomes[0]).to.include({ ok: false, status: 'failed' })
    expect(outcomes[0]).to.have.nested.property('error.code', 'ERR_ARGUMENT')
    expect(outcomes[1]!.ok && same(outcomes[1]!.value, bytes(70_000, 'k'))).to.equal(true)
  })
  it('a resizable ArrayBuffer that shrinks, as source and as target', async () => {
    const cache = await bench.open()
    await cache.set('there', bytes(70_000, 'there'))
    const Resizable = ArrayBuffer as unknown as new (length: number, options: { maxByteLength: number }) => ArrayBuffer & { resize(length: number): void }
    const make = (): ArrayBuffer & { resize(length: number): void } => new Resizable(70_000, { maxByteLength: 140_000 })
    const [source, target, tracking, gone] = [make(), make(), make(), make()]
    new Uint8Array(source).set(bytes(70_000, 'source'))
    // Unchanged they serve as any other.
    expect(await cache.set('resizable', new Uint8Array(source))).to.equal(true)
    expect(same(await cache.get('resizable', new Uint8Array(target)), bytes(70_000, 'source'))).to.equal(true)
    const [writing, reading] = [cache.write([['k', new Uint8Array(source, 0, 70_000)]]), cache.read([['there', new Uint8Array(tracking)]])]
    source.resize(100)
    tracking.resize(100)
    const [write] = await writing
    const got = await cache.get('k')
    if (write!.ok) expect(same(got, bytes(70_000, 'source'))).to.equal(true)
    else expect(got).to.equal(null)
    expect((await reading)[0]).to.include({ ok: false, status: 'failed' })
    const view = new Uint8Array(gone, 50_000, 20_000)
    gone.resize(10)
    await rejection(cache.set('gone', view), 'ERR_ARGUMENT')
    await rejection(cache.get('there', view), 'ERR_ARGUMENT')
    // Grown: the page is what the view was at the call.
    const growing = make()
    new Uint8Array(growing).set(bytes(70_000, 'growing'))
    const write2 = cache.write([['growing', new Uint8Array(growing)]])
    growing.resize(140_000)
    expect((await write2)[0]).to.include({ byteLength: 70_000 })
    expect(same(await cache.get('growing'), bytes(70_000, 'growing'))).to.equal(true)
  })
  it('a source that is changed before its promise settles: a whole page of one moment, or none', async () => {
    const cache = await bench.open({ arenaBytes: 64 * MIB })
    const [before, after] = [1, 2]
    // 128 of 256 KiB, copied over several turns of the event loop; and single ones that take more than a turn's share.
    for (const [size, count] of [[256 * 1024, 128], [9 * MIB, 3], [20 * MIB, 1]] as const) {
      const sources = Array.from({ length: count }, () => new Uint8Array(size).fill(before))
      const writing = cache.write(sources.map((source, i) => [`k${i}`, source] as const))
      await new Promise(resolve => { setImmediate(resolve) })
      for (const source of sources) source.fill(after)
      for (const outcome of await writing) {
        const got = await cache.get(outcome.key)
        if (outcome.ok) {
          const [byte] = bytesOf(got)
          expect([before, after]).to.include(byte)
          expect(same(got, new Uint8Array(size).fill(byte!))).to.equal(true)
        } else {
          expect(outcome).to.have.nested.property('error.code', 'ERR_ARGUMENT')
          expect(got).to.equal(null)
        }
      }
      await cache.clear()
    }
  })
  it('an arena source that is changed before its promise settles: what a moment of it looked like, or a miss', async () => {
    const cache = await bench.open({ arenaBytes: 64 * MIB })
    const tensor = cache.allocate({ dtype: 'uint8', shape: [8 * MIB] })
    const view = tensor.data as Uint8Array
    for (let round = 0; round < 8; round++) {
      view.fill(1)
      const writing = cache.set('k', tensor)
      await new Promise(resolve => { setImmediate(resolve) })
      for (let i = 0; i < round; i++) await new Promise(resolve => { setImmediate(resolve) })
      view.fill(2)
      await writing
      const got = await cache.get('k')
      if (got) {
        // Another thread reads it while this one writes, so a moment may have seen the change half made; but nothing that was never there.
        expect((got.data as Uint8Array).every(byte => byte === 1 || byte === 2)).to.equal(true)
      } else {
        // The checksum and the bytes are of different moments.
        expect((await cache.read(['k']))[0]).to.include({ status: 'miss' })
      }
    }
  })
  it('typed arrays, tensors, lists and options of another realm serve as ours', async () => {
    const cache = await bench.open()
    const foreign = runInNewContext(`({
      page: new Uint16Array([1, 2, 3, 65535]), tensor: { dtype: 'float32', shape: [2], data: new Float32Array([1.5, -2]) }, keys: ['a', 'b'], target: new Uint16Array(4),
      shared: new SharedArrayBuffer(8192), options: { timeoutMs: 10000 }, pages: new Map([['c', new Uint8Array([7])]]), DataView: new DataView(new ArrayBuffer(3))
    })`) as { page: Uint16Array; tensor: Tensor; keys: string[]; target: Uint16Array; shared: SharedArrayBuffer; options: object; pages: Map<string, Uint8Array>; DataView: DataView }
    expect(foreign.page).not.to.be.instanceOf(Uint16Array)
    expect(await cache.batchSet(foreign.keys, [foreign.page, foreign.tensor], foreign.options)).to.deep.equal([true, true])
    expect(await cache.get('a', foreign.target)).to.equal(foreign.target)
    expect([...foreign.target]).to.deep.equal([1, 2, 3, 65_535])
    expect(await cache.get('b')).to.deep.include({ dtype: 'float32', shape: [2] })
    expect(await cache.write(foreign.pages)).to.have.length(1)
    expect(await cache.set('d', foreign.DataView)).to.equal(true)
    cache.registerMemPoolHost({ buffer: foreign.shared, pageBytes: 4096, pageCount: 2 })
    new Uint8Array(foreign.shared).fill(9, 0, 4096)
    expect(await cache.batchSetV1(['pool'], [0])).to.deep.equal([true])
    expect(await cache.batchGetV1(['pool'], [1])).to.deep.equal([true])
    expect(new Uint8Array(foreign.shared)[8191]).to.equal(9)
  })
  it('plain shared memory is copied, as source and as target', async () => {
    const cache = await bench.open()
    const shared = new Uint8Array(new SharedArrayBuffer(20_000), 1000, 10_000)
    shared.set(bytes(10_000, 'shared'))
    expect(await cache.set('k', shared)).to.equal(true)
    shared.fill(0)
    expect(await cache.get('k', shared)).to.equal(shared)
    expect(same(shared, bytes(10_000, 'shared'))).to.equal(true)
  })
})
