import { configSchema } from './config-schema.generated.js'
import type { Configuration } from './config-types.generated.js'

/** The five plugins, by the names of their sections. */
export type PluginName = '3fs' | 'posix' | 'gds_mt' | 'gds' | 'obj'
/** In the order in which they are preferred. */
export const PLUGIN_NAMES: readonly PluginName[] = ['3fs', 'posix', 'gds_mt', 'gds', 'obj']

export type PluginSections = Required<NonNullable<Configuration['plugin']>>

/** What the schema says about one key. */
export interface KeyFacts {
  readonly name: string
  readonly types: readonly string[]
  readonly values?: readonly unknown[]
  readonly minimum?: number
  readonly exclusiveMinimum?: number
  readonly maximum?: number
  readonly multipleOf?: number
  /** For strings with a pattern: what is expected, in words. */
  readonly words?: string
  /** For lists: what an element is. */
  readonly itemWords?: string
  readonly default?: unknown
  /** Never shown in any message or output. */
  readonly secret: boolean
  /** Another spelling of a key, folded into it. */
  readonly alias: boolean
}

interface SchemaNode {
  readonly $ref?: string
  readonly $comment?: string
  readonly type?: string | readonly string[]
  readonly enum?: readonly unknown[]
  readonly minimum?: number
  readonly exclusiveMinimum?: number
  readonly maximum?: number
  readonly multipleOf?: number
  readonly default?: unknown
  readonly writeOnly?: boolean
  readonly deprecated?: boolean
  readonly items?: SchemaNode
  readonly properties?: Readonly<Record<string, SchemaNode>>
}

function resolve(node: SchemaNode): SchemaNode {
  if (node.$ref === undefined) return node
  const name = node.$ref.replace('#/$defs/', '')
  return (configSchema.$defs as Readonly<Record<string, SchemaNode>>)[name]!
}

function facts(name: string, unresolved: SchemaNode): KeyFacts {
  const node = resolve(unresolved)
  return {
    name,
    types: typeof node.type === 'string' ? [node.type] : node.type ?? [],
    ...(node.enum === undefined ? {} : { values: node.enum }),
    ...(node.minimum === undefined ? {} : { minimum: node.minimum }),
    ...(node.exclusiveMinimum === undefined ? {} : { exclusiveMinimum: node.exclusiveMinimum }),
    ...(node.maximum === undefined ? {} : { maximum: node.maximum }),
    ...(node.multipleOf === undefined ? {} : { multipleOf: node.multipleOf }),
    ...(node.$comment === undefined ? {} : { words: node.$comment }),
    ...(node.items?.$comment === undefined ? {} : { itemWords: node.items.$comment }),
    ...(node.default === undefined ? {} : { default: node.default }),
    secret: node.writeOnly === true,
    alias: node.deprecated === true,
  }
}

const keysOf = (node: SchemaNode): ReadonlyMap<string, KeyFacts> =>
  new Map(Object.entries(node.properties ?? {}).map(([name, property]) => [name, facts(name, property)]))

const root: SchemaNode = configSchema

/** The keys at the top, without the sections. */
export const TOP_LEVEL_KEYS: ReadonlyMap<string, KeyFacts> = new Map([...keysOf(root)].filter(([name]) => name !== 'plugin'))

/** The keys of each section, `active` among them. */
export const SECTION_KEYS: ReadonlyMap<PluginName, ReadonlyMap<string, KeyFacts>> =
  new Map(PLUGIN_NAMES.map((name) => [name, keysOf(resolve(root.properties!.plugin!.properties![name]!))]))

export const isPluginName = (name: string): name is PluginName => (PLUGIN_NAMES as readonly string[]).includes(name)

/** The plugin that has a key of this name, if one has. No two have the same (`active` apart). */
export function ownerOf(key: string): PluginName | undefined {
  return key === 'active' ? undefined : PLUGIN_NAMES.find((plugin) => SECTION_KEYS.get(plugin)!.has(key))
}

/** Keys of sections that we do not know are secret by their name. */
const SECRET_NAME = /secret|token|passw|credential|access_?key|api_?key|private/i
export const isSecretName = (key: string): boolean => SECRET_NAME.test(key)

/** The one key for which the specification insists on a real boolean. */
export const REAL_BOOLEAN_KEY = 'l3_cleaner_enabled'

/** What a key takes, in words. `fromText`: strings stand for booleans and numbers too. */
export function expectation(key: KeyFacts, fromText: boolean): string {
  if (key.values !== undefined) {
    const values = key.values.filter((value) => value !== null).map((value) => JSON.stringify(value))
    return `expected one of ${values.join(', ')}`
  }
  if (key.types.includes('boolean')) {
    if (key.name === REAL_BOOLEAN_KEY) return 'expected true or false as a real boolean, not a string'
    return fromText ? 'expected true or false (or the strings "true" and "false")' : 'expected true or false'
  }
  const whole = key.types.includes('integer')
  if (whole || key.types.includes('number')) {
    const noun = whole ? 'a whole number' : 'a number'
    const range = key.exclusiveMinimum === undefined
      ? ` from ${key.minimum ?? '-infinity'} to ${key.maximum ?? 'infinity'}` : ` above ${key.exclusiveMinimum}, at most ${key.maximum ?? 'infinity'}`
    return `expected ${noun}${range}${key.multipleOf === undefined ? '' : `, a multiple of ${key.multipleOf}`}`
  }
  if (key.types.includes('array')) return `expected 1 to 64 directories, each ${key.itemWords ?? 'a string'}`
  return `expected ${key.words ?? 'a string'}`
}
