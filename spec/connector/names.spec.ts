import { expect } from 'chai'
import type { OpenOptions } from '../../lib/index.js'
import { bytes, same } from '../support/content.js'
import { describeDiskLayouts, describeLayouts } from '../support/layouts.js'
import { filesBelow } from '../support/page-files.js'
import { workbench } from '../support/workbench.js'

const V1 = 'cf97adeedb59e05bfd73a2b4c2a8885708c4f4f70c84c64b27120e72ab733b72'

describe('names on the disk', () => {
  const bench = workbench('file')
  const pool = () => ({ buffer: new SharedArrayBuffer(4 * 8192), pageBytes: 8192, pageCount: 4 })
  async function namesOf(options: OpenOptions, store: 'tensor' | 1 | 2): Promise<string[]> {
    const storageDir = await bench.directory()
    const cache = await bench.open({ ...options, storageDir, directoryScheme: 'flat' })
    if (store === 'tensor') await cache.set(V1, bytes(10, 1))
    else {
      cache.registerMemPoolHost({ ...pool(), parts: store })
      expect(await cache.batchSetV1([V1], [0])).to.deep.equal([true])
    }
    return await filesBelow(storageDir)
  }

  it('tensor API: key, model, ranks', async () => {
    expect(await namesOf({ modelName: 'Qwen/Qwen3-8B', tpRank: 1, tpSize: 2 }, 'tensor')).to.deep.equal([`${V1}_Qwen-Qwen3-8B_1_2`])
    expect(await namesOf({}, 'tensor')).to.deep.equal([`${V1}__0_1`])
    expect(await namesOf({ modelName: 'm', tpRank: 0, tpSize: 1, ppRank: 1, ppSize: 2 }, 'tensor')).to.deep.equal([`${V1}_m_0_1_2_1`])
    expect(await namesOf({ modelName: 'm', cpRank: 1, cpSize: 4 }, 'tensor')).to.deep.equal([`${V1}_m_0_1_cp1_4`])
    expect(await namesOf({ modelName: 'deepseek-ai/DeepSeek-V3', isMlaModel: true, tpSize: 8 }, 'tensor')).to.deep.equal([`${V1}_deepseek-ai-DeepSeek-V3`])
  })
  it('page API: keys and values apart, one tensor, and MLA', async () => {
    expect(await namesOf({ modelName: 'Qwen/Qwen3-8B', tpSize: 2 }, 2)).to.deep.equal([`${V1}_Qwen-Qwen3-8B_0_2_k`, `${V1}_Qwen-Qwen3-8B_0_2_v`])
    expect(await namesOf({ modelName: 'Qwen/Qwen3-8B', tpSize: 2 }, 1)).to.deep.equal([`${V1}_Qwen-Qwen3-8B_0_2`])
    expect(await namesOf({ modelName: 'deepseek-ai/DeepSeek-V3', isMlaModel: true }, 1)).to.deep.equal([`${V1}_deepseek-ai-DeepSeek-V3_k`])
  })
  it('buckets and directories are those of the contract', async () => {
    const directories = await bench.directories('a', 'b', 'c')
    const one = await bench.open({ storageDir: directories, modelName: 'Qwen/Qwen3-8B', tpSize: 2 })
    one.registerMemPoolHost({ ...pool(), parts: 2 })
    expect(await one.batchSetV1([V1], [0])).to.deep.equal([true])
    const mla = await bench.open({ storageDir: directories, modelName: 'deepseek-ai/DeepSeek-V3', isMlaModel: true })
    await mla.set(V1, bytes(10, 1))
    expect(await filesBelow(directories[0]!)).to.deep.equal([`6b/${V1}_Qwen-Qwen3-8B_0_2_v`, `cb/${V1}_deepseek-ai-DeepSeek-V3`])
    expect(await filesBelow(directories[1]!)).to.deep.equal([`46/${V1}_Qwen-Qwen3-8B_0_2_k`])
    expect(await filesBelow(directories[2]!)).to.deep.equal([])
  })
  for (const directoryScheme of ['bucketed', 'flat'] as const) {
    it(`${directoryScheme}: pages spread over several directories and are all found again`, async () => {
      const directories = await bench.directories('a', 'b', 'c')
      const keys = Array.from({ length: 60 }, (_, i) => `key-${i}`)
      const cache = await bench.open({ storageDir: directories, directoryScheme, modelName: 'm' })
      expect((await cache.batchSet(keys, keys.map(key => bytes(5000, key)))).every(Boolean)).to.equal(true)
      const counts = await Promise.all(directories.map(async directory => (await filesBelow(directory)).length))
      expect(counts.reduce((a, b) => a + b)).to.equal(60)
      for (const count of counts) expect(count).to.be.greaterThan(5)
      await cache.close()
      const again = await bench.open({ storageDir: directories.join(','), directoryScheme, modelName: 'm' })
      const got = await again.batchGet(keys)
      got.forEach((page, i) => expect(same(page, bytes(5000, keys[i]!))).to.equal(true))
      const found = new Set<string>()
      for await (const { key, directory } of again.entries()) {
        expect(directories).to.include(directory)
        found.add(key)
      }
      expect([...found].sort()).to.deep.equal([...keys].sort())
      expect(await again.clear()).to.deep.equal({ deleted: 60 })
    })
  }
})

