import { expect } from 'chai'
import { NixlBackendConfig } from '../../lib/config/nixl-backend-config.js'
import { PLUGIN_NAMES, SECTION_KEYS, TOP_LEVEL_KEYS } from '../../lib/config/schema-facts.js'
import { load, problems, refused } from './config-fixture.js'

/** What the contract says of every plugin key: its default as NIXL gets it, values that are taken (with what becomes of them), values that are refused. */
const BOOLEAN = { good: [['true', 'true'], ['True', 'true'], [true, 'true'], ['false', 'false'], ['False', 'false'], [false, 'false']], bad: ['yes', 'TRUE', '', 1, 0, null, [], {}] }
const TEXT = { good: [['', ''], ['x y', 'x y']], bad: [1, true, null, 'a\0b', ['x'], {}] }
const count = (max: number) => ({ good: [[1, '1'], ['7', '7'], [max, String(max)]], bad: [0, -1, 1.5, max + 1, '0', 'x', '', '1e2', '0x10', NaN, Infinity, true, null, [1]] })
const KEYS: Record<string, Record<string, { default?: string; good: (readonly unknown[])[]; bad: unknown[] }>> = {
  posix: { use_uring: { default: 'false', ...BOOLEAN }, use_posix_aio: { default: 'false', ...BOOLEAN }, use_aio: { default: 'false', ...BOOLEAN } },
  gds: {
    batch_pool_size: { default: '128', ...count(65536) }, batch_limit: { default: '128', ...count(65536) },
    max_request_size: { default: '16777216', good: [[4096, '4096'], ['1048576', '1048576']], bad: [4095, 2 ** 33, 'x', 4096.5, null] },
  },
  gds_mt: { thread_count: { default: '4', ...count(1024) } },
  '3fs': {
    mount_point: { good: [['/mnt/3fs', '/mnt/3fs']], bad: ['', 5, null, 'a\0'] },
    mem_config: { default: 'dram', good: [['dram', 'dram'], ['dram_zc', 'dram_zc'], ['auto', 'auto']], bad: ['DRAM', '', 'vram', 1, null] },
    iopool_size: { default: '64', good: [[64, '64'], [2 ** 20, '1048576'], ['128', '128'], [100, '100']], bad: [63, 2 ** 20 + 1, '63', 64.5, 'x', null] },
  },
  obj: {
    num_threads: { default: '4', ...count(1024) }, endpoint_override: { default: '', ...TEXT }, scheme: { default: 'http', good: [['http', 'http'], ['https', 'https']], bad: ['ftp', 'HTTP', '', null, 1] },
    region: { default: '', ...TEXT }, req_checksum: { default: 'required', good: [['required', 'required'], ['supported', 'supported']], bad: ['never', '', true, null] },
    resp_checksum: { good: [['required', 'required'], ['supported', 'supported']], bad: ['never', '', true, null] },
    ca_bundle: { default: '', ...TEXT }, access_key: { default: '', ...TEXT }, secret_key: { default: '', ...TEXT }, session_token: { default: '', ...TEXT },
    use_virtual_addressing: { default: 'true', ...BOOLEAN }, bucket: { default: '', ...TEXT },
    crtMinLimit: { good: [[0, '0'], ['5242880', '5242880']], bad: [-1, 0.5, 'x', null] },
    throughput_target_gbps: { good: [[10, '10'], ['2.5', '2.5'], [0.5, '0.5']], bad: [0, -1, 'x', null, Infinity] },
  },
}

