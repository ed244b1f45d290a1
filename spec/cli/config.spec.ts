import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { cli, cliJson, inDirectory } from './cli-process.js'

const SECRETS = { access: 'AKIASPECACCESSKEY', secret: 'spec-secret-wJalrXUtnFEMI', token: 'spec-token-IQoJb3JpZ2lu' }
const OBJ_TOML = `[plugin.obj]
bucket = "pages"
endpoint_override = "http://127.0.0.1:9000"
access_key = "${SECRETS.access}"
secrete_key = "${SECRETS.secret}"
session_token = "${SECRETS.token}"
`
const expectNoSecret = (...texts: string[]): void => {
  for (const text of texts) for (const secret of Object.values(SECRETS)) expect(text).to.not.include(secret)
}

describe('command line: config', () => {
  it('check ends with 0 and names the source', async () => await inDirectory(async directory => {
    const file = join(directory, 'good.toml')
    writeFileSync(file, '[plugin.posix]\nactive = true\nuse_aio = "true"\n')
    for (const args of [[file], [`@${file}`], ['--config', `@${file}`], ['--config', file]]) {
      const { code, stdout, stderr } = await cli(['config', 'check', ...args])
      expect([code, stderr]).to.deep.equal([0, ''])
      expect(stdout.toString()).to.equal(`ok: file ${file}\n`)
    }
    const { code, json } = await cliJson(['config', 'check', file])
    expect(code).to.equal(0)
    expect(json).to.deep.equal({ ok: true, source: `file ${file}`, problems: [], warnings: [] })
  }))

  for (const [ending, text, line, column, key] of [
    ['toml', '[plugin.posix]\nactive = true\nuse_aoi = "true"\n', 3, 1, 'use_aoi'],
    ['yaml', 'plugin:\n  posix:\n    use_aio: maybe\n', 3, 14, 'use_aio'],
    ['json', '{\n  "timeout_ms": -5\n}\n', 2, 17, 'timeout_ms'],
  ] as const) {
    it(`check ends with 2 and says where a .${ending} is wrong: FILE:LINE:COLUMN: KEY`, async () => await inDirectory(async directory => {
      const file = join(directory, `bad.${ending}`)
      writeFileSync(file, text)
      const { code, stdout, stderr } = await cli(['config', 'check', file])
      expect(code).to.equal(2)
      const start = `${file}:${line}:${column}: `
      expect(stdout.toString().startsWith(start), stdout.toString()).to.equal(true)
      expect(stdout.toString().split('\n')[0]).to.include(key)
      expect(stderr).to.match(/^hicache-nixl: ERR_CONFIG: [^\n]*\n$/).and.include(start)
      const { json } = await cliJson<{ ok: boolean; problems: object[] }>(['config', 'check', file])
      expect(json.ok).to.equal(false)
      expect(json.problems[0]).to.include({ code: 'ERR_CONFIG', file, line, column })
    }))
  }

  it('check lists everything that is wrong, in the order of the text', async () => await inDirectory(async directory => {
    const file = join(directory, 'bad.toml')
    writeFileSync(file, 'timeout_ms = "soon"\nworkers = 1000\n')
    const { code, stdout, stderr } = await cli(['config', 'check', file])
    expect(code).to.equal(2)
    expect(stdout.toString().trimEnd().split('\n').map(line => line.slice(file.length, file.length + 3))).to.deep.equal([':1:', ':2:'])
    expect(stderr).to.include('(and 1 more)')
  }))

  it('check reads inline texts, the environment, and refuses a configuration given twice', async () => {
    expect((await cli(['config', 'check', '{\'use_uring\': \'true\'}'])).code).to.equal(0)
    expect((await cli(['config', 'check', '{"workers": 0}'])).code).to.equal(2)
    const { code, stdout } = await cli(['config', 'check'], { env: { SGLANG_HICACHE_NIXL_BACKEND_PLUGIN_TYPE: 'POSX' } })
    expect(code).to.equal(2)
    expect(stdout.toString()).to.include('SGLANG_HICACHE_NIXL_BACKEND_PLUGIN_TYPE')
    expect((await cli(['config', 'check', '{}', '--config', '{}'])).code).to.equal(2)
    expect((await cli(['config', 'check', '/no/such/file.toml'])).code).to.equal(2)
  })

  it('show answers plugin, source, initParams, options and storageDirs', async () => await inDirectory(async directory => {
    const file = join(directory, 'c.json')
    writeFileSync(file, JSON.stringify({ plugin: { posix: { active: true, use_aio: 'true' } }, timeout_ms: 1234 }))
    const { code, json } = await cliJson<{ plugin: string; source: string; initParams: Record<string, string>; options: Record<string, unknown>; storageDirs: string[] }>(
      ['config', 'show', '--config', file, '--storage-dir', directory])
    expect(code).to.equal(0)
    expect(json).to.include({ source: `file ${file}` })
    expect(json.options).to.include({ timeout_ms: 1234, directory_scheme: 'bucketed' })
    expect(json.storageDirs).to.deep.equal([directory])
    expect(json.plugin).to.equal('posix')
    expect(json.initParams).to.include({ use_aio: 'true', use_uring: 'false' })
  }))

  it('show has the options of the segment layout, from the command line before the file', async () => await inDirectory(async directory => {
    const file = join(directory, 'c.toml')
    writeFileSync(file, 'storage_layout = "segment"\ncapacity = 3145728\nfsync = "never"\nlease_ms = 5\n')
    const { json } = await cliJson<{ options: Record<string, unknown> }>(
      ['config', 'show', file, '--capacity', '1.5GiB', '--fsync', 'batch', '--policy', 'lru'])
    expect(json.options).to.include({ storage_layout: 'segment', capacity: 1.5 * 2 ** 30, fsync: 'batch', eviction_policy: 'lru', segment_bytes: null, lease_ms: 5 })
  }))

  it('show ends with 2 for a wrong configuration', async () => {
    const { code, stdout, stderr } = await cli(['config', 'show', '{"timeout_ms": []}'])
    expect([code, stdout.toString()]).to.deep.equal([2, ''])
    expect(stderr).to.match(/^hicache-nixl: ERR_CONFIG: <inline>:1:\d+: timeout_ms: /)
  })

  it('never shows a secret: of a file, an inline text or the environment, in any command and any form', async () => await inDirectory(async directory => {
    const file = join(directory, 'obj.toml')
    writeFileSync(file, OBJ_TOML)
    const inline = JSON.stringify({ plugin: { obj: { access_key: SECRETS.access, secret_key: SECRETS.secret, session_token: SECRETS.token } } })
    const env = { AWS_ACCESS_KEY_ID: SECRETS.access, AWS_SECRET_ACCESS_KEY: SECRETS.secret, AWS_SESSION_TOKEN: SECRETS.token, HICACHE_NIXL_DEBUG: '1' }
    for (const config of [file, inline]) {
      for (const args of [['config', 'show'], ['config', 'check'], ['doctor', '--quick', '--storage-dir', directory], ['ls', '--plugin', 'obj']]) {
        for (const form of [[], ['--json']]) {
          const { stdout, stderr } = await cli([...args, '--config', config, ...form], { env })
          expectNoSecret(stdout.toString(), stderr)
        }
      }
    }
    const { json } = await cliJson<{ sections: { obj: Record<string, string> } }>(['config', 'show', file])
    expect(json.sections.obj).to.include({ access_key: '***', secret_key: '***', session_token: '***', bucket: 'pages' })
  }))

  it('never shows a secret that is part of a mistake', async () => await inDirectory(async directory => {
    for (const text of [
      `[plugin.obj]\nsecret_key = "${SECRETS.secret}"\nsecrete_key = "${SECRETS.token}"\n`,
      `[plugin.obj]\nsecret_key = ["${SECRETS.secret}"]\n`,
      `[plugin.obj]\nsecret_key = "${SECRETS.secret}\n`,
      `[plugin.obj]\nendpoint_override = "http://user:${SECRETS.secret}@host"\n`,
    ]) {
      const file = join(directory, 'bad.toml')
      writeFileSync(file, text)
      for (const args of [['config', 'check'], ['config', 'check', '--json'], ['config', 'show'], ['ls'], ['doctor', '--quick']]) {
        const { code, stdout, stderr } = await cli([...args, '--config', file], { env: { HICACHE_NIXL_DEBUG: '1' } })
        expect(code, text).to.equal(2)
        expectNoSecret(stdout.toString(), stderr)
      }
    }
  }))
})
