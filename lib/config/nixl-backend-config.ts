import { inspect } from 'node:util'
import { resolve } from 'node:path'
import { HiCacheError } from '../error.js'
import { readConfigSource } from './config-source.js'
import type { Configuration } from './config-types.generated.js'
import { STORAGE_DIR_VARIABLE, readEnvironment, splitDirectories } from './environment.js'
import { normalise } from './normalise.js'
import { proxyOfEnvironment } from './proxy-environment.js'
import { describeFound } from './parsed-value.js'
import {
  SECTION_KEYS, TOP_LEVEL_KEYS, expectation, isPluginName, isSecretName, type PluginName, type PluginSections,
} from './schema-facts.js'
import { ConfigProblems, type Origin, type SectionSettings, type Setting, type SettingLayer } from './setting.js'
import { closest } from './spelling.js'
import { sameDirectories } from './storage-directories.js'
import { validateSettings } from './validate.js'

type CamelCase<S extends string> = S extends `${infer Head}_${infer Tail}` ? `${Head}${Capitalize<CamelCase<Tail>>}` : S
type TopLevel = Required<Omit<Configuration, 'plugin' | 'selector' | 'storage_dir'>>

/** The top-level options under the names that the programming interface uses (`timeout_ms` is `timeoutMs`), defaults filled in. null: chosen when the cache opens. */
export type NixlBackendOptions = { readonly [Key in keyof TopLevel as CamelCase<Key>]: TopLevel[Key] }

/** What a caller may set above configuration and environment; what is undefined is left to them. */
export type NixlBackendOverrides = { readonly [Key in keyof NixlBackendOptions]?: NixlBackendOptions[Key] | undefined }
  & { readonly storageDir?: string | readonly string[] | undefined }

export interface NixlBackendConfigInput {
  /** Nothing, `@path` to a .toml, .json, .yaml or .yml file, an inline text, or an object. */
  readonly config?: string | object | null | undefined
  /** Default: process.env. */
  readonly env?: NodeJS.ProcessEnv | undefined
  /** The caller's choice of a plugin, in any case; stronger than the configuration's. Keys without a section are that plugin's. */
  readonly plugin?: string | undefined
  /** The caller's choice of the POSIX plugin's engine; stronger than the use_* keys. */
  readonly engine?: PosixEngine | undefined
  readonly overrides?: NixlBackendOverrides | undefined
  /** Where the absolute path of a storage directory leads. Default: the file system is asked, which holds the thread up on a mount that hangs. */
  readonly realPath?: ((path: string) => string) | undefined
}

/** The engine that the use_* keys of plugin.posix ask for. */
export type PosixEngine = 'io_uring' | 'aio' | 'posix_aio' | 'auto'

/** A plugin section as it was given, without values: some are secret. */
export interface GivenSection { readonly name: string; readonly active: boolean | undefined; readonly keys: readonly string[] }

/** What a secret looks like wherever it would be shown. */
export const MASK = '***'

interface Loaded {
  readonly source: string
  readonly selector: { readonly plugin: PluginName | 'auto'; readonly from: SettingLayer }
  readonly top: ReadonlyMap<string, Setting>
  readonly sections: ReadonlyMap<string, SectionSettings>
  readonly objEnvironment: ReadonlyMap<string, Setting>
  readonly env: NodeJS.ProcessEnv
  readonly engine: PosixEngine | undefined
  readonly storageDirs: readonly string[]
  readonly storageDirSource: 'option' | 'config' | 'environment' | 'default'
  readonly warnings: readonly string[]
}

/** Which key of plugin.posix asks for which engine. */
const ENGINE_KEYS: Readonly<Record<string, PosixEngine>> = { use_uring: 'io_uring', use_posix_aio: 'posix_aio', use_aio: 'aio' }

const PRIVATE = Symbol('made by load()')

/**
 * The configuration of a cache: read, normalised and valid. Made by {@link NixlBackendConfig.load}.
 *
 * A value comes from the caller's overrides, else from the configuration, else from the environment, else it is the default.
 * Values that are secret are in no property that can be enumerated, printed or serialised; only {@link initParams} and {@link section}
 * hand them out.
 */