describe('plugin keys', () => {
  it('are those of the contract, in every section', () => {
    for (const plugin of PLUGIN_NAMES) {
      const aliases = plugin === 'obj' ? ['secrete_key'] : []
      expect([...SECTION_KEYS.get(plugin)!.keys()]).to.have.members(['active', ...Object.keys(KEYS[plugin]!), ...aliases])
    }
  })
  for (const [plugin, keys] of Object.entries(KEYS)) {
    it(`plugin.${plugin}: defaults`, () => {
      const expected = Object.fromEntries(Object.entries(keys).flatMap(([key, { default: value }]) => value === undefined ? [] : [[key, value]]))
      expect(load().initParams(plugin)).to.deep.equal(expected)
      expect(load({ plugin: { [plugin]: {} } }).initParams(plugin)).to.deep.equal(expected)
    })
    for (const [key, { good, bad }] of Object.entries(keys)) {
      it(`plugin.${plugin}.${key}: what it takes and what it refuses`, () => {
        for (const [value, param] of good) {
          expect(load({ plugin: { [plugin]: { [key]: value } } }).initParams(plugin)[key], String(value)).to.equal(param)
          // The flat shape means the same.
          expect(load({ [key]: value }, { plugin }).initParams(plugin)[key], String(value)).to.equal(param)
        }
        for (const value of bad) {
          const error = refused({ plugin: { [plugin]: { [key]: value } } })
          expect(error.code).to.equal('ERR_CONFIG')
          expect(error.message, JSON.stringify(value)).to.match(new RegExp(`^<object>: plugin\\.${plugin}\\.${key}: expected .*, found `))
        }
      })
    }
    it(`plugin.${plugin}.active: a boolean or its four strings`, () => {
      for (const value of [true, 'true', 'True']) expect(load({ plugin: { [plugin]: { active: value } } }).active(plugin)).to.equal(true)
      for (const value of [false, 'false', 'False']) expect(load({ plugin: { [plugin]: { active: value } } }).active(plugin)).to.equal(false)
      for (const value of ['TRUE', 'yes', '1', 1, null, []]) expect(refused({ plugin: { [plugin]: { active: value } } }).message).to.include(`plugin.${plugin}.active: expected true or false`)
      expect(load({ plugin: { [plugin]: { active: true } } }).initParams(plugin)).to.not.have.property('active')
    })
    it(`plugin.${plugin}: a misspelt key is named with its likely spelling`, () => {
      for (const key of Object.keys(keys)) {
        const misspelt = `${key.slice(0, 2)}${key.slice(3)}`
        expect(refused({ plugin: { [plugin]: { [misspelt]: 'x' } } }).message).to.include(`${misspelt}: plugin ${plugin} has no key`).and.to.include('did you mean "')
      }
    })
  }
  it('the use_* keys name the engine', () => {
    expect(load().posixEngine).to.equal('auto')
    expect(load({ plugin: { posix: { use_uring: 'true' } } }).posixEngine).to.equal('io_uring')
    expect(load({ plugin: { posix: { use_aio: 'True', use_uring: 'false' } } }).posixEngine).to.equal('aio')
    expect(load({ plugin: { posix: { use_posix_aio: true } } }).posixEngine).to.equal('posix_aio')
  })
  it('two engines that are both true are refused with the reason', () => {
    expect(refused({ plugin: { posix: { use_uring: 'true', use_aio: true } } }).message)
      .to.equal('<object>: plugin.posix.use_aio: at most one engine may be true, found use_uring and use_aio: one plugin runs on one engine')
    expect(problems('{"use_uring": "true",\n "use_posix_aio": "true", "use_aio": "true"}')).to.have.length(1)
  })
  it('the caller\'s engine wins over the keys', () => {
    const config = load({ plugin: { posix: { use_uring: 'true' } } }, { engine: 'posix_aio' })
    expect(config.posixEngine).to.equal('posix_aio')
    expect(config.initParams('posix')).to.deep.equal({ use_uring: 'false', use_posix_aio: 'true', use_aio: 'false' })
    expect(load({ use_uring: 'true' }, { engine: 'auto' }).posixEngine).to.equal('auto')
    expect(refused({}, { engine: 'uring' as never })).to.include({ code: 'ERR_ARGUMENT' })
  })
  it('both spellings of the secret key are one key', () => {
    for (const obj of [{ secret_key: 's' }, { secrete_key: 's' }, { secret_key: 's', secrete_key: 's' }]) {
      const params = load({ plugin: { obj } }).initParams('obj')
      expect(params.secret_key).to.equal('s')
      expect(params).to.not.have.property('secrete_key')
    }
    const error = refused('{"plugin": {"obj": {"secret_key": "SECRET-A", "secrete_key": "SECRET-B"}}}')
    expect(error.message).to.include('plugin.obj.secrete_key').and.include('plugin.obj.secret_key').and.not.include('SECRET')
  })
  it('credentials in an endpoint are refused, and not shown', () => {
    expect(refused({ plugin: { obj: { endpoint_override: 'http://me:S3CRET@host' } } }).message).to.include('endpoint_override').and.not.include('S3CRET')
    expect(load({ plugin: { obj: { endpoint_override: 'http://host:9000' } } }).initParams('obj').endpoint_override).to.equal('http://host:9000')
  })
  it('credentials in the URL of a proxy are refused, and not shown', () => {
    for (const object_proxy of ['http://me:S3CRET@proxy', 'me:S3CRET@proxy', 'http://S3CRET@']) {
      expect(refused({ object_proxy }).message).to.include('object_proxy: expected a proxy without credentials').and.not.include('S3CRET')
    }
    expect(refused({}, { overrides: { objectProxy: 'http://me:S3CRET@proxy' } })).to.include({ code: 'ERR_ARGUMENT' })
  })
  it('section() gives the same as typed values', () => {
    expect(load({ plugin: { gds: { batch_limit: '9' } } }).section('gds')).to.deep.equal({ batch_pool_size: 128, batch_limit: 9, max_request_size: 16777216 })
    expect(load({ plugin: { posix: { active: 'False', use_aio: 'true' } } }).section('posix')).to.deep.equal({ active: false, use_uring: false, use_posix_aio: false, use_aio: true })
  })
})

