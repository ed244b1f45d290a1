import { expect } from 'chai'
import { NixlBackendConfig } from '../../lib/config/nixl-backend-config.js'
import { PLUGIN_NAMES, type PluginName } from '../../lib/config/schema-facts.js'
import { HiCacheError } from '../../lib/error.js'
import { NixlBackendSelection } from '../../lib/selection/nixl-backend-selection.js'
import type { PluginProbe } from '../../lib/selection/plugin-probe.js'
import type { EngineName, EngineReport } from '../../lib/transfer/native-binding.js'

/** What the addon answers about its engines, for the order in which they are taken; trying them really is the native specs' matter. */
const engines = (...usable: EngineName[]) => ({
  probeEngines: (): Promise<EngineReport[]> => Promise.resolve((['io_uring', 'posix_aio', 'aio'] as const).map((name) =>
    usable.includes(name) ? { name, usable: true, reason: 'works', remedy: '' } : { name, usable: false, reason: `${name} is forbidden`, remedy: `allow ${name}` })),
})
/** Plugins that are there, as later versions will have them. */
const present = (...names: PluginName[]): PluginProbe[] => PLUGIN_NAMES.map((name) => ({
  name, probe: () => Promise.resolve(names.includes(name) ? { usable: true, reason: `${name} works`, remedy: '', engine: `${name}-engine` } : { usable: false, reason: `no ${name} here`, remedy: `get ${name}` }),
}))
const load = (config: object = {}, rest: object = {}): NixlBackendConfig => NixlBackendConfig.load({ config, env: {}, ...rest })
const select = (config: NixlBackendConfig, ...names: PluginName[]): Promise<NixlBackendSelection> => NixlBackendSelection.select(config, engines(), present(...names))
async function refused(selection: Promise<unknown>): Promise<HiCacheError> {
  try {
    await selection
  } catch (error) {
    if (HiCacheError.is(error)) return error
    throw error
  }
  throw new Error('a plugin was selected')
}

