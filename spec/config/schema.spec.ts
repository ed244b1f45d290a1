import { readFileSync } from 'node:fs'
import { expect } from 'chai'
import { configSchema } from '../../lib/config/config-schema.generated.js'
import { schemaViolations } from '../../lib/config/config-validator.generated.js'
import { PLUGIN_NAMES, SECTION_KEYS, TOP_LEVEL_KEYS } from '../../lib/config/schema-facts.js'
import { closest, editDistance } from '../../lib/config/spelling.js'
import { SELECTOR_VARIABLES, STORAGE_DIR_VARIABLE, DIRECT_IO_VARIABLE, OBJ_VARIABLES } from '../../lib/config/environment.js'

const repository = new URL('../../../', import.meta.url)

describe('the configuration schema', () => {
  it('is the committed one', () => {
    expect(configSchema).to.deep.equal(JSON.parse(readFileSync(new URL('schemas/config.schema.json', repository), 'utf8')))
  })
  it('its validator needs nothing at run time', () => {
    const code = readFileSync(new URL('../../lib/config/config-validator.generated.js', import.meta.url), 'utf8')
    expect(code).to.not.match(/\brequire\s*\(/)
    expect(code).to.not.match(/^\s*import\b/m)
    expect(schemaViolations({ plugin: { posix: { use_aio: true } }, workers: 4 })).to.deep.equal([])
    expect(schemaViolations({ workers: 0, plugin: { posix: { x: 1 } } })).to.have.length(2)
  })
  it('no two plugins have a key of the same name, so flat keys find their plugin', () => {
    const keys = PLUGIN_NAMES.flatMap((plugin) => [...SECTION_KEYS.get(plugin)!.keys()].filter((key) => key !== 'active'))
    expect(new Set(keys).size).to.equal(keys.length)
    for (const key of keys) expect(TOP_LEVEL_KEYS.has(key), key).to.equal(false)
  })
})

describe('docs/configuration.md', () => {
  const text = readFileSync(new URL('docs/configuration.md', repository), 'utf8')
  const rows = (heading: string): { key: string; default: string; range: string }[] => {
    const part = text.split(/^## /m).find((section) => section.startsWith(`${heading}\n`))!
    return [...part.matchAll(/^\| `([^`]+)` \| [^|]* \| ([^|]*) \| ([^|]*) \|/gm)].map(([, key, value, range]) => ({ key: key!, default: value!.trim(), range: range!.trim() }))
  }
  for (const [heading, keys] of [['Top-level keys', TOP_LEVEL_KEYS] as const, ...PLUGIN_NAMES.map((plugin) => [`plugin.${plugin}`, SECTION_KEYS.get(plugin)!] as const)]) {
    it(`${heading}: the keys, defaults and values of the schema`, () => {
      const documented = rows(heading)
      expect(documented.map(({ key }) => key)).to.deep.equal([...keys.keys()])
      for (const { key, default: value, range } of documented) {
        const facts = keys.get(key)!
        const expected = facts.default === undefined ? '-' : Array.isArray(facts.default) ? `\`${String(facts.default)}\`` : `\`${JSON.stringify(facts.default)}\``
        expect(value, key).to.equal(expected)
        if (facts.values !== undefined) expect(range, key).to.equal(facts.values.filter((one): one is string => typeof one === 'string').map((one) => `\`${one}\``).join(', '))
        const bound = facts.minimum ?? facts.exclusiveMinimum
        if (bound !== undefined) expect(range, key).to.match(new RegExp(`^${facts.exclusiveMinimum === undefined ? '' : 'above '}${bound !== 0 && bound % 2 ** 20 === 0 ? `${bound / 2 ** 20} MiB` : bound}\\b`))
      }
    })
  }
  it('names every environment variable', () => {
    for (const name of [STORAGE_DIR_VARIABLE, ...SELECTOR_VARIABLES, DIRECT_IO_VARIABLE, ...Object.values(OBJ_VARIABLES).flat()]) expect(text).to.include(`\`${name}\``)
  })
})

describe('likely spellings', () => {
  it('counts inserts, removals, replacements and swaps', () => {
    expect(editDistance('', 'abc')).to.equal(3)
    expect(editDistance('posix', 'posix')).to.equal(0)
    expect(editDistance('psoix', 'posix')).to.equal(1)
    expect(editDistance('use_urng', 'use_uring')).to.equal(1)
    expect(editDistance('kitten', 'sitting')).to.equal(3)
  })
  it('finds the nearest word, or none', () => {
    expect(closest('storageLayout', ['storage_dir', 'storage_layout'])).to.equal('storage_layout')
    expect(closest('GDS-MT', ['gds', 'gds_mt'])).to.equal('gds_mt')
    expect(closest('banana', ['posix', 'gds'])).to.equal(undefined)
    expect(closest('x'.repeat(10000), ['x'.repeat(9999)])).to.equal(undefined)
  })
})