describe('top-level keys', () => {
  const OPTIONS: Record<string, { option: string; default: unknown; good: (readonly [unknown, unknown])[]; bad: unknown[] }> = {
    storage_layout: { option: 'storageLayout', default: null, good: [['file', 'file'], ['segment', 'segment'], [null, null]], bad: ['files', '', 1] },
    capacity: { option: 'capacity', default: null, good: [[3 * 2 ** 20, 3 * 2 ** 20], ['214748364800', 200 * 2 ** 30], [2 ** 50, 2 ** 50], [null, null]], bad: [0, -1, 3 * 2 ** 20 - 1, 3 * 2 ** 20 + 0.5, 2 ** 51, '200GiB', true] },
    eviction_policy: { option: 'evictionPolicy', default: 'prefix-aware', good: [['lru', 'lru'], ['prefix-aware', 'prefix-aware']], bad: ['fifo', 'LRU', '', null, 1] },
    fsync: { option: 'fsync', default: 'never', good: [['batch', 'batch'], ['never', 'never']], bad: ['always', true, false, null] },
    segment_bytes: { option: 'segmentBytes', default: null, good: [[2 ** 20, 2 ** 20], [2 ** 32, 2 ** 32], ['67108864', 2 ** 26], [null, null]], bad: [0, 2 ** 20 - 4096, 2 ** 20 + 1, 2 ** 32 + 4096, '64M'] },
    lease_ms: { option: 'leaseMs', default: 1000, good: [[0, 0], [60000, 60000], ['250', 250]], bad: [-1, 0.5, 60001, '1s', null] },
    directory_scheme: { option: 'directoryScheme', default: 'bucketed', good: [['flat', 'flat']], bad: ['Flat', null, 1] },
    agent: { option: 'agent', default: 'auto', good: [['embedded', 'embedded'], ['nixl', 'nixl']], bad: ['NIXL', null] },
    workers: { option: 'workers', default: null, good: [[1, 1], [64, 64], ['8', 8]], bad: [0, 65, 1.5, 'x', true] },
    arena_bytes: { option: 'arenaBytes', default: null, good: [[16 * 2 ** 20, 16 * 2 ** 20], [2 ** 32, 2 ** 32]], bad: [16 * 2 ** 20 - 4096, 16 * 2 ** 20 + 1, 2 ** 32 + 4096, '16M'] },
    in_flight_bytes_max: { option: 'inFlightBytesMax', default: null, good: [[4096, 4096], [2 ** 40, 2 ** 40]], bad: [4095, 0, -1, 2 ** 41] },
    when_full: { option: 'whenFull', default: 'wait', good: [['reject', 'reject']], bad: ['drop', null] },
    timeout_ms: { option: 'timeoutMs', default: 30000, good: [[1, 1], ['100', 100]], bad: [0, -1, 86400001, null, '1s'] },
    accept_unverified: { option: 'acceptUnverified', default: true, good: [[false, false], ['false', false]], bad: ['no', 0] },
    verify_vram: { option: 'verifyVram', default: false, good: [[true, true], ['true', true]], bad: ['no', 0] },
    queue_depth: { option: 'queueDepth', default: 64, good: [[1, 1], [4096, 4096]], bad: [0, 4097] },
    threads: { option: 'threads', default: 16, good: [[1, 1], [64, 64]], bad: [0, 65] },
    fingerprint: { option: 'fingerprint', default: '', good: [['w1', 'w1'], ['x'.repeat(128), 'x'.repeat(128)]], bad: ['x'.repeat(129), 'a\0', 5] },
    model_name: { option: 'modelName', default: '', good: [['Qwen/Qwen3-8B', 'Qwen/Qwen3-8B']], bad: ['x'.repeat(201), 'a\0', 5] },
    object_prefix: {
      option: 'objectPrefix', default: '', good: [['', ''], ['pages', 'pages'], ['a/b/', 'a/b/'], ['.a/..b/c.', '.a/..b/c.'], ['x'.repeat(512), 'x'.repeat(512)], ['é'.repeat(256), 'é'.repeat(256)]],
      bad: ['/a', '/', 'a//b', '.', '..', './a', '../a', 'a/.', 'a/../b', 'a/..', 'a\0', 'x'.repeat(513), 'é'.repeat(257), '\ud800', 5, null]
    },
    object_proxy: {
      option: 'objectProxy', default: null,
      good: [[null, null], ['environment', 'environment'], ['http://proxy:3128', 'http://proxy:3128'], ['https://p/', 'https://p/'], ['socks5h://[::1]:1080', 'socks5h://[::1]:1080']],
      bad: ['', 'proxy:3128', 'ftp://proxy', 'http://', 'http://proxy/path', 'none', 'a\0', 5]
    },
    object_sign_payload: { option: 'objectSignPayload', default: false, good: [[true, true], ['True', true], ['false', false]], bad: ['yes', 1, null] },
    use_direct_io: { option: 'useDirectIo', default: true, good: [[false, false], ['False', false], ['true', true]], bad: ['no', 1, null] },
    l3_cleaner_enabled: { option: 'l3CleanerEnabled', default: false, good: [[true, true], [false, false]], bad: ['true', 'false', 'True', 1, null] },
    l3_cleaner_high_watermark: { option: 'l3CleanerHighWatermark', default: 80, good: [[100, 100], ['90.5', 90.5], [70, 70]], bad: [0, 101, 69, 'x'] },
    l3_cleaner_low_watermark: { option: 'l3CleanerLowWatermark', default: 70, good: [[1, 1], [80, 80]], bad: [0, 81, 101, 'x'] },
    l3_cleaner_capacity_gb: { option: 'l3CleanerCapacityGb', default: null, good: [[0.5, 0.5], ['100', 100], [null, null]], bad: [0, -1, 'x'] },
  }
  it('are all here', () => {
    expect([...TOP_LEVEL_KEYS.keys()]).to.have.members(['selector', 'storage_dir', ...Object.keys(OPTIONS)])
    expect(Object.keys(load().options)).to.have.members(Object.values(OPTIONS).map(({ option }) => option))
  })
  for (const [key, { option, default: value, good, bad }] of Object.entries(OPTIONS)) {
    it(`${key}: default, what it takes and what it refuses`, () => {
      const read = (config: object): unknown => (load(config).options as unknown as Record<string, unknown>)[option]
      expect(read({})).to.equal(value)
      for (const [given, result] of good) expect(read({ [key]: given })).to.equal(result)
      for (const given of bad) expect(refused({ [key]: given }).message, JSON.stringify(given)).to.match(new RegExp(`^<object>: ${key}: expected .*found `))
    })
  }
  it('a low watermark above the high one is refused with the reason, also against a default', () => {
    expect(refused('{"l3_cleaner_high_watermark": 50,\n"l3_cleaner_low_watermark": 60}').message)
      .to.match(/^<inline>:2:29: l3_cleaner_low_watermark: .*found low 60 and high 50: the cleaner starts/)
    expect(refused({ l3_cleaner_high_watermark: 60 }).message).to.include('found low 70 (the default) and high 60')
    expect(load({ l3_cleaner_high_watermark: 50, l3_cleaner_low_watermark: 50 }).options.l3CleanerLowWatermark).to.equal(50)
  })
  it('an unknown key is refused with a likely spelling', () => {
    for (const [key, meant] of [['storage_dirs', 'storage_dir'], ['storageDir', 'storage_dir'], ['time-out-ms', 'timeout_ms'], ['l3_cleaner_enable', 'l3_cleaner_enabled'], ['plugins', 'plugin'],
      ['use_urring', 'use_uring']]) expect(refused({ [key!]: 1 }).message).to.include(`${key}: there is no such key; did you mean "${meant}"?`)
    expect(refused({ zzz: 1 }).message).to.include('the top-level keys are')
    expect(refused({ posix: { use_uring: 'true' } }).message).to.include('did you mean the section plugin.posix?')
    expect(refused({ plugin: { posix: { storage_dir: '/x' } } }).message).to.include('a key of the top level')
    expect(refused({ 'evil\nkey': 1 }).message).to.not.include('\n')
  })
  it('storage_dir: a list as it is, a string split at commas, absolute paths', () => {
    expect(load({ storage_dir: '/tmp/spec-a' })).to.deep.include({ storageDirs: ['/tmp/spec-a'], storageDirSource: 'config' })
    expect(load({ storage_dir: ' /tmp/spec-a , ,/tmp/spec-b,' }).storageDirs).to.deep.equal(['/tmp/spec-a', '/tmp/spec-b'])
    expect(load({ storage_dir: ['/tmp/spec,a', 'rel'] }).storageDirs).to.deep.equal(['/tmp/spec,a', `${process.cwd()}/rel`])
    expect(load()).to.deep.include({ storageDirs: ['/tmp/hicache_storage'], storageDirSource: 'default' })
    for (const bad of ['', ',', [], [''], ['a\0'], [1], 5, {}, null, Array.from({ length: 65 }, (_, n) => `/tmp/${n}`)]) {
      expect(refused({ storage_dir: bad }).message, JSON.stringify(bad)).to.include('storage_dir: expected 1 to 64 directories')
    }
  })
})