describe('selection of a plugin', () => {
  it('auto: the first usable in the order 3FS, POSIX, GDS_MT, GDS, OBJ', async () => {
    expect(PLUGIN_NAMES).to.deep.equal(['3fs', 'posix', 'gds_mt', 'gds', 'obj'])
    for (let first = 0; first < PLUGIN_NAMES.length; first++) {
      const selection = await select(load(), ...PLUGIN_NAMES.slice(first).reverse())
      expect(selection).to.include({ plugin: PLUGIN_NAMES[first], engine: `${PLUGIN_NAMES[first]!}-engine`, source: 'auto', agent: 'embedded' })
      // What was skipped keeps its reason.
      for (const skipped of PLUGIN_NAMES.slice(0, first)) {
        expect(selection.plugins.find(({ name }) => name === skipped)).to.deep.include({ usable: false, reason: `no ${skipped} here`, remedy: `get ${skipped}` })
      }
      expect(selection.plugins.map(({ name }) => name)).to.deep.equal(PLUGIN_NAMES)
    }
  })
  it('auto: a section without active only brings its keys', async () => {
    expect(await select(load({ plugin: { obj: { bucket: 'b' } } }), 'posix', 'obj')).to.include({ plugin: 'posix', source: 'auto' })
  })
  it('an active section is taken, whatever else is there', async () => {
    expect(await select(load({ plugin: { obj: { active: 'True' } } }), '3fs', 'posix', 'obj')).to.include({ plugin: 'obj', source: 'configuration' })
  })
  it('several active sections: the first usable in the order, with a warning', async () => {
    const config = load({ plugin: { obj: { active: true }, gds: { active: true }, posix: { active: false } } })
    const selection = await select(config, 'posix', 'gds', 'obj')
    expect(selection.plugin).to.equal('gds')
    expect(selection.warnings.join()).to.include('several plugin sections are active (gds, obj)')
    const skipping = await select(config, 'posix', 'obj')
    expect(skipping.plugin).to.equal('obj')
    expect(skipping.plugins.find(({ name }) => name === 'gds')!.reason).to.equal('no gds here')
  })
  it('no active section is usable: all the reasons, and never a plugin that nobody asked for', async () => {
    const error = await refused(select(load({ plugin: { '3fs': { active: true }, gds: { active: true } } }), 'posix', 'obj'))
    expect(error.code).to.equal('ERR_PLUGIN_UNAVAILABLE')
    expect(error.message).to.equal('of the plugins whose sections are active (3fs, gds), none is usable: 3fs: no 3fs here (get 3fs); gds: no gds here (get gds)')
  })
  it('the selector decides when no section is active, and says who selected', async () => {
    expect(await select(load({ plugin: 'obj' }), 'posix', 'obj')).to.include({ plugin: 'obj', source: 'configuration' })
    expect(await select(load({}, { env: { SGLANG_HICACHE_NIXL_BACKEND_PLUGIN: 'OBJ' } }), 'posix', 'obj')).to.include({ plugin: 'obj', source: 'environment' })
    expect(await select(load({}, { plugin: 'OBJ' }), 'posix', 'obj')).to.include({ plugin: 'obj', source: 'option' })
    const error = await refused(select(load({ plugin: 'gds' }), 'posix'))
    expect(error.message).to.equal('plugin gds, selected by the configuration, is not usable: gds: no gds here (get gds)')
  })
  it('an active section goes before the selector, with a warning', async () => {
    const config = load({ plugin: { posix: { active: true } } }, { env: { SGLANG_HICACHE_NIXL_BACKEND_PLUGIN: 'OBJ' } })
    const selection = await select(config, 'posix', 'obj')
    expect(selection).to.include({ plugin: 'posix', source: 'configuration' })
    expect(selection.warnings.join()).to.include('selection of plugin obj has no effect')
  })
  it('a section with active = false is never taken', async () => {
    const selection = await select(load({ plugin: { '3fs': { active: 'false' } } }), '3fs', 'posix')
    expect(selection.plugin).to.equal('posix')
    expect(selection.plugins[0]).to.deep.include({ name: '3fs', usable: false, reason: 'plugin.3fs.active = false switches it off' })
    const error = await refused(select(load({ selector: 'posix', plugin: { posix: { active: false } } }), 'posix'))
    expect(error.message).to.include('active = false switches it off')
  })
  it('nothing usable: every reason and remedy', async () => {
    const error = await refused(select(load()))
    expect(error.code).to.equal('ERR_PLUGIN_UNAVAILABLE')
    for (const name of PLUGIN_NAMES) expect(error.message).to.include(`${name}: no ${name} here (get ${name})`)
  })
  it('a probe that throws takes only its own plugin with it', async () => {
    const probes = present('posix').map((probe) => probe.name === '3fs' ? { ...probe, probe: () => Promise.reject(new Error('boom')) } : probe)
    const selection = await NixlBackendSelection.select(load(), engines(), probes)
    expect(selection.plugin).to.equal('posix')
    expect(selection.plugins[0]!.reason).to.equal('trying it failed: boom')
  })
  it('agent = "nixl" is refused without the bridge to it, unknown sections are reported', async () => {
    const config = load({ agent: 'nixl', plugin: { other: { active: true } } })
    expect((await refused(select(config, 'posix'))).code).to.equal('ERR_PLUGIN_UNAVAILABLE')
    expect((await NixlBackendSelection.report(config, engines(), present('posix'))).at(-1)).to.deep.include({ name: 'other', usable: false })
  })
  it('with NIXL: obj, and plugins that move objects alone, say so; empty parameters of obj are left out', async () => {
    const asked: Record<string, Readonly<Record<string, string>>> = {}
    const nixl = {
      probe: (name: string, parameters: Readonly<Record<string, string>>) => {
        asked[name] = parameters
        return Promise.resolve({ usable: true, library: 'libnixl_capi.so', version: '', reason: '', remedy: '', plugins: [], moves: name === 'FANCY' ? 'files' as const : 'objects' as const })
      },
    }
    const addon = { ...engines('aio'), nixl }
    const obj = await NixlBackendSelection.select(load({ agent: 'nixl', plugin: { obj: { active: true, bucket: 'pages' } } }), addon, present())
    expect(obj).to.include({ plugin: 'obj', engine: 'nixl', agent: 'nixl', objects: true })
    expect(asked['OBJ']).to.include({ bucket: 'pages' }).and.not.have.any.keys('access_key', 'session_token')
    expect(await NixlBackendSelection.select(load({ plugin: { BLOBS: { active: true } } }), addon, present())).to.include({ plugin: 'BLOBS', agent: 'nixl', objects: true })
    expect(await NixlBackendSelection.select(load({ plugin: { FANCY: { active: true } } }), addon, present())).to.include({ plugin: 'FANCY', agent: 'nixl', objects: false })
    expect(await select(load({ plugin: 'obj' }), 'posix', 'obj')).to.include({ plugin: 'obj', agent: 'embedded', objects: true })
    expect(await select(load(), 'posix', 'obj')).to.include({ plugin: 'posix', objects: false })
  })
  it('the report does not need a usable plugin', async () => {
    expect(await NixlBackendSelection.report(load(), engines())).to.have.length(5)
  })
})

