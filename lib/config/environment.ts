import { TOP_LEVEL_KEYS, expectation } from './schema-facts.js'
import { describeFound } from './parsed-value.js'
import { closest } from './spelling.js'
import type { ConfigProblems, Origin, Setting } from './setting.js'

export const STORAGE_DIR_VARIABLE = 'SGLANG_HICACHE_NIXL_BACKEND_STORAGE_DIR'
/** The connector's README has the first name, its code the second. */
export const SELECTOR_VARIABLES = ['SGLANG_HICACHE_NIXL_BACKEND_PLUGIN_TYPE', 'SGLANG_HICACHE_NIXL_BACKEND_PLUGIN'] as const
export const DIRECT_IO_VARIABLE = 'SGLANG_HICACHE_NIXL_USE_DIRECT_IO'
/** Which variables stand in for which key of plugin.obj; the first that is set counts. */
export const OBJ_VARIABLES: Readonly<Record<string, readonly string[]>> = {
  bucket: ['AWS_DEFAULT_BUCKET'],
  endpoint_override: ['AWS_ENDPOINT_OVERRIDE', 'AWS_ENDPOINT_URL_S3', 'AWS_ENDPOINT_URL'],
  access_key: ['AWS_ACCESS_KEY_ID'],
  secret_key: ['AWS_SECRET_ACCESS_KEY'],
  session_token: ['AWS_SESSION_TOKEN'],
  region: ['AWS_REGION', 'AWS_DEFAULT_REGION'],
  ca_bundle: ['AWS_CA_BUNDLE'],
}

export interface EnvironmentSettings {
  /** storage_dir, selector and use_direct_io, where the environment says them. */
  readonly top: Map<string, Setting>
  /** What stands in for keys of plugin.obj. Holds secrets. */
  readonly obj: Map<string, Setting>
  readonly warnings: string[]
}

/** A comma-separated list of directories: trimmed, empties dropped. */
export function splitDirectories(text: string): string[] {
  return text.split(',').map((part) => part.trim()).filter((part) => part !== '')
}

/** Reads the environment's share of the configuration. A variable that is empty counts as not set. */
export function readEnvironment(env: NodeJS.ProcessEnv, problems: ConfigProblems): EnvironmentSettings {
  const top = new Map<string, Setting>()
  const obj = new Map<string, Setting>()
  const warnings: string[] = []
  const given = (name: string): string | undefined => {
    const value = Object.hasOwn(env, name) ? env[name] : undefined
    return value === undefined || value.trim() === '' ? undefined : value
  }
  const origin = (key: string): Origin => ({ layer: 'environment', file: '<environment>', key })

  const directories = given(STORAGE_DIR_VARIABLE)
  if (directories !== undefined) {
    const value = splitDirectories(directories)
    if (value.length > 0) top.set('storage_dir', { value, origin: origin(STORAGE_DIR_VARIABLE) })
    else warnings.push(`${STORAGE_DIR_VARIABLE} names no directory: the default holds`)
  }

  const selectors = SELECTOR_VARIABLES.map((name) => ({ name, value: given(name)?.trim().toLowerCase() }))
  const [first, second] = selectors.filter(({ value }) => value !== undefined)
  if (first !== undefined) {
    if (second !== undefined && second.value !== first.value) {
      problems.add(origin(first.name), `it says ${describeFound(first.value)}, and ${second.name} says ${describeFound(second.value)}: set one of them, or both alike`)
    }
    const facts = TOP_LEVEL_KEYS.get('selector')!
    if (facts.values!.includes(first.value)) top.set('selector', { value: first.value, origin: origin(first.name) })
    else {
      const meant = closest(first.value!, facts.values as readonly string[])
      problems.add(origin(first.name), `${expectation(facts, true)}, found ${describeFound(given(first.name))}${meant === undefined ? '' : `; did you mean ${JSON.stringify(meant)}?`}`)
    }
  }

  const direct = given(DIRECT_IO_VARIABLE)
  if (direct !== undefined) {
    // SGLang's own reading of a boolean variable.
    if (/^(?:true|1|yes|y)$/i.test(direct.trim())) top.set('use_direct_io', { value: true, origin: origin(DIRECT_IO_VARIABLE) })
    else if (/^(?:false|0|no|n)$/i.test(direct.trim())) top.set('use_direct_io', { value: false, origin: origin(DIRECT_IO_VARIABLE) })
    else problems.add(origin(DIRECT_IO_VARIABLE), `expected true or false, found ${describeFound(direct)}`)
  }

  for (const [key, names] of Object.entries(OBJ_VARIABLES)) {
    const name = names.find((one) => given(one) !== undefined)
    if (name !== undefined) obj.set(key, { value: given(name), origin: origin(name) })
  }
  return { top, obj, warnings }
}
