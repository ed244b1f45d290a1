import { expect } from 'chai'
import type { Failure, HiCacheNixl } from '../../lib/index.js'
import { bytes, bytesOf, fill, same, tensor } from '../support/content.js'
import { describeLayouts, hangPages } from '../support/layouts.js'
import { rejection, thrown } from '../support/rejection.js'
import { currentSystem } from '../support/systems.js'
import { MIB, workbench } from '../support/workbench.js'

const byteView = (view: NodeJS.ArrayBufferView): Uint8Array => new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
const held = (cache: HiCacheNixl): number => cache.stats()['arena_held_bytes']!
const used = (cache: HiCacheNixl): number => cache.stats()['arena_used_bytes']!

describeLayouts('arena tensors', storageLayout => {
  const bench = workbench(storageLayout, { hangs: true })

  it('allocate: a tensor on a page boundary of the arena, as source and as target', async () => {
    const cache = await bench.open()
    const source = cache.allocate({ dtype: 'bfloat16', shape: [3, 5, 7] })
    expect(source).to.include({ dtype: 'bfloat16', released: false })
    expect(source.shape).to.deep.equal([3, 5, 7])
    expect(source.data).to.be.instanceOf(Uint16Array)
    expect(source.data.buffer).to.be.instanceOf(currentSystem()?.arenaBuffer ?? SharedArrayBuffer)
    expect(source.data.byteLength).to.equal(210)
    expect(source.data.byteOffset % 4096).to.equal(0)
    fill(byteView(source.data), 'arena')
    expect(await cache.set('k', source)).to.equal(true)
    const target = cache.allocate({ dtype: 'bfloat16', shape: [3, 5, 7] })
    expect(await cache.get('k', target)).to.equal(target)
    expect(same(target, bytes(210, 'arena'))).to.equal(true)
    source.release()
    target.release()
    expect(held(cache)).to.equal(0)
    expect(used(cache)).to.equal(0)
  })
  it('getInArena: the page in the arena, with its dtype and shape', async () => {
    const cache = await bench.open()
    for (const length of [1, 4096, 4097, 70_000]) {
      await cache.set('k', tensor('int8', [length], length))
      const page = (await cache.getInArena('k'))!
      expect(page).to.include({ dtype: 'int8', released: false })
      expect(page.data).to.be.instanceOf(Int8Array)
      expect(same(page, bytes(length, length))).to.equal(true)
      expect(held(cache)).to.equal(Math.ceil(length / 4096) * 4096)
      page.release()
      expect(held(cache) + used(cache)).to.equal(0)
    }
    expect(await cache.getInArena('nothing')).to.equal(null)
    expect(used(cache)).to.equal(0)
  })
  it('release is idempotent, and what is disposed of is released', async () => {
    const cache = await bench.open()
    const one = cache.allocate({ dtype: 'uint8', shape: [4096] })
    one.release()
    const other = cache.allocate({ dtype: 'uint8', shape: [4096] })
    one.release()
    one[Symbol.dispose]()
    expect(one.released).to.equal(true)
    expect(other.released).to.equal(false)
    expect(held(cache)).to.equal(4096)
    other[Symbol.dispose]()
    expect(held(cache)).to.equal(0)
  })
  it('release during a transfer waits for it: the memory is no other\'s until then', async () => {
    const cache = await bench.open()
    await cache.set('slow', bytes(8192, 'slow'))
    const letGo = hangPages(bench, cache, 'slow')
    const target = cache.allocate({ dtype: 'uint8', shape: [8192] })
    const source = cache.allocate({ dtype: 'uint8', shape: [4096] })
    fill(byteView(source.data), 'source')
    const read = cache.get('slow', target)
    const write = cache.set('slow-too', source)
    target.release()
    source.release()
    expect(held(cache)).to.equal(0)
    expect(used(cache)).to.equal(8192 + 4096)
    // Whoever allocates meanwhile gets other memory.
    const others = Array.from({ length: 20 }, () => cache.allocate({ dtype: 'uint8', shape: [4096] }))
    for (const { data } of others) {
      for (const busy of [target.data, source.data]) {
        expect(data.byteOffset >= busy.byteOffset + busy.byteLength || data.byteOffset + data.byteLength <= busy.byteOffset).to.equal(true)
      }
    }
    letGo()
    expect(await read).to.equal(target)
    expect(await write).to.equal(true)
    for (const other of others) other.release()
    expect(used(cache)).to.equal(0)
    expect(same(await cache.get('slow-too'), bytes(4096, 'source'))).to.equal(true)
  })
  it('a released tensor is refused, as source and as target', async () => {
    const cache = await bench.open()
    const gone = cache.allocate({ dtype: 'uint8', shape: [4096] })
    gone.release()
    await rejection(cache.set('k', gone), 'ERR_ARGUMENT')
    await rejection(cache.get('k', gone), 'ERR_ARGUMENT')
    await rejection(cache.set('k', gone.data), 'ERR_ARGUMENT')
    // Also where the memory has another owner by now, and the view reaches over it.
    const small = cache.allocate({ dtype: 'uint8', shape: [100] })
    await rejection(cache.set('k', gone.data), 'ERR_ARGUMENT')
    small.release()
  })
  it('views of an arena tensor: aligned ones go as they are, others by a copy, with the same bytes', async () => {
    const cache = await bench.open()
    const whole = cache.allocate({ dtype: 'uint8', shape: [5 * 4096 + 10] })
    const view = byteView(whole.data)
    fill(view, 'views')
    const parts: [string, number, number][] = [['aligned', 4096, 12_288], ['to the end', 4096, 5 * 4096 + 10], ['unaligned', 10, 9000], ['one byte', 4097, 4098], ['whole', 0, 5 * 4096 + 10]]
    for (const [key, from, to] of parts) expect(await cache.set(key, view.subarray(from, to)), key).to.equal(true)
    const expected = Buffer.from(bytesOf(view))
    const target = cache.allocate({ dtype: 'uint8', shape: [5 * 4096 + 10] })
    for (const [key, from, to] of parts) {
      const into = byteView(target.data)
      into.fill(0)
      expect(await cache.get(key, into.subarray(from, to)), key).to.not.equal(null)
      expect(same(into.subarray(from, to), expected.subarray(from, to)), key).to.equal(true)
      expect(into.subarray(0, from).every(byte => byte === 0) && into.subarray(to).every(byte => byte === 0), `${key}: nothing beside it`).to.equal(true)
    }
  })
  it('callers hold two thirds of the arena at most: then allocate throws, and plain pages still move', async () => {
    const cache = await bench.open({ arenaBytes: 16 * MIB })
    const tensors = [cache.allocate({ dtype: 'uint8', shape: [10 * MIB] })]
    const error = thrown(() => cache.allocate({ dtype: 'uint8', shape: [MIB] }), 'ERR_REJECTED')
    expect(error.message).to.match(/Release arena tensors, or raise arenaBytes/)
    thrown(() => cache.allocate({ dtype: 'uint8', shape: [2 ** 40] }), 'ERR_REJECTED')
    expect(await cache.set('k', bytes(4 * MIB, 'k'))).to.equal(true)
    expect(same(await cache.get('k'), bytes(4 * MIB, 'k'))).to.equal(true)
    for (const tensor of tensors) tensor.release()
    cache.allocate({ dtype: 'uint8', shape: [10 * MIB] }).release()
  })
  it('an arena that held tensors fill is a rejection, never a wait', async () => {
    const cache = await bench.open({ arenaBytes: 16 * MIB })
    await cache.set('page', bytes(4 * MIB, 'page'))
    const tensor = cache.allocate({ dtype: 'uint8', shape: [10 * MIB] })
    const [write] = await cache.write([['k', bytes(7 * MIB, 1)]])
    expect(write).to.include({ status: 'rejected' })
    const { error } = write as Failure
    expect(error.code).to.equal('ERR_REJECTED')
    expect(error.message).to.match(/callers hold 10485760 .*release arena tensors/)
    // What a read is handed in the arena counts as held too.
    const pages = []
    for (;;) {
      const [outcome] = await Promise.all([cache.getInArena('page')])
      if (outcome === null) break
      pages.push(outcome)
      expect(pages.length).to.be.lessThan(5)
    }
    for (const page of pages) page.release()
    tensor.release()
    expect(await cache.set('k', bytes(7 * MIB, 1))).to.equal(true)
  })
  it('allocate refuses what is no tensor', async () => {
    const cache = await bench.open()
    for (const spec of [{ dtype: 'float12', shape: [1] }, { dtype: 'uint8', shape: [] as number[] }, { dtype: 'uint8', shape: [0] }, { dtype: 'uint8', shape: [-1] }, { dtype: 'uint8', shape: [1.5] },
      { dtype: 'uint8', shape: 7 }, { dtype: 'uint8', shape: [2 ** 52, 2 ** 52] }, { dtype: 'uint8', shape: new Array<number>(17).fill(1) }, {}, null, undefined, 4]) {
      // A tensor without dimensions is one element: a scalar.
      if (spec !== null && typeof spec === 'object' && Array.isArray(spec.shape) && spec.shape.length === 0) cache.allocate(spec as never).release()
      else thrown(() => cache.allocate(spec as never), 'ERR_ARGUMENT')
    }
    expect(held(cache)).to.equal(0)
  })
})