describe('the plugins of this version', () => {
  it('without what is native there is posix alone; the others say what they need; obj asks nobody unless it is asked for', async () => {
    const selection = await NixlBackendSelection.select(load(), engines('aio'))
    expect(selection).to.include({ plugin: 'posix', engine: 'aio' })
    for (const { name, usable, reason, remedy } of selection.plugins) {
      expect(usable, name).to.equal(name === 'posix')
      expect(reason.length).to.be.greaterThan(0)
      if (name === 'posix') expect(remedy).to.equal('')
      else if (name === 'obj') expect(reason).to.include('nobody asks for it')
      else if (name === '3fs') {
        expect(reason).to.equal('nobody says where a 3FS is mounted')
        expect(remedy).to.include('plugin.3fs.mount_point')
      } else {
        expect(reason).to.equal('the native addon does not have it')
        expect(remedy).to.include('build')
      }
    }
    for (const plugin of [{ gds: { active: true } }, { gds_mt: { active: true } }, { '3fs': { active: true, mount_point: '/3fs' } }]) {
      expect((await refused(NixlBackendSelection.select(load({ plugin }), engines('aio')))).message).to.include('the native addon does not have it')
    }
    const nixl = await refused(NixlBackendSelection.select(load({ agent: 'nixl', plugin: { posix: { active: true } } }), engines('aio')))
    expect(nixl.message).to.include('the native addon does not have the bridge to NIXL')
    expect((await refused(NixlBackendSelection.select(load({ plugin: 'obj' }), engines('aio')))).message).to.include('the native addon does not have it')
  })
  it('the engine: Linux AIO, io_uring, POSIX AIO, the first that works; a fallback is said', async () => {
    for (const [usable, engine] of [[['aio', 'io_uring', 'posix_aio'], 'aio'], [['io_uring', 'posix_aio'], 'io_uring'], [['posix_aio'], 'posix_aio']] as [EngineName[], string][]) {
      const selection = await NixlBackendSelection.select(load(), engines(...usable))
      expect(selection.engine).to.equal(engine)
      const report = selection.plugins.find(({ name }) => name === 'posix')!
      expect(report.details).to.include({ engine })
      expect(report.details.engines).to.have.length(3)
      expect(selection.warnings).to.have.length(engine === 'aio' ? 0 : 1)
      if (engine !== 'aio') expect(selection.warnings[0]).to.include('aio is forbidden')
      if (engine !== 'aio') expect(report.reason).to.include('aio is forbidden')
    }
    const error = await refused(NixlBackendSelection.select(load({ plugin: 'posix' }), engines()))
    expect(error.message).to.include('aio is forbidden').and.include('io_uring is forbidden').and.include('posix_aio is forbidden').and.include('allow io_uring')
  })
  it('an engine that is asked for is taken, or it is an error with the remedy', async () => {
    for (const [key, engine] of [['use_aio', 'aio'], ['use_uring', 'io_uring'], ['use_posix_aio', 'posix_aio']] as [string, EngineName][]) {
      const config = load({ plugin: { posix: { [key]: 'true' } } })
      expect((await NixlBackendSelection.select(config, engines('aio', 'io_uring', 'posix_aio'))).engine).to.equal(engine)
      const others = (['aio', 'io_uring', 'posix_aio'] as const).filter((name) => name !== engine)
      const error = await refused(NixlBackendSelection.select(config, engines(...others)))
      expect(error.message).to.include(key).and.include(`${engine} is forbidden`).and.include(`allow ${engine}`)
    }
  })
  it('an addon that cannot try its engines makes posix unusable, with the reason', async () => {
    const addon = { probeEngines: () => Promise.reject(new Error('out of memory')) }
    expect((await refused(NixlBackendSelection.select(load(), addon))).message).to.include('out of memory')
  })
})
