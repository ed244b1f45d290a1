import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { NixlBackendConfig } from '../../lib/config/nixl-backend-config.js'
import { STORAGE_DIR_VARIABLE } from '../../lib/config/environment.js'
import { HiCacheNixl } from '../../lib/connector/hicache-nixl.js'
import { chooseLayout } from '../../lib/storage/default-layout.js'
import { addon } from '../native/rig.js'
import { workbench } from '../support/workbench.js'

const HASH = 'ab'.repeat(32)

describe('the layout that nobody chose', () => {
  const fresh = { path: '/a', pageFiles: false }
  const used = { path: '/b', pageFiles: true }

  it('is the segment layout', () => {
    expect(chooseLayout({ configured: null, storageDirVariable: null, directories: [fresh] }).layout).to.equal('segment')
  })
  it('is the file layout where a directory holds page files, and says which', () => {
    const { layout, reason } = chooseLayout({ configured: null, storageDirVariable: null, directories: [fresh, used] })
    expect(layout).to.equal('file')
    expect(reason).to.include('/b').and.not.include('/a')
  })
  it('is the file layout where SGLang\'s variable names the directories, and says so', () => {
    const { layout, reason } = chooseLayout({ configured: null, storageDirVariable: STORAGE_DIR_VARIABLE, directories: [fresh] })
    expect(layout).to.equal('file')
    expect(reason).to.include(STORAGE_DIR_VARIABLE)
  })
  it('is never one that was chosen', () => {
    for (const configured of ['file', 'segment'] as const) {
      for (const directories of [[fresh], [used]]) {
        for (const storageDirVariable of [null, STORAGE_DIR_VARIABLE]) expect(chooseLayout({ configured, storageDirVariable, directories }).layout).to.equal(configured)
      }
    }
  })
  it('the variable counts only where it decides on the directories', () => {
    const env = { [STORAGE_DIR_VARIABLE]: '/tmp/env' }
    expect(NixlBackendConfig.load({ env }).storageDirVariable).to.equal(STORAGE_DIR_VARIABLE)
    expect(NixlBackendConfig.load({ env, overrides: { storageDir: '/tmp/option' } }).storageDirVariable).to.equal(null)
    expect(NixlBackendConfig.load({ env, config: { storage_dir: '/tmp/config' } }).storageDirVariable).to.equal(null)
    expect(NixlBackendConfig.load({ env: {} }).storageDirVariable).to.equal(null)
  })
})

describe('whether a directory holds page files', () => {
  const bench = workbench()
  const holds = async (directory: string): Promise<boolean> => (await addon.probeDirectory(directory)).pageFiles
  const make = async (...names: string[]): Promise<string> => {
    const directory = await bench.directory()
    for (const name of names) {
      if (name.includes('/')) mkdirSync(join(directory, name, '..'), { recursive: true })
      if (name.endsWith('/')) mkdirSync(join(directory, name), { recursive: true })
      else writeFileSync(join(directory, name), 'content')
    }
    return directory
  }

  it('a fresh one does not, nor one with only our own files in it', async () => {
    expect(await holds(await make())).to.equal(false)
    expect(await holds(await make('.hicache-nixl-tmp/.hicache-nixl-tmp-1', '.hicache-nixl-cleaner.lock', '.hicache-nixl-bench/limit', 'segments/FORMAT',
      'segments/1-2-3/0000000a.data', '00/', 'd1/', 'd1/.hicache-nixl-tmp-1'))).to.equal(false)
  })
  it('nor one with other programs\' files', async () => {
    const directory = await make('README', 'model_0_1', 'ab', 'abc/file', 'DE/file', 'folder/00/file', HASH, `${HASH.toUpperCase()}_m_0_1`, 'lost+found/')
    writeFileSync(join(directory, 'blocks'), Buffer.alloc(8192))
    mkdirSync(join(directory, `${HASH}_folder`))
    mkdirSync(join(directory, '00'))
    symlinkSync('../README', join(directory, '00/link'))
    symlinkSync('folder/00', join(directory, '01'))
    expect(await holds(directory)).to.equal(false)
  })
  it('one with a page in a bucket does, whatever its name', async () => {
    expect(await holds(await make('00/', '01/', 'fe/key_m_0_1'))).to.equal(true)
  })
  it('one with a flat page does: by its name, as the Python connector writes it', async () => {
    expect(await holds(await make('README', `${HASH}_Qwen-Qwen3-8B_0_1`))).to.equal(true)
    expect(await holds(await make(`${HASH}_Qwen-Qwen3-8B_0_1_k`))).to.equal(true)
  })
  it('what a cache stored is found, in both schemes, and deleted pages count no more', async () => {
    for (const directoryScheme of ['bucketed', 'flat'] as const) {
      const storageDir = await bench.directory()
      const cache = await HiCacheNixl.open({ env: {}, storageDir, storageLayout: 'file', directoryScheme, workers: 1, arenaBytes: 16 * 2 ** 20 })
      bench.atEnd(async () => await cache.close())
      expect(await holds(storageDir), 'before').to.equal(false)
      expect(await cache.set('key', new Uint8Array(5000).fill(7))).to.equal(true)
      expect(await holds(storageDir), directoryScheme).to.equal(true)
      await cache.delete('key')
      expect(await holds(storageDir), 'after').to.equal(false)
    }
  })
})
