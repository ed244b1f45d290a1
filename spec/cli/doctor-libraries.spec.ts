import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import type { DoctorReport } from '../../lib/cli/commands/doctor.js'
import type { LibraryFinding } from '../../lib/cli/doctor/library-findings.js'
import { StandInControl, standInLibrary, type StandInName } from '../support/stand-in.js'
import { cli, cliJson, inDirectory } from './cli-process.js'

const NAMES = ['libcurl', 'usrbio', 'libnixl', 'libcuda', 'libcufile']
const VARIABLES: Readonly<Record<StandInName, string>> = {
  usrbio: 'HICACHE_NIXL_HF3FS_PATH', nixl_capi: 'HICACHE_NIXL_LIBNIXL_PATH', cuda: 'HICACHE_NIXL_CUDA_PATH', cufile: 'HICACHE_NIXL_CUFILE_PATH',
}
/** No machine's own libraries: what is not there cannot be found. */
const NOWHERE = Object.fromEntries(Object.values(VARIABLES).map(variable => [variable, '/nowhere/lib.so']))

function finding(report: DoctorReport, name: string): LibraryFinding {
  const found = report.libraries.find(one => one.name === name)
  if (found === undefined) throw new Error(`doctor says nothing of ${name}`)
  return found
}

async function withStandIns(...names: StandInName[]): Promise<Record<string, string>> {
  const env: Record<string, string> = { ...NOWHERE }
  for (const name of names) env[VARIABLES[name]] = await standInLibrary(name)
  return env
}

async function doctor(root: string, config: object, env: Record<string, string>): Promise<{ code: number | null; json: DoctorReport }> {
  return await cliJson<DoctorReport>(['doctor', '--quick', '--storage-dir', root, '--config', JSON.stringify(config)], { env })
}

