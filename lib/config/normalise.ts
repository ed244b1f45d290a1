import { splitDirectories } from './environment.js'
import { describeFound, describeKind, placed, type ParsedEntry, type ParsedTable, type ParsedValue } from './parsed-value.js'
import {
  PLUGIN_NAMES, REAL_BOOLEAN_KEY, SECTION_KEYS, TOP_LEVEL_KEYS, expectation, isPluginName, isSecretName, ownerOf, type KeyFacts, type PluginName,
} from './schema-facts.js'
import { closest } from './spelling.js'
import type { ConfigProblems, Origin, SectionSettings, Setting } from './setting.js'

export interface NormaliseContext {
  readonly file: string
  readonly problems: ConfigProblems
  readonly warnings: string[]
  /** What the caller selects, stronger than the configuration. */
  readonly selectorOption?: string
  /** What the environment selects, weaker than the configuration. */
  readonly selectorEnvironment?: string
  /** The caller's `agent`, stronger than the configuration. */
  readonly agentOption?: string
}

export interface NormalisedSettings {
  readonly top: Map<string, Setting>
  readonly sections: Map<string, SectionSettings>
}

/**
 * Brings the shapes of a configuration (nested, dotted, flat) to one, and strings that stand for booleans and numbers to what they mean.
 * What is no key of anything is a problem here; whether a value is valid, the schema says afterwards.
 */
export function normalise(root: ParsedTable, context: NormaliseContext): NormalisedSettings {
  return new Normaliser(context).run(root)
}

class Normaliser {
  readonly #context: NormaliseContext
  readonly #top = new Map<string, Setting>()
  readonly #sections = new Map<string, SectionSettings>()

  constructor(context: NormaliseContext) {
    this.#context = context
  }

