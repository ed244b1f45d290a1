import { readdirSync, realpathSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { workbench } from '../support/workbench.js'
import { addon, alignedMemory } from './rig.js'

const codeOf = async (promise: Promise<unknown>): Promise<string> => await promise.then(() => 'resolved', (error: unknown) => (error as { code: string }).code)

describe('what the addon finds out about the system', () => {
  const bench = workbench()

  it('probes a directory with real I/O, and leaves nothing there', async () => {
    const directory = await bench.directory()
    const report = await addon.probeDirectory(directory)
    expect(report).to.include({ path: directory, realPath: realpathSync(directory), ownerUid: process.getuid!(), mode: 0o700, writable: true })
    expect(report.fileSystem).to.be.a('string').that.is.not.empty
    expect(report.totalBytes).to.be.greaterThan(report.freeBytes - 1)
    expect(report.direct).to.equal(report.directReason === '')
    expect(report.engine).to.equal(report.engineReason === '')
    expect(readdirSync(directory)).to.deep.equal([])
  })

  it('knows memory file systems: neither O_DIRECT nor an engine, with reasons', async () => {
    const report = await addon.probeDirectory(await bench.directory('/dev/shm'))
    expect(report).to.include({ fileSystem: 'tmpfs', direct: false, engine: false, writable: true })
    expect(report.directReason).to.include('tmpfs')
    expect(report.engineReason).to.include('tmpfs')
  })

  it('follows the directory\'s own link', async () => {
    const directory = await bench.directory()
    const link = join(await bench.directory(), 'link')
    symlinkSync(directory, link)
    expect(await addon.probeDirectory(link)).to.include({ path: link, realPath: realpathSync(directory) })
  })

  it('says that it cannot write', async () => {
    // Nobody can make files there, not even root.
    const report = await addon.probeDirectory('/proc')
    expect(report).to.include({ fileSystem: 'proc', writable: false, direct: false, engine: false })
    expect(report.directReason).to.include('creating a file there')
  })

  it('names what is wrong with a path', async () => {
    const directory = await bench.directory()
    writeFileSync(join(directory, 'file'), '')
    expect(await codeOf(addon.probeDirectory(join(directory, 'nothing')))).to.equal('ENOENT')
    expect(await codeOf(addon.probeDirectory(join(directory, 'file')))).to.equal('ENOTDIR')
    for (const wrong of ['', 'a\0b', 5, undefined]) expect(() => addon.probeDirectory(wrong as never)).to.throw().with.property('code', 'ERR_ARGUMENT')
  })

  it('tries every engine', async () => {
    const engines = await addon.probeEngines()
    expect(engines.map(({ name }) => name)).to.deep.equal(['aio', 'io_uring', 'posix_aio'])
    for (const { usable, reason, remedy } of engines) expect([reason === '', remedy === '' || !usable]).to.deep.equal([usable, true])
  })

  it('locks a file for one holder at a time', async () => {
    const path = join(await bench.directory(), 'lock')
    const held = addon.tryLock(path)
    expect(held).to.be.greaterThan(2)
    expect(statSync(path).mode & 0o777).to.equal(0o600)
    expect(addon.tryLock(path)).to.equal(-1)
    addon.unlock(held)
    const again = addon.tryLock(path)
    expect(again).to.be.greaterThan(2)
    addon.unlock(again)
    // Only what it gave out.
    for (const wrong of [again, 0, 1, 2, -1, 1.5, 'x']) expect(() => addon.unlock(wrong as never)).to.throw().with.property('code', 'ERR_ARGUMENT')
    expect(() => addon.tryLock(join(path, 'below'))).to.throw().with.property('code', 'ENOTDIR')
    symlinkSync(path, `${path}-link`)
    expect(() => addon.tryLock(`${path}-link`)).to.throw().with.property('code', 'ELOOP')
  })

  it('brings memory in and leaves its contents', async () => {
    const bytes = alignedMemory(128)
    bytes.fill(7, 1000, 5000)
    expect(await addon.populate(bytes)).to.be.within(-1, bytes.length)
    expect(bytes.subarray(1000, 5000).every(byte => byte === 7) && bytes[999] === 0 && bytes[5000] === 0).to.equal(true)
    expect(() => addon.populate('x' as never)).to.throw().with.property('code', 'ERR_ARGUMENT')
  })

  it('refuses faults that it does not understand', () => {
    for (const wrong of [undefined, [5], [{}], [{ point: 'open', errno: 'EWHAT' }], [{ point: 'open', after: -1 }], [{ point: 'open', hang: 1 }]]) {
      expect(() => addon.setFaults(wrong as never)).to.throw().with.property('code', 'ERR_ARGUMENT')
    }
    expect(addon.clearFaults()).to.deep.equal([])
  })

  for (const parent of [undefined, '/dev/shm']) {
    it(`measures the device and a loop over files, and cleans up (${parent ?? 'temporary files'})`, async () => {
      const directory = await bench.directory(parent)
      const { direct } = await addon.probeDirectory(directory)
      for (const op of ['write', 'read'] as const) {
        const device = await addon.bench.deviceLimit({ directory, op, pageBytes: 65_536, bytes: 1 << 20, queueDepth: 4 })
        expect(device.bytes).to.equal(1 << 20)
        expect(device.latencyUs.length).to.equal(16)
        for (const replace of [false, true]) {
          const loop = await addon.bench.fileLoop({ directory, op, pageBytes: 65_536, pages: 16, threads: 2, direct, replace })
          expect(loop.bytes).to.equal(1 << 20)
          expect(loop.seconds).to.be.greaterThan(0)
          expect(loop.latencyUs.every(us => us > 0) && loop.latencyUs.length === 16).to.equal(true)
        }
      }
      await addon.bench.cleanup(directory)
      expect(readdirSync(directory)).to.deep.equal([])
      expect(await codeOf(addon.bench.deviceLimit({ directory: join(directory, 'nothing'), op: 'read', pageBytes: 4096, bytes: 4096, queueDepth: 1 }))).to.equal('ENOENT')
      expect(() => addon.bench.deviceLimit({ directory, op: 'read', pageBytes: 5000, bytes: 65_536, queueDepth: 1 })).to.throw().with.property('code', 'ERR_ARGUMENT')
    })
  }
})
