import { expect } from 'chai'
import { readFile, stat } from 'node:fs/promises'
import type { Target, Tensor } from '../../lib/index.js'
import type { DirectoryScheme } from '../../lib/keys/index.js'
import { bytes, same, tensor } from '../support/content.js'
import { filesBelow, pagePath, readAsPython, writePythonPage } from '../support/page-files.js'
import { workbench } from '../support/workbench.js'

const HASH = 'cf97adeedb59e05bfd73a2b4c2a8885708c4f4f70c84c64b27120e72ab733b72'

describe('sharing a store with the Python connector', () => {
  const bench = workbench('file')

  for (const directoryScheme of ['bucketed', 'flat'] as DirectoryScheme[]) {
    it(`${directoryScheme}: it reads what we write: the page's bytes from offset 0`, async () => {
      const storageDir = await bench.directory()
      const cache = await bench.open({ storageDir, directoryScheme, modelName: 'Qwen/Qwen3-8B', tpSize: 2 })
      for (const length of [1, 4096, 70_001]) {
        const page = bytes(length, length)
        await cache.set(`k${length}`, page)
        expect(same(await readAsPython(storageDir, `k${length}_Qwen-Qwen3-8B_0_2`, length, directoryScheme), page)).to.equal(true)
      }
    })
    it(`${directoryScheme}: we read what it writes, unverified`, async () => {
      const storageDir = await bench.directory()
      const cache = await bench.open({ storageDir, directoryScheme, modelName: 'm' })
      for (const length of [1, 4095, 4096, 8192, 70_000]) {
        const page = bytes(length, `python ${length}`)
        await writePythonPage(storageDir, `k${length}_m_0_1`, page, directoryScheme)
        const target = new Uint8Array(length)
        const [into, own] = await cache.read<Target>([[`k${length}`, target], `k${length}`])
        expect(into, `target of ${length}`).to.include({ ok: true, verified: false })
        expect(same(target, page)).to.equal(true)
        expect(own, `tensor of ${length}`).to.include({ ok: true, verified: false })
        const { value } = own as { value: Tensor }
        expect(same(value, page)).to.equal(true)
        expect(value.dtype, 'its dtype is not known').to.equal('uint8')
        expect(await cache.exists(`k${length}`)).to.equal(true)
      }
    })
  }
  it('its file fits a target of any dtype, and misses one of another length', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, modelName: 'm' })
    await writePythonPage(storageDir, 'k_m_0_1', bytes(256, 'py'))
    const outcomes = await cache.read<Target>([['k', tensor('float32', [64], 0)], ['k', new Uint8Array(255)], ['k', new Uint8Array(4096)]])
    expect(outcomes[0]).to.include({ ok: true, verified: false })
    expect(outcomes[1]).to.include({ ok: false, reason: 'length' })
    expect(outcomes[2]).to.include({ ok: false, reason: 'length' })
  })
  it('acceptUnverified: false: its files do not count', async () => {
    const storageDir = await bench.directory()
    await writePythonPage(storageDir, 'k_m_0_1', bytes(5000, 'py'))
    const cache = await bench.open({ storageDir, modelName: 'm', acceptUnverified: false })
    const outcomes = await cache.read<Target>([['k', new Uint8Array(5000)], 'k'])
    expect(outcomes.map(({ status }) => status)).to.deep.equal(['miss', 'miss'])
    expect(await cache.get('k')).to.equal(null)
    expect(await cache.exists('k')).to.equal(false)
    // They are not damage either: they stay, until a write of ours takes their place.
    expect((await readFile(pagePath(storageDir, 'k_m_0_1'))).byteLength).to.equal(5000)
    expect(await cache.set('k', bytes(5000, 'ours'))).to.equal(true)
    expect((await cache.read(['k']))[0]).to.include({ ok: true, verified: true })
  })
  it('its page is replaced by a write of ours, and deleted by name', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, modelName: 'm' })
    await writePythonPage(storageDir, 'k_m_0_1', bytes(5000, 'py'))
    const [outcome] = await cache.write([['k', bytes(5000, 'py')]])
    expect(outcome).to.include({ status: 'stored' })
    expect((await cache.read(['k']))[0]).to.include({ ok: true, verified: true })
    await writePythonPage(storageDir, 'other_m_0_1', bytes(5000, 'py'))
    expect(await cache.delete('other')).to.equal(true)
    expect(await cache.exists('other')).to.equal(false)
  })
  it('a page as long as one of ours with its record, from it, is not taken for ours', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, modelName: 'm' })
    // 4096 + 4096 bytes: as long as a page of ours of 4096.
    const page = bytes(8192, 'eight')
    await writePythonPage(storageDir, 'k_m_0_1', page)
    expect((await cache.read([['k', new Uint8Array(4096)]]))[0]).to.include({ reason: 'length' })
    expect(same(await cache.get('k', new Uint8Array(8192)), page)).to.equal(true)
    expect((await stat(pagePath(storageDir, 'k_m_0_1'))).size).to.equal(8192)
    // And ours as the bytes of a longer page: the record gives it away.
    await cache.set('ours', bytes(4096, 'ours'))
    expect((await cache.read([['ours', new Uint8Array(8192)]]))[0]).to.include({ reason: 'length' })
    expect(same(await cache.get('ours'), bytes(4096, 'ours'))).to.equal(true)
  })
  it('the page API reads its pages, keys and values apart', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, modelName: 'Qwen/Qwen3-8B', tpSize: 2 })
    await writePythonPage(storageDir, `${HASH}_Qwen-Qwen3-8B_0_2_k`, bytes(4096, 'k'))
    await writePythonPage(storageDir, `${HASH}_Qwen-Qwen3-8B_0_2_v`, bytes(4096, 'v'))
    const buffer = new SharedArrayBuffer(2 * 8192)
    cache.registerMemPoolHost({ buffer, pageBytes: 8192, pageCount: 2, parts: 2 })
    expect(await cache.batchExists([HASH])).to.equal(1)
    expect(await cache.batchGetV1([HASH], [1])).to.deep.equal([true])
    expect(same(new Uint8Array(buffer, 8192, 4096), bytes(4096, 'k')) && same(new Uint8Array(buffer, 12_288, 4096), bytes(4096, 'v'))).to.equal(true)
  })
  it('folders are 0700 and files 0600', async () => {
    const storageDir = `${await bench.directory()}/made/for/it`
    const cache = await bench.open({ storageDir, modelName: 'm' })
    await cache.set('k', bytes(10, 1))
    expect((await stat(storageDir)).mode & 0o777).to.equal(0o700)
    const [file] = await filesBelow(storageDir)
    expect((await stat(`${storageDir}/${file!}`)).mode & 0o777).to.equal(0o600)
    expect((await stat(`${storageDir}/${file!.slice(0, 2)}`)).mode & 0o777).to.equal(0o700)
  })
})
