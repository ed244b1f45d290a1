import { rm } from 'node:fs/promises'
import { expect } from 'chai'
import { NixlFileManager } from '../../lib/index.js'
import { bytes, fill, same } from '../support/content.js'
import { describeLayouts } from '../support/layouts.js'
import { filesBelow, flipByte, pagePath, readAsPython } from '../support/page-files.js'
import { rejection, thrown } from '../support/rejection.js'
import { workbench } from '../support/workbench.js'

declare const WebAssembly: { readonly Memory: new (descriptor: { initial: number; maximum: number; shared: true }) => { readonly buffer: SharedArrayBuffer } }

const PAGE = 32_768
const COUNT = 16

describeLayouts('the page API', storageLayout => {
  const bench = workbench(storageLayout)
  const memories = {
    'shared WebAssembly.Memory (aligned: zero copy)': () => new WebAssembly.Memory({ initial: 8, maximum: 8, shared: true }).buffer,
    'a plain SharedArrayBuffer (by copy where it is not aligned)': () => new SharedArrayBuffer(COUNT * PAGE)
  }

  for (const [name, buffer] of Object.entries(memories)) {
    for (const parts of [1, 2] as const) {
      it(`${name}, ${parts} part${parts === 2 ? 's' : ''}`, async () => {
        const storageDir = await bench.directory()
        const cache = await bench.open({ storageDir, modelName: 'm' })
        const memory = buffer()
        const page = (index: number): Uint8Array => new Uint8Array(memory, index * PAGE, PAGE)
        const registration = cache.registerMemPoolHost({ buffer: memory, pageBytes: PAGE, pageCount: COUNT, parts })
        expect(registration).to.include({ memoryType: 'DRAM', zeroCopy: true })
        for (let i = 0; i < COUNT; i++) fill(page(i), i)
        const keys = Array.from({ length: 8 }, (_, i) => `hash${i}`)
        expect(await cache.batchSetV1(keys, [0, 1, 2, 3, 4, 5, 6, 7])).to.deep.equal(keys.map(() => true))
        if (storageLayout === 'file') expect(await filesBelow(storageDir)).to.have.length(8 * parts)
        expect(await cache.batchExists([...keys, 'hash9'])).to.equal(8)
        // Into other slots, in another order; the slots beside them keep their bytes.
        expect(await cache.batchGetV1([...keys.slice(0, 4), 'absent', ...keys.slice(4)], [15, 14, 13, 12, 8, 11, 10, 9, 3])).to.deep.equal([true, true, true, true, false, true, true, true, true])
        for (const [slot, content] of [[15, 0], [14, 1], [13, 2], [12, 3], [11, 4], [10, 5], [9, 6], [3, 7], [0, 0], [1, 1], [2, 2], [4, 4], [5, 5]] as const) {
          expect(same(page(slot), bytes(PAGE, content)), `slot ${slot}`).to.equal(true)
        }
        registration.release()
        await rejection(cache.batchSetV1(keys, [0, 1, 2, 3, 4, 5, 6, 7]), 'ERR_ARGUMENT')
      })
    }
  }
  it('an arena tensor as pool; it stays until the registration is released', async () => {
    const cache = await bench.open()
    const pool = cache.allocate({ dtype: 'uint8', shape: [4, 8192] })
    const registration = cache.registerMemPoolHost({ buffer: pool, pageBytes: 8192, pageCount: 4, parts: 2 })
    expect(registration.zeroCopy).to.equal(true)
    const page = (index: number): Uint8Array => new Uint8Array(pool.data.buffer, pool.data.byteOffset + index * 8192, 8192)
    fill(page(0), 'zero')
    pool.release()
    expect(cache.stats()['arena_used_bytes']).to.equal(4 * 8192)
    expect(await cache.batchSetV1(['k'], [0])).to.deep.equal([true])
    expect(await cache.batchGetV1(['k'], [3])).to.deep.equal([true])
    expect(same(page(3), bytes(8192, 'zero'))).to.equal(true)
    registration.release()
    expect(cache.stats()['arena_used_bytes']).to.equal(0)
  })
  it('one pool at a time, and another once it is released, also by dispose', async () => {
    const cache = await bench.open()
    const pool = { buffer: new SharedArrayBuffer(8192), pageBytes: 4096, pageCount: 2 }
    const first = cache.registerMemPoolHost(pool)
    thrown(() => cache.registerMemPoolHost(pool), 'ERR_ARGUMENT')
    first.release()
    first.release()
    const second = cache.registerMemPoolHost(pool)
    first.release()
    expect(await cache.batchSetV1(['k'], [0])).to.deep.equal([true])
    second[Symbol.dispose]()
    await rejection(cache.batchGetV1(['k'], [0]), 'ERR_ARGUMENT')
  })
  it('bad pools and bad indices are refused', async () => {
    const cache = await bench.open()
    const buffer = new SharedArrayBuffer(16_384)
    for (const pool of [
      { buffer, pageBytes: 0, pageCount: 1 }, { buffer, pageBytes: 4096.5, pageCount: 1 }, { buffer, pageBytes: 4096, pageCount: 5 }, { buffer, pageBytes: 4096, pageCount: -1 },
      { buffer, pageBytes: 4096, pageCount: 1, parts: 3 }, { buffer, pageBytes: 4095, pageCount: 1, parts: 2 }, { buffer: new ArrayBuffer(16_384), pageBytes: 4096, pageCount: 1 },
      { buffer: bytes(16_384, 1), pageBytes: 4096, pageCount: 1 }, { buffer: new SharedArrayBuffer(0), pageBytes: 4096, pageCount: 1 }, { buffer: null, pageBytes: 4096, pageCount: 1 },
      { pageBytes: 4096, pageCount: 1 }, {}, null, undefined
    ]) thrown(() => cache.registerMemPoolHost(pool as never), 'ERR_ARGUMENT')
    await rejection(cache.batchSetV1(['k'], [0]), 'ERR_ARGUMENT')
    cache.registerMemPoolHost({ buffer, pageBytes: 4096, pageCount: 4 })
    for (const indices of [[4], [-1], [0.5], ['0'], [null], [0, 1], [], 'no', null]) await rejection(cache.batchSetV1(['k'], indices as never), 'ERR_ARGUMENT')
    await rejection(cache.batchGetV1('k' as never, [0]), 'ERR_ARGUMENT')
    await rejection(cache.batchSetV1(['a/b'], [0]), 'ERR_KEY')
    expect(await cache.batchSetV1([], [])).to.deep.equal([])
  })
  it('of an MLA model the other ranks store nothing and say yes', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, isMlaModel: true, tpRank: 1, tpSize: 2 })
    cache.registerMemPoolHost({ buffer: new SharedArrayBuffer(4096), pageBytes: 4096, pageCount: 1 })
    expect(await cache.batchSetV1(['k'], [0])).to.deep.equal([true])
    if (storageLayout === 'file') expect(await filesBelow(storageDir)).to.deep.equal([])
    expect(await cache.batchGetV1(['k'], [0])).to.deep.equal([false])
  })
})

