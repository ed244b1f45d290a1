import { inspect } from 'node:util'
import { expect } from 'chai'
import { checkConfig } from '../../lib/config/check-config.js'
import { ConfigFolder, load } from './config-fixture.js'

const SECRET = 'S3CRET-value'

describe('secrets', () => {
  const everything = (value: unknown): string => [
    inspect(value, { depth: 20, showHidden: true, getters: true }), JSON.stringify(value), String(value),
    ...(value instanceof Error ? [value.message, value.stack ?? '', inspect(value.cause)] : []),
  ].join('\n')

  it('show nowhere in a configuration, and reach NIXL', () => {
    for (const key of ['access_key', 'secret_key', 'secrete_key', 'session_token']) {
      const config = load({ plugin: { obj: { [key]: SECRET, bucket: 'visible' } } })
      expect(everything(config), key).to.not.include(SECRET)
      expect(everything({ nested: [config] }), key).to.not.include(SECRET)
      expect(everything(Object.entries(config)), key).to.not.include(SECRET)
      const written = key === 'secrete_key' ? 'secret_key' : key
      expect(config.initParams('obj')[written]).to.equal(SECRET)
      expect(config.shownInitParams('obj')).to.include({ [written]: '***', bucket: 'visible' })
      expect(JSON.stringify(config)).to.include('"visible"')
    }
  })
  it('of the environment show nowhere either', () => {
    const env = { AWS_ACCESS_KEY_ID: `${SECRET}1`, AWS_SECRET_ACCESS_KEY: `${SECRET}2`, AWS_SESSION_TOKEN: `${SECRET}3` }
    const config = load({ plugin: { obj: {} } }, { env })
    expect(everything(config)).to.not.include(SECRET)
    expect(config.initParams('obj')).to.include({ access_key: `${SECRET}1`, secret_key: `${SECRET}2`, session_token: `${SECRET}3` })
  })
  it('of a section that only NIXL knows are told by their names', () => {
    const config = load({ agent: 'nixl', plugin: { other: { api_key: SECRET, db_password: SECRET, authToken: SECRET, depth: '4' } } })
    expect(everything(config)).to.not.include(SECRET)
    expect(config.shownInitParams('other')).to.deep.equal({ api_key: '***', db_password: '***', authToken: '***', depth: '4' })
  })
  it('show in no error, whatever is wrong with them or around them', () => {
    const folder = new ConfigFolder()
    try {
      const bad: (string | object)[] = [
        { plugin: { obj: { secret_key: [SECRET] } } }, { plugin: { obj: { secret_key: `${SECRET}\0` } } }, { plugin: { obj: { access_key: { a: SECRET } } } },
        { plugin: { obj: { acess_key: SECRET } } }, { plugin: { obj: { secret_key: SECRET, secrete_key: `${SECRET}2` } } },
        { access_kez: SECRET }, { session_token: SECRET, use_uring: 'true' }, { plugin: { posix: { secret_key: SECRET } } }, { plugin: { secret_key: SECRET } },
        { agent: 'nixl', plugin: { other: { password: [SECRET] } } }, { plugin: { obj: { secret_key: SECRET, scheme: 'x' } } },
        `{'secret_key': '${SECRET}`, `{'secret_key': ${SECRET}}`, `{"secret_key": "${SECRET}" "x"}`, `{"secret_key": "${SECRET}", "secret_key": "${SECRET}"}`, SECRET,
        folder.write('a.toml', `[plugin.obj]\nsecret_key = ${SECRET}\n`), folder.write('b.toml', `[plugin.obj]\nsecret_key = "${SECRET}"\nsecret_key = "${SECRET}"\n`),
        folder.write('c.toml', `[plugin.obj]\nsecret_key = ["${SECRET}"]\n`), folder.write('d.yaml', `plugin:\n  obj:\n    secret_key: &${SECRET} x\n`),
        folder.write('e.yaml', `plugin:\n  obj:\n    secret_key: [${SECRET}\n`), folder.write('f.yaml', `plugin:\n obj:\n  secret_key: ${SECRET}\n  secret_key: ${SECRET}\n`),
        folder.write('g.yaml', `plugin:\n obj:\n  secret_key: !${SECRET} x\n`), folder.write('h.yaml', `plugin:\n obj:\n  secret_key: *${SECRET}\n`),
        folder.write('i.json', `{"secret_key": ${SECRET}}`), folder.write('j.json', `{"secret_key": "${SECRET}\n"}`),
      ]
      for (const config of bad) {
        const { problems } = checkConfig({ config, env: {} })
        expect(problems.length, JSON.stringify(config)).to.be.greaterThan(0)
        for (const problem of problems) expect(everything(problem), JSON.stringify(config)).to.not.include(SECRET)
      }
    } finally {
      folder.remove()
    }
  })
})
