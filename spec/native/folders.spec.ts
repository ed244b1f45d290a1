import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { workbench } from '../support/workbench.js'
import { Rig } from './rig.js'

const CHILD = fileURLToPath(new URL('./child.js', import.meta.url))

describe('folders of the native agent', () => {
  const bench = workbench()
  let rig: Rig
  let directory: string
  beforeEach(async () => {
    directory = await bench.directory()
    rig = new Rig({ directory })
    bench.atEnd(() => rig.end())
  })
  /** Where writers keep them, below the storage directory. */
  const folder = '.hicache-nixl-tmp'
  const temporaries = (): string[] => readdirSync(join(directory, folder))

  it('lists regular files that are no temporaries, with what their records say', async () => {
    rig.fill(0, 5000, 1)
    await rig.one({ op: 'pageWrite', name: 'd1/page', length: 5000, identity: 'whose', meta: 'what' })
    writeFileSync(join(directory, 'd1/python'), 'no record')
    writeFileSync(join(directory, 'd1/.hicache-nixl-tmp-1'), 'left')
    writeFileSync(join(directory, 'd1/broken'), Buffer.concat([Buffer.alloc(4096), Buffer.from('HCNXPAGE\x01\0\0\0'), Buffer.alloc(4084)]))
    mkdirSync(join(directory, 'd1/folder'))
    symlinkSync('python', join(directory, 'd1/link'))
    const files = (await rig.agent.list(0, 'd1', { records: true })).sort((a, b) => a.name < b.name ? -1 : 1)
    expect(files.map(({ name, record, size }) => `${name} ${record} ${size}`)).to.deep.equal(['broken corrupt 8192', 'page whole 12288', 'python none 9'])
    const page = files[1]!
    expect(page).to.include({ payloadLength: 5000 })
    expect([Buffer.from(page.identity!).toString(), Buffer.from(page.meta!).toString()]).to.deep.equal(['whose', 'what'])
    expect(page.allocated).to.be.greaterThan(0)
    expect(page.modifiedAt).to.be.greaterThan(1e12)
    const plain = await rig.agent.list(0, 'd1', { records: false })
    expect(plain.length).to.equal(3)
    expect(plain.every(file => !('record' in file))).to.equal(true)
    expect(await rig.agent.list(0, 'nowhere', { records: true })).to.deep.equal([])
    expect(await rig.agent.list(0, '', { records: true })).to.deep.equal([])
  })

  it('says why a folder cannot be listed', async () => {
    symlinkSync('/', join(directory, 'out'))
    const refusal = await rig.agent.list(0, 'out', { records: false }).then(() => 'listed', (error: unknown) => (error as { code: string }).code)
    expect(refusal).to.be.oneOf(['ELOOP', 'ENOTDIR'])
  })

  it('removes the temporaries of dead writers, never those of living ones', async () => {
    // A writer that stands still between the temporary name and the rename.
    rig.fill(0, 100, 1)
    await rig.one({ op: 'pageWrite', name: 'd1/page', length: 100 })
    const child: ChildProcess = spawn(process.execPath, [CHILD, 'stuck-writer', directory], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    bench.atEnd(() => { child.kill('SIGKILL') })
    await once(child, 'message')
    expect(temporaries().length).to.equal(1)
    writeFileSync(join(directory, folder, '.hicache-nixl-tmp-dead'), 'left')
    writeFileSync(join(directory, folder, 'something else'), 'not ours to remove')
    expect(await rig.agent.sweep(0, folder)).to.equal(1)
    expect(temporaries().length).to.equal(2)
    const exited = once(child, 'exit')
    child.kill('SIGKILL')
    await exited
    expect(await rig.agent.sweep(0, folder)).to.equal(1)
    expect(temporaries()).to.deep.equal(['something else'])
    expect(await rig.one({ op: 'pageRead', name: 'd1/page', at: 4096, length: 100 })).to.include({ status: 'ok' })
    expect(await rig.agent.sweep(0, 'nowhere')).to.equal(0)
  })
})
