import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { load, refused } from './config-fixture.js'

const DIR = 'SGLANG_HICACHE_NIXL_BACKEND_STORAGE_DIR'
const TYPE = 'SGLANG_HICACHE_NIXL_BACKEND_PLUGIN_TYPE'
const PLUGIN = 'SGLANG_HICACHE_NIXL_BACKEND_PLUGIN'
const DIRECT = 'SGLANG_HICACHE_NIXL_USE_DIRECT_IO'

describe('the environment', () => {
  it('names directories: split at commas, trimmed, empties dropped', () => {
    expect(load({}, { env: { [DIR]: ' /tmp/spec-a,, /tmp/spec-b ,' } })).to.deep.include({ storageDirs: ['/tmp/spec-a', '/tmp/spec-b'], storageDirSource: 'environment' })
    expect(load({}, { env: { [DIR]: '' } })).to.deep.include({ storageDirs: ['/tmp/hicache_storage'], storageDirSource: 'default' })
    const nothing = load({}, { env: { [DIR]: ' , ' } })
    expect(nothing.storageDirSource).to.equal('default')
    expect(nothing.warnings[0]).to.include(DIR)
  })
  it('two directories that are one are an error that names both, through links and before they exist', () => {
    const root = mkdtempSync(join(tmpdir(), 'hicache-dirs-'))
    try {
      mkdirSync(join(root, 'real'))
      symlinkSync(join(root, 'real'), join(root, 'link'))
      for (const [a, b] of [['real', 'link'], ['real', 'real'], ['real', 'link/../real'], ['real/new', 'link/new'], ['new', './new'], ['real/', 'real']]) {
        const [first, second] = [`${root}/${a}`, `${root}/${b}`]
        const error = refused({}, { env: { [DIR]: `${first},${second}` } })
        expect(error.message).to.include(`<environment>: ${DIR}: `).and.include(first).and.include(second)
        expect(refused({ storage_dir: [first, second] }).message).to.include('<object>: storage_dir: ')
        expect(refused({}, { overrides: { storageDir: [first, second] } })).to.include({ code: 'ERR_ARGUMENT' })
      }
      expect(load({ storage_dir: [`${root}/real`, `${root}/link/sub`] }).storageDirs).to.have.length(2)
    } finally {
      rmSync(root, { recursive: true })
    }
  })
  it('selects a plugin by either name, in any case', () => {
    for (const name of [TYPE, PLUGIN]) {
      for (const [value, plugin] of [['POSIX', 'posix'], ['posix', 'posix'], ['3FS', '3fs'], ['GDS_MT', 'gds_mt'], ['Gds', 'gds'], ['OBJ', 'obj'], ['auto', 'auto']]) {
        expect(load({}, { env: { [name]: value } }).selector).to.deep.equal({ plugin, from: 'environment' })
      }
      expect(refused({}, { env: { [name]: 'POSX' } }).message).to.equal(`<environment>: ${name}: expected one of "auto", "3fs", "posix", "gds_mt", "gds", "obj", found "POSX"; did you mean "posix"?`)
      expect(load({}, { env: { [name]: ' ' } }).selector.from).to.equal('default')
    }
  })
  it('both selectors must agree', () => {
    expect(load({}, { env: { [TYPE]: 'POSIX', [PLUGIN]: 'posix' } }).selector.plugin).to.equal('posix')
    expect(load({}, { env: { [TYPE]: 'POSIX', [PLUGIN]: '' } }).selector.plugin).to.equal('posix')
    expect(refused({}, { env: { [TYPE]: 'POSIX', [PLUGIN]: 'OBJ' } }).message).to.include(TYPE).and.include(PLUGIN)
    expect(refused({}, { env: { [TYPE]: 'auto', [PLUGIN]: 'OBJ' } }).code).to.equal('ERR_CONFIG')
  })
  it('says whether to use O_DIRECT; the configuration wins', () => {
    for (const value of ['true', '1', 'YES', 'y']) expect(load({}, { env: { [DIRECT]: value } }).options.useDirectIo).to.equal(true)
    for (const value of ['false', '0', 'No', 'n']) expect(load({}, { env: { [DIRECT]: value } }).options.useDirectIo).to.equal(false)
    expect(load({ use_direct_io: 'true' }, { env: { [DIRECT]: 'false' } }).options.useDirectIo).to.equal(true)
    expect(refused({}, { env: { [DIRECT]: 'maybe' } }).message).to.equal(`<environment>: ${DIRECT}: expected true or false, found "maybe"`)
  })

  const AWS = {
    AWS_DEFAULT_BUCKET: 'eb', AWS_ENDPOINT_OVERRIDE: 'http://e', AWS_ACCESS_KEY_ID: 'ea', AWS_SECRET_ACCESS_KEY: 'es', AWS_SESSION_TOKEN: 'et', AWS_REGION: 'er',
  }
  it('stands in for keys of plugin.obj on which the configuration is silent', () => {
    const all = { bucket: 'eb', endpoint_override: 'http://e', access_key: 'ea', secret_key: 'es', session_token: 'et', region: 'er' }
    expect(load({ plugin: { obj: {} } }, { env: AWS }).initParams('obj')).to.include(all)
    expect(load({}, { env: AWS }).initParams('obj')).to.include(all)
    expect(load({ plugin: { obj: { bucket: '', region: 'cr', secrete_key: 'cs' } } }, { env: AWS }).initParams('obj')).to.include({ ...all, region: 'cr', secret_key: 'cs' })
    expect(load({}, { env: AWS }).sections.size).to.equal(0)
    expect(load({}, { env: AWS }).initParams('posix')).to.have.all.keys('use_uring', 'use_posix_aio', 'use_aio')
  })
  it('does not give its session token to keys of the configuration', () => {
    expect(load({ plugin: { obj: { access_key: 'a', secret_key: 's' } } }, { env: AWS }).initParams('obj')).to.include({ access_key: 'a', secret_key: 's', session_token: '' })
  })
  it('with credentials in its endpoint is refused where the endpoint is used, else ignored', () => {
    const env = { AWS_ENDPOINT_OVERRIDE: 'http://me:S3CRET@host' }
    expect(refused({ plugin: { obj: {} } }, { env }).message).to.include('AWS_ENDPOINT_OVERRIDE').and.not.include('S3CRET')
    const config = load({}, { env })
    expect(config.initParams('obj').endpoint_override).to.equal('')
    expect(config.warnings.join()).to.include('AWS_ENDPOINT_OVERRIDE').and.not.include('S3CRET')
  })
  it('has further names for the endpoint, the region and the authorities', () => {
    const params = (env: NodeJS.ProcessEnv): Record<string, string> => load({}, { env }).initParams('obj')
    expect(params({ AWS_ENDPOINT_URL: 'http://u', AWS_DEFAULT_REGION: 'd', AWS_CA_BUNDLE: '/ca.pem' })).to.include({ endpoint_override: 'http://u', region: 'd', ca_bundle: '/ca.pem' })
    expect(params({ AWS_ENDPOINT_URL: 'http://u', AWS_ENDPOINT_URL_S3: 'http://s', AWS_DEFAULT_REGION: 'd', AWS_REGION: 'r' })).to.include({ endpoint_override: 'http://s', region: 'r' })
    expect(params({ AWS_ENDPOINT_URL_S3: 'http://s', AWS_ENDPOINT_OVERRIDE: 'http://o' }).endpoint_override).to.equal('http://o')
    expect(refused({ plugin: { obj: {} } }, { env: { AWS_ENDPOINT_URL: 'http://me:S3CRET@host' } }).message).to.include('AWS_ENDPOINT_URL: ').and.not.include('S3CRET')
  })
  it('its proxies count only when the configuration says so', () => {
    const at = new URL('http://s3.example.com:9000')
    const env = { http_proxy: 'proxy:3128', https_proxy: 'https://secure:1', HTTP_PROXY: 'http://never' }
    const proxyFor = (url: URL, more: NodeJS.ProcessEnv = {}, object_proxy: string | null = 'environment'): string => load({ object_proxy }, { env: { ...env, ...more } }).proxyFor(url)
    expect(proxyFor(at, {}, null)).to.equal('')
    expect(proxyFor(at, {}, 'http://mine')).to.equal('http://mine')
    expect(proxyFor(at)).to.equal('http://proxy:3128')
    expect(proxyFor(new URL('https://s3.example.com'))).to.equal('https://secure:1')
    expect(proxyFor(at, { http_proxy: '' })).to.equal('')
    expect(proxyFor(at, { http_proxy: '', ALL_PROXY: 'socks5://all' })).to.equal('socks5://all')
    for (const no_proxy of ['*', 'example.com', '.example.com', '*.example.com', 'other, s3.example.com', 's3.example.com:9000']) expect(proxyFor(at, { no_proxy }), no_proxy).to.equal('')
    for (const no_proxy of ['ample.com', 'other', 's3.example.com:80', 'a.s3.example.com']) expect(proxyFor(at, { no_proxy }), no_proxy).to.equal('http://proxy:3128')
    expect(proxyFor(at, { NO_PROXY: 'example.com' })).to.equal('')
    expect(proxyFor(new URL('http://[::1]:9000'), { no_proxy: '::1' })).to.equal('')
    expect(proxyFor(new URL('http://127.0.0.1'), { no_proxy: '0.0.1' })).to.equal('http://proxy:3128')
    expect(() => proxyFor(at, { http_proxy: 'me:S3CRET@proxy' })).to.throw('http_proxy: expected a proxy without credentials').and.satisfy(({ message }: Error) => !message.includes('S3CRET'))
  })
  it('is process.env when none is given', () => {
    const before = process.env[DIRECT]
    process.env[DIRECT] = 'false'
    try {
      expect(load({}, { env: undefined }).options.useDirectIo).to.equal(false)
    } finally {
      if (before === undefined) Reflect.deleteProperty(process.env, DIRECT)
      else process.env[DIRECT] = before
    }
  })
})