  run(root: ParsedTable): NormalisedSettings {
    const flat: [string, ParsedEntry][] = []
    for (const [name, entry] of root.entries) {
      if (name === 'plugin') this.#plugin(entry)
      else if (name.startsWith('plugin.')) this.#dotted(name, name.slice('plugin.'.length).split('.'), entry)
      else if (TOP_LEVEL_KEYS.has(name)) this.#setTop(name, name, entry)
      else flat.push([name, entry])
    }
    if (flat.length > 0) this.#flat(flat)
    this.#checkUnknownSections()
    this.#foldSecretSpellings()
    return { top: this.#top, sections: this.#sections }
  }

  #origin(key: string, place: ParsedEntry['keyPlace']): Origin {
    return { layer: 'configuration', file: this.#context.file, key, ...placed(place) }
  }

  /** `plugin` is the sections, or the selector as a string. */
  #plugin(entry: ParsedEntry): void {
    const { value } = entry
    if (value.kind === 'table') {
      for (const [name, section] of value.entries) this.#dotted(`plugin.${name}`, name.split('.'), section)
    } else if (value.kind === 'scalar' && typeof value.value === 'string') this.#setTop('selector', 'plugin', entry)
    else {
      this.#context.problems.add(this.#origin('plugin', value.place ?? entry.keyPlace),
        `expected the plugin sections (plugin.posix, ...) or the name of a plugin, found ${found(value)}`)
    }
  }

  /** `path` is what stands after `plugin.`: a section, or a section and a key. */
  #dotted(written: string, path: readonly string[], entry: ParsedEntry): void {
    const [name, key, ...rest] = path as [string, ...string[]]
    if (rest.length > 0) {
      this.#context.problems.add(this.#origin(written, entry.keyPlace), 'expected plugin.<name>.<key>, found more parts')
    } else if (key !== undefined) this.#setKey(this.#section(name, this.#origin(`plugin.${name}`, entry.keyPlace)), key, written, entry)
    else if (entry.value.kind === 'table') {
      const section = this.#section(name, this.#origin(written, entry.keyPlace))
      for (const [sectionKey, sectionEntry] of entry.value.entries) this.#setKey(section, sectionKey, `${written}.${sectionKey}`, sectionEntry)
    } else {
      this.#context.problems.add(this.#origin(written, entry.value.place ?? entry.keyPlace),
        `expected a table of the plugin's keys, found ${isSecretName(name) ? describeParsedKind(entry.value) : found(entry.value)}`)
    }
  }

  #section(name: string, origin: Origin): SectionSettings {
    let section = this.#sections.get(name)
    if (section === undefined) this.#sections.set(name, section = { name, origin, settings: new Map() })
    return section
  }

  #setTop(name: string, written: string, entry: ParsedEntry): void {
    const before = this.#top.get(name)
    if (before !== undefined) {
      this.#context.problems.add(this.#origin(written, entry.keyPlace), `the same key as ${before.origin.key ?? name}, which is given too: give one of them`)
      return
    }
    const setting = this.#setting(TOP_LEVEL_KEYS.get(name)!, written, entry)
    if (setting !== undefined) this.#top.set(name, setting)
  }

  #setKey(section: SectionSettings, key: string, written: string, entry: ParsedEntry): void {
    const { problems } = this.#context
    if (section.settings.has(key)) {
      problems.add(this.#origin(written, entry.keyPlace), 'the key is given twice')
      return
    }
    const known = isPluginName(section.name) ? SECTION_KEYS.get(section.name)! : undefined
    const facts = known?.get(key)
    if (facts !== undefined || known === undefined) {
      const setting = this.#setting(facts ?? (key === 'active' ? ACTIVE : unknownKey(key)), written, entry)
      if (setting !== undefined) section.settings.set(key, setting)
      return
    }
    const owner = ownerOf(key)
    const meant = closest(key, known.keys())
    const hint = owner !== undefined ? `it is a key of plugin.${owner}`
      : meant !== undefined ? `did you mean ${JSON.stringify(meant)}?`
        : TOP_LEVEL_KEYS.has(key) ? 'it is a key of the top level: write it outside of the section'
          : `its keys are ${[...known.keys()].join(', ')}`
    problems.add(this.#origin(written, entry.keyPlace), `plugin ${section.name} has no key ${describeFound(key)}; ${hint}`)
  }

  #setting(facts: KeyFacts, written: string, entry: ParsedEntry): Setting | undefined {
    const origin = this.#origin(written, entry.value.place ?? entry.keyPlace)
    if (entry.value.kind === 'other') {
      this.#context.problems.add(origin, `${expectation(facts, true)}, found ${entry.value.what}`)
      return undefined
    }
    return { value: convert(facts, entry.value), origin }
  }

  /** Keys without a section: those of the one plugin that is selected. */
  #flat(flat: readonly [string, ParsedEntry][]): void {
    const { problems } = this.#context
    if (this.#sections.size > 0) {
      for (const [key, entry] of flat) {
        const owner = ownerOf(key)
        problems.add(this.#origin(key, entry.keyPlace), owner === undefined ? unknownTopLevel(key)
          : `a key of plugin ${owner}; since the configuration has plugin sections, write it as plugin.${owner}.${key}`)
      }
      return
    }
    const plugin = this.#flatPlugin(flat)
    if (plugin === undefined) return
    const section = this.#section(plugin, this.#origin(`plugin.${plugin}`, flat[0]![1].keyPlace))
    for (const [key, entry] of flat) {
      if (SECTION_KEYS.get(plugin)!.has(key)) {
        this.#setKey(section, key, key, entry)
        continue
      }
      const owner = ownerOf(key)
      problems.add(this.#origin(key, entry.keyPlace), owner === undefined ? unknownTopLevel(key, plugin)
        : `a key of plugin ${owner}, but plugin ${plugin} is selected`)
    }
  }

  #flatPlugin(flat: readonly [string, ParsedEntry][]): PluginName | undefined {
    const { selectorOption, selectorEnvironment, problems, warnings } = this.#context
    for (const selected of [selectorOption, this.#top.get('selector')?.value, selectorEnvironment]) {
      if (typeof selected === 'string' && selected !== 'auto') return isPluginName(selected) ? selected : undefined
      // "auto" of a stronger layer hides what a weaker one selects.
      if (selected === 'auto') break
    }
    const owners = new Set(flat.map(([key]) => ownerOf(key)).filter((owner) => owner !== undefined))
    const [owner] = owners
    if (owner !== undefined && owners.size === 1) {
      warnings.push(`no plugin is selected: the keys without a section are those of plugin ${owner} (${flat.map(([key]) => key).join(', ')})`)
      return owner
    }
    for (const [key, entry] of flat) {
      const theirs = ownerOf(key)
      problems.add(this.#origin(key, entry.keyPlace), theirs === undefined && key !== 'active' ? unknownTopLevel(key)
        : `keys without a section belong to the plugin that is selected, and none is: write plugin.${theirs ?? '<name>'}.${key}, or select a plugin`)
    }
    return undefined
  }

  /**
   * Whatever NIXL's own plugins are called, their parameters are strings. A section that we do not know is a misspelling, unless NIXL is asked for: by `agent`, or (with `agent` auto) by a section
   * that says `active = true` and is not nearly one of ours.
   */
  #checkUnknownSections(): void {
    const { problems, agentOption } = this.#context
    const agent = agentOption ?? this.#top.get('agent')?.value
    for (const [name, section] of this.#sections) {
      if (isPluginName(name)) continue
      const sameName = PLUGIN_NAMES.find((known) => known === name.toLowerCase()) ?? (/^hf3fs$/i.test(name) ? '3fs' : undefined)
      const active = section.settings.get('active')?.value
      const forNixl = agent === 'nixl' || ((agent === undefined || agent === 'auto') && active === true && closest(name, PLUGIN_NAMES) === undefined)
      if (!forNixl || sameName !== undefined) {
        const meant = sameName ?? closest(name, PLUGIN_NAMES)
        problems.add(section.origin, `there is no plugin ${describeFound(name)}; ${meant === undefined ? `the plugins are ${PLUGIN_NAMES.join(', ')}` : `did you mean "plugin.${meant}"?`}`
          + (sameName === undefined ? ' (plugins that only NIXL knows need agent = "nixl")' : ''))
        this.#sections.delete(name)
        continue
      }
      for (const [key, { value, origin }] of section.settings) {
        if (key === 'active' || typeof value === 'string') continue
        problems.add(origin, `expected a string: the parameters of a plugin that only NIXL knows are strings; found ${isSecretName(key) ? describeKind(value) : describeFound(value)}`)
        section.settings.delete(key)
      }
    }
  }

  /** secrete_key is how the connector's README spells it; NIXL reads secret_key. */
  #foldSecretSpellings(): void {
    const settings = this.#sections.get('obj')?.settings
    const readme = settings?.get('secrete_key')
    if (settings === undefined || readme === undefined) return
    const nixl = settings.get('secret_key')
    if (nixl !== undefined && nixl.value !== readme.value) {
      this.#context.problems.add(readme.origin, `${nixl.origin.key ?? 'secret_key'} is given too, with another value (neither is shown): they are the same key, give one of them`)
    }
    settings.delete('secrete_key')
    if (nixl === undefined) settings.set('secret_key', readme)
  }
}

