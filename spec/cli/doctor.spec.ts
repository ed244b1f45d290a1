import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import type { DoctorReport } from '../../lib/cli/commands/doctor.js'
import { cli, cliJson, inDirectory } from './cli-process.js'

describe('command line: doctor', () => {
  it('reports the selection, every plugin and engine with its reason, and the directory', async () => await inDirectory(async root => {
    const store = join(root, 'store')
    mkdirSync(store, { mode: 0o700 })
    const { code, json } = await cliJson<DoctorReport>(['doctor', '--quick', '--storage-dir', store])
    expect(code).to.equal(0)
    expect(json).to.include({ selected: 'posix', agent: 'embedded', ok: true, failure: null })
    expect(json.plugins.map(({ name }) => name)).to.deep.equal(['3fs', 'posix', 'gds_mt', 'gds', 'obj'])
    for (const { usable, reason, remedy } of json.plugins) {
      expect(reason).to.not.equal('')
      if (!usable) expect(remedy).to.not.equal('')
    }
    expect(json.engines.map(({ name }) => name)).to.have.members(['aio', 'io_uring', 'posix_aio'])
    expect(json.engines.filter(({ selected }) => selected).map(({ name }) => name)).to.deep.equal([json.engine])
    for (const { usable, reason, remedy } of json.engines) if (!usable) expect([reason, remedy]).to.not.include('')
    expect(json.directories).to.have.length(1)
    expect(json.directories[0]).to.include({ path: store, realPath: store, exists: true, writable: true, ownerUid: process.geteuid!(), mode: '0700' })
    expect(json.directories[0]!.fileSystem).to.not.equal('unknown')
    expect(json.directories[0]!.freeBytes).to.be.above(0)
    expect(json.software.map(({ name }) => name)).to.deep.equal(['hicache-nixl', 'Node', 'native addon', 'checksum'])
    expect(json.measured).to.equal(null)
    expect(readdirSync(store)).to.deep.equal([])
  }))

  it('measures every usable engine, and leaves nothing behind', async () => await inDirectory(async root => {
    const { code, json } = await cliJson<DoctorReport>(['doctor', '--storage-dir', root])
    expect(code).to.equal(0)
    expect(readdirSync(root)).to.deep.equal([])
    if (!json.directories[0]!.engine) {
      expect(json.measureNote).to.include('not measured')
      return
    }
    for (const { usable, cost } of json.engines) {
      if (!usable) expect(cost).to.equal(null)
      else expect(cost).to.satisfy((one: { readMibPerSecond: number; writeMibPerSecond: number; rounds: number }) => one.readMibPerSecond > 0 && one.writeMibPerSecond > 0 && one.rounds >= 1)
    }
    expect(json.measured!.readRatio).to.be.within(0, 1)
    expect(json.measured!.directory).to.equal(root)
  }))

  it('looks above a directory that is not there, and does not make it', async () => await inDirectory(async root => {
    const store = join(root, 'not', 'there')
    const { code, json } = await cliJson<DoctorReport>(['doctor', '--quick', '--storage-dir', store])
    expect(code).to.equal(0)
    expect(json.directories[0]).to.include({ path: store, exists: false, probed: root, state: 'ok' })
    expect(existsSync(join(root, 'not'))).to.equal(false)
  }))

  it('ends with 1 for a directory that is a file, and says what to do', async () => await inDirectory(async root => {
    writeFileSync(join(root, 'file'), '')
    const { code, json } = await cliJson<DoctorReport>(['doctor', '--quick', '--storage-dir', join(root, 'file'), '--storage-dir', root])
    expect(code).to.equal(1)
    expect(json.directories.map(({ state }) => state)[0]).to.equal('fail')
    expect(json.directories[0]!.problems[0]!.message).to.include('is not a directory')
    expect(json.directories[0]!.problems[0]!.remedy).to.not.equal('')
    expect(json.directories[1]!.state).to.not.equal('fail')
  }))

  it('warns about a directory that others may read or write, and shows where a link leads', async () => await inDirectory(async root => {
    mkdirSync(join(root, 'open'))
    chmodSync(join(root, 'open'), 0o777)
    symlinkSync(join(root, 'open'), join(root, 'link'))
    const { code, json } = await cliJson<DoctorReport>(['doctor', '--quick', '--storage-dir', join(root, 'link')])
    expect(code).to.equal(0)
    expect(json.directories[0]).to.include({ state: 'warn', mode: '0777', realPath: join(root, 'open') })
    expect(json.directories[0]!.problems.map(({ remedy }) => remedy).join()).to.include('chmod 0700')
  }))

  it('ends with 1 for a directory of somebody else', async function () {
    if (process.geteuid!() !== 0) this.skip()
    await inDirectory(async root => {
      mkdirSync(join(root, 'theirs'), { mode: 0o700 })
      chownSync(join(root, 'theirs'), 12345, 12345)
      const { code, json } = await cliJson<DoctorReport>(['doctor', '--quick', '--storage-dir', join(root, 'theirs')])
      expect(code).to.equal(1)
      expect(json.directories[0]).to.include({ state: 'fail', ownerUid: 12345 })
      expect(json.directories[0]!.problems[0]).to.include({ state: 'fail', remedy: `chown 0 ${join(root, 'theirs')}, or give a directory of your own` })
    })
  })

  it('ends with 1 when the plugin that was asked for is not usable, with its reason', async () => await inDirectory(async root => {
    const { code, json } = await cliJson<DoctorReport>(['doctor', '--quick', '--storage-dir', root, '--config', '{"plugin": {"gds": {"active": true}}}'])
    expect(code).to.equal(1)
    expect(json).to.include({ selected: null, ok: false })
    expect(json.failure).to.include('gds')
    expect(json.askedFor).to.deep.equal(['gds'])
    const { code: human, stdout } = await cli(['doctor', '--quick', '--storage-dir', root, '--plugin', 'gds'])
    expect(human).to.equal(1)
    expect(stdout.toString()).to.match(/FAIL {2}gds /)
  }))

  it('takes --engine as the one in use', async () => await inDirectory(async root => {
    const { json: all } = await cliJson<DoctorReport>(['doctor', '--quick', '--storage-dir', root])
    for (const { name, usable } of all.engines) {
      const { code, json } = await cliJson<DoctorReport>(['doctor', '--quick', '--storage-dir', root, '--engine', name])
      if (usable) expect([code, json.engine]).to.deep.equal([0, name])
      else expect([code, json.selected]).to.deep.equal([1, null])
    }
  }))

  it('ends with 2 for a wrong configuration', async () => {
    const { code, stdout, stderr } = await cli(['doctor', '--config', '{"workers": "many"}'])
    expect([code, stdout.toString()]).to.deep.equal([2, ''])
    expect(stderr).to.match(/^hicache-nixl: ERR_CONFIG: <inline>:1:\d+: workers: /)
  })

  it('is readable without colours, which it does not use in a pipe', async () => await inDirectory(async root => {
    const { stdout } = await cli(['doctor', '--quick', '--storage-dir', root])
    const text = stdout.toString()
    // eslint-disable-next-line no-control-regex -- none may be in a pipe
    expect(text).to.not.match(/\u001b/)
    for (const part of ['plugin  posix on ', 'Plugins\n', 'Engines of plugin posix', `Directory ${root}\n`, 'System\n']) expect(text).to.include(part)
    expect(Math.max(...text.split('\n').map(line => line.length))).to.be.at.most(140)
  }))
})
