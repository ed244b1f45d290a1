import { schemaViolations } from './config-validator.generated.js'
import { describeFound, describeKind } from './parsed-value.js'
import { SECTION_KEYS, TOP_LEVEL_KEYS, expectation, isPluginName, isSecretName, type KeyFacts } from './schema-facts.js'
import type { ConfigProblems, SectionSettings, Setting } from './setting.js'
import { closest } from './spelling.js'

/** Checks one layer's values against the schema, and says of each bad one what was expected and what was found. */
export function validateSettings(top: ReadonlyMap<string, Setting>, sections: ReadonlyMap<string, SectionSettings>, problems: ConfigProblems): void {
  const configuration = valuesOf(top)
  if (sections.size > 0) {
    const plugin = Object.create(null) as Record<string, unknown>
    for (const [name, { settings }] of sections) plugin[name] = valuesOf(settings)
    configuration.plugin = plugin
  }
  const seen = new Set<Setting>()
  for (const { instancePath } of schemaViolations(configuration)) {
    const [first, second, third] = instancePath.split('/').slice(1).map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~')) as [string, string?, string?]
    const inSection = first === 'plugin' && second !== undefined && third !== undefined
    const setting = inSection ? sections.get(second)?.settings.get(third) : top.get(first)
    // Every violation is of a value that stands in one of the maps; several may be of one value.
    if (setting === undefined) throw new Error(`the configuration schema refuses ${instancePath}, which was not given`)
    if (seen.has(setting)) continue
    seen.add(setting)
    const facts = inSection ? isPluginName(second) ? SECTION_KEYS.get(second)!.get(third) : undefined : TOP_LEVEL_KEYS.get(first)
    problems.add(setting.origin, complaint(facts ?? { name: third ?? first, types: [third === 'active' ? 'boolean' : 'string'], secret: isSecretName(third ?? ''), alias: false }, setting))
  }
}

function complaint(facts: KeyFacts, { value, origin }: Setting): string {
  const found = facts.secret ? `${describeKind(value)} (which is not shown)` : describeFound(value)
  const meant = facts.values !== undefined && typeof value === 'string' ? closest(value, facts.values.filter((candidate) => typeof candidate === 'string')) : undefined
  const hint = meant !== undefined ? `; did you mean ${JSON.stringify(meant)}?`
    : facts.types.includes('string') && facts.values === undefined && (typeof value === 'number' || typeof value === 'boolean') ? '; write it in quotes' : ''
  return `${expectation(facts, origin.layer === 'configuration')}, found ${found}${hint}`
}

function valuesOf(settings: ReadonlyMap<string, Setting>): Record<string, unknown> {
  // Without a prototype, so that a key called __proto__ is one.
  const values = Object.create(null) as Record<string, unknown>
  for (const [key, { value }] of settings) values[key] = value
  return values
}
