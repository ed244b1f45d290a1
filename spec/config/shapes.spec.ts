import { expect } from 'chai'
import { load, problems, refused } from './config-fixture.js'

describe('shapes of a configuration', () => {
  it('flat keys are those of the plugin that the caller, the configuration or the environment selects', () => {
    expect(load({ thread_count: 8 }, { plugin: 'gds_mt' }).initParams('gds_mt')).to.deep.equal({ thread_count: '8' })
    expect(load({ thread_count: 8, plugin: 'GDS_MT' }).initParams('gds_mt')).to.deep.equal({ thread_count: '8' })
    expect(load({ thread_count: 8 }, { env: { SGLANG_HICACHE_NIXL_BACKEND_PLUGIN_TYPE: 'GDS_MT' } }).initParams('gds_mt')).to.deep.equal({ thread_count: '8' })
    expect(load({ active: 'True', use_aio: 'true' }, { plugin: 'posix' }).active('posix')).to.equal(true)
  })
  it('the stronger selection decides whose keys they are', () => {
    const env = { SGLANG_HICACHE_NIXL_BACKEND_PLUGIN: 'OBJ' }
    expect(load({ thread_count: 8 }, { env, plugin: 'gds_mt' }).sections.has('gds_mt')).to.equal(true)
    expect(refused({ thread_count: 8 }, { env }).message).to.equal('<object>: thread_count: a key of plugin gds_mt, but plugin obj is selected')
  })
  it('without a selection they find their plugin by themselves, and a warning says so', () => {
    const config = load({ iopool_size: 128, mount_point: '/m', workers: 2 })
    expect(config.initParams('3fs')).to.include({ iopool_size: '128', mount_point: '/m' })
    expect(config.active('3fs')).to.equal(undefined)
    expect(config.selector.plugin).to.equal('auto')
    expect(config.warnings).to.deep.equal(['no plugin is selected: the keys without a section are those of plugin 3fs (iopool_size, mount_point)'])
    expect(load({ iopool_size: 128 }, { plugin: '3fs' }).warnings).to.deep.equal([])
  })
  it('keys of two plugins at the top are refused', () => {
    const messages = problems({ use_aio: 'true', thread_count: 8 })
    expect(messages).to.have.length(2)
    expect(messages[0]).to.include('write plugin.posix.use_aio, or select a plugin')
    expect(refused({ active: true }).message).to.include('none is')
  })
  it('flat keys beside sections are refused', () => {
    expect(refused({ plugin: { posix: {} }, use_aio: 'true' }).message).to.include('use_aio: a key of plugin posix; since the configuration has plugin sections, write it as plugin.posix.use_aio')
  })
  it('a misspelt flat key is named with its likely spelling', () => {
    expect(refused({ use_urring: 'true' }, { plugin: 'posix' }).message).to.include('did you mean "use_uring"?')
    expect(refused({ zzz: 'true' }, { plugin: 'posix' }).message).to.include('plugin posix has the keys active, use_uring')
  })
  it('dotted keys are sections', () => {
    expect(load({ 'plugin.posix.use_aio': 'true', plugin: 'posix' })).to.deep.include({ selector: { plugin: 'posix', from: 'configuration' } })
    expect(load({ plugin: { 'posix.use_aio': 'true' } }).posixEngine).to.equal('aio')
    expect(load({ 'plugin.posix': { use_aio: 'true' } }).posixEngine).to.equal('aio')
    expect(refused({ 'plugin.posix.use_aio.x': 'true' }).message).to.include('expected plugin.<name>.<key>')
    expect(refused({ plugin: { posix: 'true' } }).message).to.include('plugin.posix: expected a table of the plugin\'s keys, found "true"')
    expect(refused({ plugin: 5 }).message).to.include('plugin: expected the plugin sections')
    expect(refused({ plugin: 'posx' }).message).to.include('plugin: expected one of "auto", "3fs", "posix", "gds_mt", "gds", "obj", found "posx"; did you mean "posix"?')
  })
  it('an unknown section is refused with a likely spelling', () => {
    for (const [name, meant] of [['possix', 'posix'], ['POSIX', 'posix'], ['3FS', '3fs'], ['HF3FS', '3fs'], ['gdsmt', 'gds_mt']]) {
      const config = { plugin: { [name!]: { active: true } } }
      expect(refused(config).message).to.include(`plugin.${name}: there is no plugin "${name}"; did you mean "plugin.${meant}"?`)
    }
    expect(refused({ plugin: { object: {} } }).message).to.include('there is no plugin "object"')
  })
  it('an unknown section that is active is one that only NIXL knows, unless the agent is another', () => {
    const plugin = { gpunetio: { active: true, devices: 'mlx5_0' } }
    for (const config of [{ plugin }, { agent: 'auto', plugin }]) {
      expect(load(config).active('gpunetio')).to.equal(true)
      expect(load(config).initParams('gpunetio')).to.deep.equal({ devices: 'mlx5_0' })
    }
    expect(refused({ agent: 'embedded', plugin }).message).to.include('there is no plugin "gpunetio"').and.include('need agent = "nixl"')
    expect(refused({ plugin: { gpunetio: { active: true, depth: 4 } } }).message).to.include('plugin.gpunetio.depth: expected a string')
  })
  it('with agent = "nixl" an unknown section is a map of strings', () => {
    const config = load({ agent: 'nixl', plugin: { gpunetio: { active: 'True', devices: 'mlx5_0', depth: '4' } } })
    expect(config.initParams('gpunetio')).to.deep.equal({ devices: 'mlx5_0', depth: '4' })
    expect(config.active('gpunetio')).to.equal(true)
    expect(load({ plugin: { other: { a: 'b' } } }, { overrides: { agent: 'nixl' } }).initParams('other')).to.deep.equal({ a: 'b' })
    expect(refused({ agent: 'nixl', plugin: { other: { depth: 4 } } }).message).to.include('plugin.other.depth: expected a string').and.include('found 4')
    expect(refused({ agent: 'nixl', plugin: { other: { active: 'yes' } } }).message).to.include('plugin.other.active: expected true or false')
    expect(refused({ agent: 'nixl', plugin: { other: { a: {} } } }).message).to.include('found a table')
    for (const agent of ['auto', 'embedded']) expect(refused({ agent, plugin: { other: { a: 'b' } } }).message).to.include('need agent = "nixl"')
    expect(refused({ agent: 'nixl', plugin: { other: {} } }, { overrides: { agent: 'embedded' } }).message).to.include('there is no plugin "other"')
    // A known name in another spelling is no plugin of NIXL's.
    expect(refused({ agent: 'nixl', plugin: { POSIX: {} } }).message).to.include('did you mean "plugin.posix"?')
  })
})