describeLayouts('registrations', storageLayout => {
  const bench = workbench(storageLayout)

  it('a registered buffer goes as it is; after release by copy, with the same bytes', async () => {
    const cache = await bench.open()
    const memory = new WebAssembly.Memory({ initial: 2, maximum: 2, shared: true }).buffer
    const view = new Uint8Array(memory, 4096, 65_536)
    fill(view, 'registered')
    using registration = cache.registerBuffers([memory])
    expect(registration.tuples[0]![0] % 4096n).to.equal(0n)
    expect(registration.tuples[0]).to.deep.include.members([131_072, 0, ''])
    expect(await cache.set('k', view)).to.equal(true)
    const target = new Uint8Array(memory, 65_536 + 4096, 4096 * 12)
    expect(await cache.get('k', target)).to.equal(null)
    registration.release()
    expect(registration.released).to.equal(true)
    const back = new Uint8Array(memory, 65_536, 65_536)
    expect(await cache.get('k', back)).to.equal(back)
    expect(same(back, bytes(65_536, 'registered'))).to.equal(true)
  })
  it('files are registered by NIXL tuples', async () => {
    const cache = await bench.open()
    const files = new NixlFileManager(await bench.directory())
    const paths = ['a', 'b'].map(key => files.getFilePath(key))
    for (const path of paths) expect(files.createFile(path)).to.equal(true)
    const tuples = files.filesToNixlTuples(paths)
    const registration = cache.registerFiles(tuples)
    expect(registration).to.include({ memoryType: 'FILE', zeroCopy: false })
    expect(registration.tuples).to.deep.equal(tuples)
    registration.release()
    for (const [, , descriptor] of tuples) expect(files.closeFile(descriptor)).to.equal(true)
    for (const bad of [[[0n, 0, -1, 'x']], [[0, 0, 3, 'x']], [['x']], [null], 'no', null]) thrown(() => cache.registerFiles(bad as never), 'ERR_ARGUMENT')
  })
})

describe('the files of the page API', () => {
  const bench = workbench('file')

  it('parts lie in files of their own, as Python names and reads them', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, modelName: 'Qwen/Qwen3-8B', tpSize: 2 })
    const buffer = new SharedArrayBuffer(2 * 6000)
    fill(new Uint8Array(buffer), 'odd sizes')
    cache.registerMemPoolHost({ buffer, pageBytes: 6000, pageCount: 2, parts: 2 })
    expect(await cache.batchSetV1(['h'], [1])).to.deep.equal([true])
    const whole = bytes(12_000, 'odd sizes')
    expect(same(await readAsPython(storageDir, 'h_Qwen-Qwen3-8B_0_2_k', 3000), whole.subarray(6000, 9000))).to.equal(true)
    expect(same(await readAsPython(storageDir, 'h_Qwen-Qwen3-8B_0_2_v', 3000), whole.subarray(9000, 12_000))).to.equal(true)
  })
  it('a page of which one part is missing or damaged is not there, and its neighbours are', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, modelName: 'm' })
    const buffer = new SharedArrayBuffer(4 * 8192)
    fill(new Uint8Array(buffer), 'pool')
    cache.registerMemPoolHost({ buffer, pageBytes: 8192, pageCount: 4, parts: 2 })
    await cache.batchSetV1(['a', 'b', 'c', 'd'], [0, 1, 2, 3])
    await flipByte(pagePath(storageDir, 'b_m_0_1_v'), 100)
    await rm(pagePath(storageDir, 'c_m_0_1_k'))
    expect(await cache.batchGetV1(['a', 'b', 'c', 'd'], [0, 1, 2, 3])).to.deep.equal([true, false, false, true])
    expect(await cache.batchExists(['a', 'b', 'c', 'd'])).to.equal(1)
    expect(await cache.batchExists(['d', 'c'])).to.equal(1)
  })
})