describe('doctor: libraries', function () {
  // Stand-ins are compiled by the first that asks.
  this.timeout(240_000)

  it('says of each that is missing where it was looked for, and how to get it; none of that is a fault', async () => await inDirectory(async root => {
    const { code, json } = await doctor(root, {}, NOWHERE)
    expect(code).to.equal(0)
    expect(json.libraries.map(({ name }) => name)).to.deep.equal(NAMES)
    for (const name of NAMES.slice(1)) {
      const found = finding(json, name)
      expect(found, name).to.include({ usable: false, library: '', version: '', wanted: false })
      expect(found.reason, name).to.include('/nowhere/lib.so')
      expect(found.remedy, name).to.match(/HICACHE_NIXL_\w+_PATH/)
    }
    expect(json).to.include({ agent: 'embedded', agentReason: 'the embedded agent has plugin posix' })
  }))

  it('is readable', async () => await inDirectory(async root => {
    const { stdout } = await cli(['doctor', '--quick', '--storage-dir', root], { env: NOWHERE })
    const text = stdout.toString()
    expect(text).to.match(/^agent {3}embedded: the embedded agent has plugin posix$/m)
    for (const name of NAMES.slice(1)) expect(text).to.match(new RegExp(`^ {4}- {3}${name} +not found \\(for .+\\)$`, 'm'))
    expect(text).to.include('/nowhere/lib.so is not there')
    expect(text).to.not.include('cannot open shared object file')
    expect(Math.max(...text.split('\n').map(line => line.length))).to.be.at.most(140)
  }))

  it('fails for what the plugin that is asked for needs', async () => await inDirectory(async root => {
    for (const [plugin, section, libraries] of [['3fs', { mount_point: root }, ['usrbio']], ['gds', {}, ['libcuda', 'libcufile']]] as const) {
      const config = { plugin: { [plugin]: { active: true, ...section } } }
      const { code, json } = await doctor(root, config, NOWHERE)
      expect(code).to.equal(1)
      expect(json.libraries.filter(({ wanted }) => wanted).map(({ name }) => name)).to.deep.equal(libraries)
      expect(json.agentReason).to.equal(null)
      const { stdout } = await cli(['doctor', '--quick', '--storage-dir', root, '--config', JSON.stringify(config)], { env: NOWHERE })
      for (const name of libraries) expect(stdout.toString()).to.match(new RegExp(`^ {2}FAIL {2}${name} `, 'm'))
    }
    const { code, json } = await doctor(root, { agent: 'nixl', plugin: { posix: { active: true } } }, NOWHERE)
    expect(code).to.equal(1)
    expect(json.libraries.filter(({ wanted }) => wanted).map(({ name }) => name)).to.deep.equal(['libnixl'])
  }))

  it('tries a 3FS by a block there and back (stand-in), and leaves nothing', async () => await inDirectory(async root => {
    const env = await withStandIns('usrbio')
    mkdirSync(join(root, '3fs-virt', 'iovs'), { recursive: true })
    const store = join(root, 'store')
    mkdirSync(store, { mode: 0o700 })
    const idle = finding((await doctor(store, {}, env)).json, 'usrbio')
    expect(idle).to.include({ usable: false, library: env[VARIABLES.usrbio] })
    expect(idle.version).to.not.equal('')
    expect(idle.remedy).to.include('plugin.3fs.mount_point')
    const { code, json } = await doctor(store, { plugin: { '3fs': { active: true, mount_point: root } } }, env)
    expect(code).to.equal(0)
    expect(json).to.include({ selected: '3fs', engine: 'usrbio', agentReason: 'the embedded agent has plugin 3fs' })
    expect(finding(json, 'usrbio')).to.include({ usable: true, wanted: true, remedy: '' })
    expect(readdirSync(root).sort()).to.deep.equal(['3fs-virt', 'store'])
    expect(readdirSync(store)).to.deep.equal([])
  }))

  it('makes an agent of NIXL (stand-in), and says what plugins it lists', async () => await inDirectory(async root => {
    const env = await withStandIns('nixl_capi')
    const { code, json } = await doctor(root, { agent: 'nixl', plugin: { posix: { active: true } } }, env)
    expect(code).to.equal(0)
    expect(json).to.include({ selected: 'posix', agent: 'nixl', engine: 'nixl', agentReason: 'the configuration asks for it (agent = "nixl")' })
    const nixl = finding(json, 'libnixl')
    expect(nixl).to.include({ usable: true, wanted: true, library: env[VARIABLES.nixl_capi], remedy: '' })
    for (const plugin of ['POSIX', 'GDS_MT', 'HF3FS']) expect(nixl.reason).to.include(plugin)
    const { json: only } = await doctor(root, { plugin: { FANCY: { active: true } } }, env)
    expect(only).to.include({ selected: 'FANCY', agent: 'nixl', agentReason: 'only NIXL can have plugin FANCY' })
    expect(finding(only, 'libnixl').reason).to.include('its plugin FANCY was set up')
  }))

  it('counts GPUs, and says whether cuFile goes directly (stand-ins)', async () => await inDirectory(async root => {
    const modules = join(root, 'modules')
    writeFileSync(modules, 'nvidia 1 0 - Live 0x0\n')
    const env: Record<string, string> = { ...await withStandIns('cuda', 'cufile'), HICACHE_NIXL_PROC_MODULES: modules }
    const { code, json } = await doctor(root, { plugin: { gds_mt: { active: true } } }, env)
    expect(code).to.equal(0)
    expect(json.selected).to.equal('gds_mt')
    expect(finding(json, 'libcuda')).to.include({ usable: true, library: env[VARIABLES.cuda], version: '12.4', reason: '1 GPU' })
    const cufile = finding(json, 'libcufile')
    expect(cufile).to.include({ usable: true, library: env[VARIABLES.cufile], version: '1.15' })
    expect(cufile.reason).to.match(/^mode compat: .*nvidia-fs is not loaded/)
    expect(json.warnings.join()).to.include('compatibility mode')

    // Nobody asks: it is tried all the same.
    const { json: unasked } = await doctor(root, {}, env)
    expect(unasked.selected).to.equal('posix')
    expect(unasked.plugins.filter(({ usable }) => usable).map(({ name }) => name)).to.deep.equal(['posix', 'gds_mt', 'gds'])

    // Where its driver would wait for ever.
    const { json: hidden } = await doctor(root, {}, { ...env, HICACHE_NIXL_PROC_MODULES: join(root, 'nothing') })
    expect(finding(hidden, 'libcufile')).to.include({ usable: false, library: env[VARIABLES.cufile] })
    expect(finding(hidden, 'libcufile').reason).to.include('without end')
  }))

  it('ends when cuFile\'s driver does not open for ever (stand-in)', async () => await inDirectory(async root => {
    const modules = join(root, 'modules')
    writeFileSync(modules, 'nvidia 1 0 - Live 0x0\n')
    const control = new StandInControl(join(root, 'control'))
    control.set('cufile.fault.open_hang', -1)
    const { json } = await doctor(root, {}, { ...await withStandIns('cuda', 'cufile'), HICACHE_NIXL_PROC_MODULES: modules, HICACHE_STAND_IN_CONTROL: control.path })
    expect(finding(json, 'libcufile').usable).to.equal(false)
    expect(finding(json, 'libcufile').reason).to.include('did not open within')
  }))
})