describe('what the caller sets', () => {
  it('wins over configuration and environment', () => {
    const env = { SGLANG_HICACHE_NIXL_BACKEND_STORAGE_DIR: '/tmp/env', SGLANG_HICACHE_NIXL_USE_DIRECT_IO: 'false', SGLANG_HICACHE_NIXL_BACKEND_PLUGIN: 'posix' }
    const config = { storage_dir: '/tmp/config', timeout_ms: 5, use_direct_io: true, plugin: 'gds' }
    const all = NixlBackendConfig.load({ config, env, plugin: 'OBJ', overrides: { storageDir: ['/tmp/option'], timeoutMs: 7, workers: undefined } })
    expect(all).to.deep.include({ storageDirs: ['/tmp/option'], storageDirSource: 'option', selector: { plugin: 'obj', from: 'option' } })
    expect(all.options).to.include({ timeoutMs: 7, workers: null, useDirectIo: true })
    const two = NixlBackendConfig.load({ config, env })
    expect(two).to.deep.include({ storageDirs: ['/tmp/config'], storageDirSource: 'config', selector: { plugin: 'gds', from: 'configuration' } })
    const one = NixlBackendConfig.load({ env })
    expect(one).to.deep.include({ storageDirs: ['/tmp/env'], storageDirSource: 'environment', selector: { plugin: 'posix', from: 'environment' } })
    expect(one.options.useDirectIo).to.equal(false)
  })
  it('that is wrong is ERR_ARGUMENT, and is not converted', () => {
    for (const overrides of [{ workers: '4' }, { timeoutMs: -1 }, { storageLayout: 'x' }, { storageDir: [] }, { useDirectIo: 'true' }, { storageDirs: '/x' }]) {
      const error = refused({}, { overrides: overrides as never })
      expect(error.code).to.equal('ERR_ARGUMENT')
      expect(error.message).to.match(new RegExp(`^<options>: ${Object.keys(overrides)[0]!}: `))
    }
    expect(refused({}, { plugin: 'posx' })).to.include({ code: 'ERR_ARGUMENT' })
    expect(refused({}, { plugin: 'posx' }).message).to.include('did you mean "posix"?')
  })
  it('cannot be got around by the constructor', () => {
    expect(() => new NixlBackendConfig(Symbol('x'), {} as never)).to.throw('NixlBackendConfig.load()')
  })
})
