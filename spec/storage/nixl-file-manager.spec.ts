import { existsSync, fstatSync, readdirSync, statSync, writeSync } from 'node:fs'
import { chmod, symlink, writeFile } from 'node:fs/promises'
import { expect } from 'chai'
import { NixlFileManager } from '../../lib/index.js'
import { bytes, same } from '../support/content.js'
import { writePythonPage } from '../support/page-files.js'
import { thrown } from '../support/rejection.js'
import { workbench } from '../support/workbench.js'

const descriptors = (): number => readdirSync('/proc/self/fd').length

describe('NixlFileManager', () => {
  const bench = workbench('file')

  it('makes its directory, for this user alone', async () => {
    const base = `${await bench.directory()}/x/y`
    const files = new NixlFileManager(base)
    expect(files.baseDir).to.equal(base)
    expect(statSync(base).mode & 0o777).to.equal(0o700)
    // Made already: taken as it is.
    expect(new NixlFileManager(base, 'flat').scheme).to.equal('flat')
  })
  it('names files as the contract does', async () => {
    const base = await bench.directory()
    expect(new NixlFileManager(base).getFilePath('key1')).to.equal(`${base}/d1/key1`)
    expect(new NixlFileManager(base, 'flat').getFilePath('key1')).to.equal(`${base}/key1`)
    for (const key of ['', '..', 'a/b', 'nul\0', 'x'.repeat(256), '.hicache-nixl-x']) thrown(() => new NixlFileManager(base).getFilePath(key), 'ERR_KEY')
    thrown(() => new NixlFileManager(base).getFilePath(5 as never), 'ERR_ARGUMENT')
  })
  it('basic file operations: create, open, write, close', async () => {
    const files = new NixlFileManager(await bench.directory())
    const path = files.getFilePath('page')
    expect(files.openFile(path)).to.equal(null)
    expect(files.createFile(path)).to.equal(true)
    expect(statSync(path).mode & 0o777).to.equal(0o600)
    const before = descriptors()
    const descriptor = files.openFile(path)!
    expect(writeSync(descriptor, 'page')).to.equal(4)
    expect(descriptors()).to.equal(before + 1)
    expect(files.closeFile(descriptor)).to.equal(true)
    expect(descriptors()).to.equal(before)
    // Creating it again leaves what is in it.
    expect(files.createFile(path)).to.equal(true)
    expect(statSync(path).size).to.equal(4)
  })
  it('NIXL tuple creation: one a file, open for reading and writing', async () => {
    const files = new NixlFileManager(await bench.directory())
    const paths = ['a', 'b', 'c'].map(key => files.getFilePath(key))
    for (const path of paths) files.createFile(path)
    const tuples = files.filesToNixlTuples(paths)
    expect(tuples.map(([address, length, , path]) => [address, length, path])).to.deep.equal(paths.map(path => [0n, 0, path]))
    for (const [, , descriptor, path] of tuples) {
      expect(fstatSync(descriptor).ino).to.equal(statSync(path).ino)
      expect(files.closeFile(descriptor)).to.equal(true)
    }
    expect(files.filesToNixlTuples([])).to.deep.equal([])
  })
  it('errors in file operations are answers, not crashes', async () => {
    const base = await bench.directory()
    const files = new NixlFileManager(base)
    expect(files.openFile(`${base}/none`)).to.equal(null)
    expect(files.openFile(base), 'a directory').to.equal(null)
    await writeFile(`${base}/file`, '')
    expect(files.createFile(`${base}/file/below`)).to.equal(false)
    expect(files.createFile('/proc/none')).to.equal(false)
    const descriptor = files.openFile(`${base}/file`)!
    expect(files.closeFile(descriptor)).to.equal(true)
    expect(files.closeFile(descriptor), 'twice').to.equal(false)
    for (const bad of [-1, 1e9]) expect(files.closeFile(bad), String(bad)).to.equal(false)
    const error = thrown(() => new NixlFileManager(`${base}/file/below`), 'ERR_IO')
    expect(error.errno).to.equal('ENOTDIR')
    for (const bad of ['', null, undefined, 5] as never[]) thrown(() => new NixlFileManager(bad), 'ERR_ARGUMENT')
  })
  it('of several files all or none are opened', async () => {
    const files = new NixlFileManager(await bench.directory())
    const there = files.getFilePath('there')
    files.createFile(there)
    const before = descriptors()
    const error = thrown(() => files.filesToNixlTuples([there, there, files.getFilePath('none')]), 'ERR_IO')
    expect(error).to.include({ errno: 'ENOENT' })
    expect(error.message).to.include('none')
    expect(descriptors()).to.equal(before)
  })
  it('its paths are those of the cache and of Python', async () => {
    const base = await bench.directory()
    const files = new NixlFileManager(base)
    const cache = await bench.open({ storageDir: base, modelName: 'm' })
    await cache.set('k', bytes(100, 'k'))
    expect(existsSync(files.getFilePath('k_m_0_1'))).to.equal(true)
    expect(await writePythonPage(base, 'p_m_0_1', bytes(5, 'p'))).to.equal(files.getFilePath('p_m_0_1'))
    expect(same(await cache.get('p'), bytes(5, 'p'))).to.equal(true)
  })
  it('a link in a file\'s place is followed only by who opens it: that is the caller\'s own path', async () => {
    const base = await bench.directory()
    const files = new NixlFileManager(base)
    await writeFile(`${base}/target`, 'x')
    await chmod(`${base}/target`, 0o600)
    await symlink(`${base}/target`, `${base}/link`)
    const descriptor = files.openFile(`${base}/link`)!
    expect(fstatSync(descriptor).ino).to.equal(statSync(`${base}/target`).ino)
    files.closeFile(descriptor)
  })
})