describeDiskLayouts('names in several directories', storageLayout => {
  const bench = workbench(storageLayout)

  it('pages spread over several directories and are all found again', async () => {
    const directories = await bench.directories('a', 'b', 'c')
    const keys = Array.from({ length: 60 }, (_, i) => `key-${i}`)
    const cache = await bench.open({ storageDir: directories, modelName: 'm' })
    expect((await cache.batchSet(keys, keys.map(key => bytes(5000, key)))).every(Boolean)).to.equal(true)
    await cache.close()
    const again = await bench.open({ storageDir: directories.join(','), modelName: 'm' })
    const got = await again.batchGet(keys)
    got.forEach((page, i) => expect(same(page, bytes(5000, keys[i]!))).to.equal(true))
    const found: string[] = []
    const used = new Set<string>()
    for await (const { key, directory } of again.entries()) {
      found.push(key)
      used.add(directory)
    }
    expect(found).to.have.members(keys)
    expect([...used]).to.have.members(directories)
    expect(await again.clear()).to.deep.equal({ deleted: 60 })
    expect(await again.batchExists(['key-0'])).to.equal(0)
  })
})

describeLayouts('names', storageLayout => {
  const bench = workbench(storageLayout)

  it('keys of every script, and of 255 bytes with their suffix, are pages of their own', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, modelName: 'm' })
    const keys = ['é', 'e\u0301', '鍵', '🔑', 'with space', '-rf', 'new\nline', '%2F', 'K', 'k', 'x'.repeat(255 - '_m_0_1'.length)]
    expect((await cache.batchSet(keys, keys.map(key => bytes(300, key)))).every(Boolean)).to.equal(true)
    const got = await cache.batchGet(keys)
    got.forEach((page, i) => expect(same(page, bytes(300, keys[i]!)), keys[i]).to.equal(true))
    const listed: string[] = []
    for await (const { key } of cache.entries()) listed.push(key)
    expect(listed).to.have.members(keys)
  })
  it('an MLA model is written by tensor-parallel rank 0 only; the others say so, store nothing, and read its pages', async () => {
    const storageDir = await bench.directory()
    const mla = { storageDir, modelName: 'm', isMlaModel: true, tpSize: 4 }
    const other = await bench.open({ ...mla, tpRank: 2 })
    expect(await other.set('k', bytes(100, 'k'))).to.equal(true)
    expect(await other.write([['k', bytes(100, 'k')]])).to.deep.equal([{ ok: true, status: 'backup-skip', key: 'k', byteLength: 100 }])
    if (storageLayout === 'file') expect(await filesBelow(storageDir)).to.deep.equal([])
    expect(await other.exists('k')).to.equal(false)
    const first = await bench.open({ ...mla, tpRank: 0 })
    expect((await first.write([['k', bytes(100, 'k')]]))[0]).to.include({ status: 'stored' })
    expect(same(await other.get('k'), bytes(100, 'k'))).to.equal(true)
    expect(await other.exists('k')).to.equal(true)
  })
}, { systems: false })