const ACTIVE: KeyFacts = { name: 'active', types: ['boolean'], secret: false, alias: false }
const unknownKey = (name: string): KeyFacts => ({ name, types: ['string'], secret: isSecretName(name), alias: false })

function unknownTopLevel(key: string, plugin?: PluginName): string {
  const candidates = new Set([...TOP_LEVEL_KEYS.keys(), 'plugin'])
  for (const name of plugin === undefined ? PLUGIN_NAMES : [plugin]) for (const candidate of SECTION_KEYS.get(name)!.keys()) candidates.add(candidate)
  const meant = closest(key, candidates)
  // A whole section written at the top is a frequent slip.
  const section = isPluginName(key) ? `plugin.${key}` : undefined
  const hint = section !== undefined ? `did you mean the section ${section}?` : meant !== undefined ? `did you mean ${JSON.stringify(meant)}?`
    : plugin === undefined ? `the top-level keys are plugin, ${[...TOP_LEVEL_KEYS.keys()].join(', ')}`
      : `plugin ${plugin} has the keys ${[...SECTION_KEYS.get(plugin)!.keys()].join(', ')}`
  return `there is no such key; ${hint}`
}

const found = (value: ParsedValue): string => value.kind === 'scalar' ? describeFound(value.value) : describeParsedKind(value)
function describeParsedKind(value: ParsedValue): string {
  switch (value.kind) {
    case 'scalar': return describeKind(value.value)
    case 'list': return 'a list'
    case 'table': return 'a table'
    case 'other': return value.what
  }
}

/** The value as the schema wants it, or as it is when it cannot be that. */
function convert(facts: KeyFacts, parsed: Exclude<ParsedValue, { kind: 'other' }>): unknown {
  if (parsed.kind === 'table') return {}
  if (parsed.kind === 'list') return parsed.items.map((item) => item.kind === 'scalar' ? item.value : item.kind === 'list' ? [] : {})
  const { value } = parsed
  if (typeof value !== 'string') return value
  if (facts.types.includes('boolean') && facts.name !== REAL_BOOLEAN_KEY) {
    if (value === 'true' || value === 'True') return true
    if (value === 'false' || value === 'False') return false
  }
  if (facts.types.includes('integer') && /^[+-]?[0-9]+$/.test(value)) return Number(value)
  if (facts.types.includes('number') && /^[+-]?[0-9]+(?:\.[0-9]+)?$/.test(value)) return Number(value)
  if (facts.types.includes('array')) return splitDirectories(value)
  // The selector is written in capitals in the environment and in small letters in sections: any case means the same.
  if (facts.name === 'selector') return value.trim().toLowerCase()
  return value
}