export class NixlBackendConfig {
  /** Where the configuration came from, for a person: `defaults`, `file /etc/hicache.toml`, `an inline text`, `an object`. */
  readonly source: string
  /** The plugin that was asked for apart from `active` sections, and by which layer. */
  readonly selector: { readonly plugin: PluginName | 'auto'; readonly from: SettingLayer }
  /** The plugin sections that the configuration gave, by name. */
  readonly sections: ReadonlyMap<string, GivenSection>
  readonly options: NixlBackendOptions
  /** Absolute paths; no two lead to one directory. */
  readonly storageDirs: readonly string[]
  readonly storageDirSource: 'option' | 'config' | 'environment' | 'default'
  /** The environment variable that names the directories, where one does: SGLang's, so that its Python connector may look for pages in them too. */
  readonly storageDirVariable: string | null
  /** What is valid but worth a word. */
  readonly warnings: readonly string[]
  readonly #sections: ReadonlyMap<string, SectionSettings>
  readonly #objEnvironment: ReadonlyMap<string, Setting>
  readonly #env: NodeJS.ProcessEnv
  readonly #engine: PosixEngine | undefined

  /** Use {@link NixlBackendConfig.load}. */
  constructor(token: symbol, loaded: Loaded) {
    if (token !== PRIVATE) throw new HiCacheError('ERR_ARGUMENT', 'a NixlBackendConfig is made by NixlBackendConfig.load()')
    this.source = loaded.source
    this.selector = loaded.selector
    this.sections = new Map([...loaded.sections].map(([name, { settings }]) =>
      [name, { name, active: settings.get('active')?.value as boolean | undefined, keys: [...settings.keys()] }]))
    this.options = optionsOf(loaded.top)
    this.storageDirs = loaded.storageDirs
    this.storageDirSource = loaded.storageDirSource
    this.storageDirVariable = loaded.storageDirSource === 'environment' ? STORAGE_DIR_VARIABLE : null
    this.warnings = loaded.warnings
    this.#sections = loaded.sections
    this.#objEnvironment = loaded.objEnvironment
    this.#env = loaded.env
    this.#engine = loaded.engine
  }

  /**
   * Reads, normalises and validates a configuration.
   *
   * @throws {HiCacheError} ERR_CONFIG: the first thing that is wrong, as `<file>:<line>:<column>: <key>: what was expected, what was found`, with
   * `where` when it came from a text; ERR_ARGUMENT for a bad `plugin` or override.
   */
  static load(input: NixlBackendConfigInput = {}): NixlBackendConfig {
    const { config, problems } = NixlBackendConfig.check(input)
    if (config === null) throw problems[0]!
    return config
  }

  /** As {@link load}, but answers everything that is wrong instead of throwing the first. */
  static check(input: NixlBackendConfigInput = {}): { config: NixlBackendConfig | null; problems: readonly HiCacheError[] } {
    const problems = new ConfigProblems()
    const loaded = load(input, problems)
    return problems.empty ? { config: new NixlBackendConfig(PRIVATE, loaded), problems: [] } : { config: null, problems: problems.sorted() }
  }

  /** The engine of the POSIX plugin; `auto` = the first that works of Linux AIO, io_uring and POSIX AIO. */
  get posixEngine(): PosixEngine {
    const values = this.#values('posix')
    return Object.entries(ENGINE_KEYS).find(([key]) => values.get(key) === true)?.[1] ?? 'auto'
  }

  /** The `active` of a section; undefined when the section or the key is not there. */
  active(plugin: string): boolean | undefined {
    return this.sections.get(plugin)?.active
  }

  /** A section's values with defaults (and, for obj, the AWS variables where the configuration is silent). Those of obj hold secrets. */
  section<Plugin extends PluginName>(plugin: Plugin): Readonly<PluginSections[Plugin]> {
    return Object.fromEntries(this.#values(plugin)) as PluginSections[Plugin]
  }

  /**
   * URL of the proxy on the way to `url`; empty: none.
   *
   * @throws {HiCacheError} ERR_CONFIG for a proxy of the environment that has credentials in it: they would show wherever the proxy does.
   */
  proxyFor(url: URL): string {
    const { objectProxy } = this.options
    if (objectProxy !== 'environment') return objectProxy ?? ''
    const found = proxyOfEnvironment(this.#env, url)
    if (found === null) return ''
    if (found.proxy.includes('@')) throw new HiCacheError('ERR_CONFIG', `<environment>: ${found.variable}: ${PROXY_CREDENTIALS}`)
    if (!PROXY.test(found.proxy)) throw new HiCacheError('ERR_CONFIG', `<environment>: ${found.variable}: ${expectation(TOP_LEVEL_KEYS.get('object_proxy')!, true)}, found ${describeFound(found.proxy)}`)
    return found.proxy
  }

  /** The parameters that NIXL's plugin gets: strings, defaults filled in, secret_key in NIXL's spelling. Those of obj hold secrets. */
  initParams(plugin: string): Record<string, string> {
    return Object.fromEntries([...this.#values(plugin)].filter(([key]) => key !== 'active').map(([key, value]) => [key, String(value)]))
  }

  /** {@link initParams} with `***` for what is secret: for people and logs. */
  shownInitParams(plugin: string): Record<string, string> {
    const keys = isPluginName(plugin) ? SECTION_KEYS.get(plugin) : undefined
    return Object.fromEntries(Object.entries(this.initParams(plugin)).map(([key, value]) =>
      [key, value !== '' && (keys?.get(key)?.secret === true || (keys === undefined && isSecretName(key))) ? MASK : value]))
  }

  #values(plugin: string): Map<string, unknown> {
    const given = this.#sections.get(plugin)?.settings
    const values = new Map<string, unknown>()
    if (isPluginName(plugin)) {
      for (const [key, facts] of SECTION_KEYS.get(plugin)!) {
        const value = given?.get(key)?.value ?? facts.default
        if (value !== undefined && !facts.alias) values.set(key, value)
      }
    } else for (const [key, { value }] of given ?? []) values.set(key, value)
    if (plugin === 'posix' && this.#engine !== undefined) {
      for (const [key, engine] of Object.entries(ENGINE_KEYS)) values.set(key, engine === this.#engine)
    }
    if (plugin === 'obj') {
      const silent = (key: string): boolean => values.get(key) === ''
      // A session token belongs to the keys it was issued with: the environment's is of no use beside keys of the configuration.
      const ownKeys = !silent('access_key') && !silent('secret_key')
      for (const [key, { value }] of this.#objEnvironment) if (silent(key) && !(key === 'session_token' && ownKeys)) values.set(key, value)
    }
    return values
  }

  /** Everything but secrets, in the names of a configuration file. */
  toJSON(): Record<string, unknown> {
    const plugins = new Set([...this.sections.keys(), ...(this.selector.plugin === 'auto' ? [] : [this.selector.plugin])])
    return {
      source: this.source,
      selector: { ...this.selector },
      sections: Object.fromEntries([...this.sections].map(([name, { active }]) => [name, active === undefined ? {} : { active }])),
      initParams: Object.fromEntries([...plugins].map((name) => [name, this.shownInitParams(name)])),
      options: this.shownOptions(),
      storageDirs: [...this.storageDirs],
      storageDirSource: this.storageDirSource,
      warnings: [...this.warnings],
    }
  }

  /** The options in the names of a configuration file. */
  shownOptions(): Record<string, unknown> {
    return Object.fromEntries(OPTION_KEYS.map((key) => [key, (this.options as Readonly<Record<string, unknown>>)[camelCase(key)]]))
  }

  [inspect.custom](_depth: number, options: object): string {
    return `NixlBackendConfig ${inspect(this.toJSON(), options)}`
  }
}

/** The keys that are options: all of the top but the selector and the directories, which have properties of their own. */
const OPTION_KEYS: readonly string[] = [...TOP_LEVEL_KEYS.keys()].filter((key) => key !== 'selector' && key !== 'storage_dir')
const camelCase = (key: string): string => key.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())

function optionsOf(top: ReadonlyMap<string, Setting>): NixlBackendOptions {
  const value = (key: string): unknown => {
    const given = top.get(key)?.value
    return given === undefined ? TOP_LEVEL_KEYS.get(key)!.default : given
  }
  return Object.freeze(Object.fromEntries(OPTION_KEYS.map((key) => [camelCase(key), value(key)]))) as unknown as NixlBackendOptions
}

function load(input: NixlBackendConfigInput, problems: ConfigProblems): Loaded {
  const environment = readEnvironment(input.env ?? process.env, problems)
  const overrides = readOverrides(input.overrides ?? {}, problems)
  const selectorOption = readSelectorOption(input.plugin, problems)
  const source = readConfigSource(input.config, problems)
  const warnings = [...environment.warnings]
  const selectorEnvironment = environment.top.get('selector')?.value as string | undefined
  const agentOption = overrides.get('agent')?.value
  const { top, sections } = source.root === undefined ? { top: new Map<string, Setting>(), sections: new Map<string, SectionSettings>() }
    : normalise(source.root, {
        file: source.file, problems, warnings,
        ...(selectorOption === undefined ? {} : { selectorOption }),
        ...(selectorEnvironment === undefined ? {} : { selectorEnvironment }),
        ...(typeof agentOption === 'string' ? { agentOption } : {}),
      })

  // Each layer by itself: a bad value is a problem even where a stronger layer hides it.
  for (const layer of [environment.top, overrides]) validateSettings(layer, new Map(), problems)
  validateSettings(top, sections, problems)
  checkEngines(sections, problems)
  const selector = selectorOption === undefined ? top.get('selector') ?? environment.top.get('selector') : undefined
  const selected = selectorOption ?? selector?.value ?? 'auto'
  checkEndpoint(sections.get('obj')?.settings.get('endpoint_override'), problems)
  const endpoint = environment.obj.get('endpoint_override')
  if (sections.has('obj') || selected === 'obj') checkEndpoint(endpoint, problems)
  else if (hasCredentials(endpoint)) {
    // A variable of somebody else's is no reason to refuse a cache that probably has no use for it.
    environment.obj.delete('endpoint_override')
    warnings.push(`${endpoint!.origin.key!} is ignored: it has credentials in it`)
  }

  for (const layer of [top, overrides]) {
    checkPrefix(layer.get('object_prefix'), problems)
    checkProxy(layer.get('object_proxy'), problems)
  }

  const merged = new Map([...environment.top, ...top, ...overrides])
  checkWatermarks(merged, problems)
  const directories = storageDirectories(merged.get('storage_dir'), problems, input.realPath)
  return {
    source: source.description,
    selector: { plugin: selected as PluginName | 'auto', from: selectorOption !== undefined ? 'option' : selector?.origin.layer ?? 'default' },
    top: merged,
    sections,
    objEnvironment: environment.obj,
    env: input.env ?? process.env,
    engine: readEngineOption(input.engine, problems),
    ...directories,
    warnings,
  }
}

function readSelectorOption(plugin: unknown, problems: ConfigProblems): PluginName | 'auto' | undefined {
  if (plugin === undefined) return undefined
  const facts = TOP_LEVEL_KEYS.get('selector')!
  const name = typeof plugin === 'string' ? plugin.trim().toLowerCase() : ''
  if (facts.values!.includes(name)) return name as PluginName | 'auto'
  const meant = closest(name, facts.values as readonly string[])
  problems.add({ layer: 'option', file: '<options>', key: 'plugin' },
    `${expectation(facts, false)}, found ${describeFound(plugin)}${meant === undefined ? '' : `; did you mean ${JSON.stringify(meant)}?`}`)
  return undefined
}

function readEngineOption(engine: unknown, problems: ConfigProblems): PosixEngine | undefined {
  if (engine === undefined) return undefined
  const engines: readonly unknown[] = ['auto', ...Object.values(ENGINE_KEYS)]
  if (engines.includes(engine)) return engine as PosixEngine
  problems.add({ layer: 'option', file: '<options>', key: 'engine' },
    `expected one of ${engines.map((one) => JSON.stringify(one)).join(', ')}, found ${describeFound(engine)}`)
  return undefined
}

function readOverrides(overrides: NixlBackendOverrides, problems: ConfigProblems): Map<string, Setting> {
  const settings = new Map<string, Setting>()
  const names = new Map([...OPTION_KEYS, 'storage_dir'].map((key) => [camelCase(key), key]))
  for (const [name, value] of Object.entries(overrides as Readonly<Record<string, unknown>>)) {
    if (value === undefined) continue
    const origin: Origin = { layer: 'option', file: '<options>', key: name }
    const key = names.get(name)
    if (key === undefined) {
      const meant = closest(name, names.keys())
      problems.add(origin, `there is no such option${meant === undefined ? '' : `; did you mean ${JSON.stringify(meant)}?`}`)
    } else settings.set(key, { value: key === 'storage_dir' && typeof value === 'string' ? splitDirectories(value) : value, origin })
  }
  return settings
}

function checkEngines(sections: ReadonlyMap<string, SectionSettings>, problems: ConfigProblems): void {
  const settings = sections.get('posix')?.settings
  const asked = Object.keys(ENGINE_KEYS).flatMap((key) => {
    const setting = settings?.get(key)
    return setting?.value === true ? [{ key, setting }] : []
  })
  if (asked.length < 2) return
  const last = asked.at(-1)!
  problems.add(last.setting.origin, `at most one engine may be true, found ${asked.map(({ key }) => key).join(' and ')}: one plugin runs on one engine`)
}

function checkWatermarks(merged: ReadonlyMap<string, Setting>, problems: ConfigProblems): void {
  const low = merged.get('l3_cleaner_low_watermark')
  const high = merged.get('l3_cleaner_high_watermark')
  const lowValue = low === undefined ? TOP_LEVEL_KEYS.get('l3_cleaner_low_watermark')!.default : low.value
  const highValue = high === undefined ? TOP_LEVEL_KEYS.get('l3_cleaner_high_watermark')!.default : high.value
  const guilty = low ?? high
  if (guilty === undefined || typeof lowValue !== 'number' || typeof highValue !== 'number' || lowValue <= highValue) return
  const say = (value: number, setting: Setting | undefined): string => `${value}${setting === undefined ? ' (the default)' : ''}`
  problems.add(guilty.origin, `expected a low watermark that is not above the high one, found low ${say(lowValue, low)} and high ${say(highValue, high)}: `
    + 'the cleaner starts at the high one and stops at the low one')
}

/** Credentials in a URL would show wherever the endpoint does. */
const hasCredentials = (endpoint: Setting | undefined): boolean => typeof endpoint?.value === 'string' && endpoint.value.includes('@')
function checkEndpoint(endpoint: Setting | undefined, problems: ConfigProblems): void {
  if (endpoint === undefined || !hasCredentials(endpoint)) return
  problems.add(endpoint.origin, 'expected an address without credentials, found one with an @ (which is not shown): give access_key and secret_key instead')
}

const PREFIX_BYTES_MAX = 512
function checkPrefix(prefix: Setting | undefined, problems: ConfigProblems): void {
  // The schema counts characters, and object keys are bounded in bytes.
  if (typeof prefix?.value !== 'string' || prefix.value.length > PREFIX_BYTES_MAX || Buffer.byteLength(prefix.value) <= PREFIX_BYTES_MAX) return
  problems.add(prefix.origin, `${expectation(TOP_LEVEL_KEYS.get('object_prefix')!, true)}, found ${describeFound(prefix.value)}`)
}

const PROXY = /^(?:https?|socks5h?):\/\/[^\s/?#@]+\/?$/i
const PROXY_CREDENTIALS = 'expected a proxy without credentials, found one with an @ (which is not shown): let a local proxy add them'
function checkProxy(proxy: Setting | undefined, problems: ConfigProblems): void {
  if (typeof proxy?.value !== 'string' || proxy.value === '' || proxy.value === 'environment' || PROXY.test(proxy.value)) return
  if (proxy.value.includes('@')) problems.add(proxy.origin, PROXY_CREDENTIALS)
  else if (!proxy.value.includes('\0')) problems.add(proxy.origin, `${expectation(TOP_LEVEL_KEYS.get('object_proxy')!, true)}, found ${describeFound(proxy.value)}`)
}

function storageDirectories(setting: Setting | undefined, problems: ConfigProblems, realPath?: (path: string) => string): Pick<Loaded, 'storageDirs' | 'storageDirSource'> {
  const value = setting === undefined ? TOP_LEVEL_KEYS.get('storage_dir')!.default : setting.value
  const layer = setting?.origin.layer
  const storageDirSource = layer === undefined ? 'default' : layer === 'configuration' ? 'config' : layer
  // A value that is not a list of paths has its problem already.
  const paths = Array.isArray(value) && value.every((path) => typeof path === 'string' && path !== '' && !path.includes('\0')) ? value as string[] : []
  const same = sameDirectories(paths, realPath)
  if (same !== undefined && setting !== undefined) {
    problems.add(setting.origin, `expected directories that differ, found ${describeFound(same.first)} and ${describeFound(same.second)}, which are both ${describeFound(same.realPath)}`)
  }
  return { storageDirs: paths.map((path) => resolve(path)), storageDirSource }
}
