import { parseArgs } from 'node:util'
import type { Options, OptionSpec, OptionSpecs, OptionValues } from './command.js'
import { parseBytes } from './format.js'
import { suggest } from './suggest.js'
import { UsageError } from './usage-error.js'

/** Options that every command takes. */
export const COMMON_OPTIONS: OptionSpecs = {
  json: { type: 'boolean', help: 'One JSON object on stdout and nothing else there.' },
  quiet: { type: 'boolean', short: 'q', help: 'No progress and no notes on stderr; errors still show.' },
  help: { type: 'boolean', short: 'h', help: 'Show this help.' },
}

export interface ParsedOptions { readonly options: Options; readonly positionals: readonly string[] }

/**
 * Reads a command's arguments with node:util's parseArgs. The checks are done here, not by its strict mode, for messages that name what was probably meant.
 */
export function parseOptions(args: readonly string[], specs: OptionSpecs): ParsedOptions {
  const shorts = new Set(Object.values(specs).flatMap(({ short }) => short ?? []))
  const { tokens } = parseArgs({
    args: [...args],
    strict: false,
    allowPositionals: true,
    tokens: true,
    options: Object.fromEntries(Object.entries(specs).map(([name, { type, multiple, short }]) =>
      [name, { type, ...(multiple === undefined ? {} : { multiple }), ...(short === undefined ? {} : { short }) }])),
  })

  const values: Record<string, string | boolean | string[]> = Object.create(null) as Record<string, string | boolean | string[]>
  const positionals: string[] = []
  for (const token of tokens) {
    if (token.kind === 'positional') positionals.push(token.value)
    if (token.kind !== 'option') continue
    const spec = Object.hasOwn(specs, token.name) ? specs[token.name] : undefined
    if (spec === undefined) throw unknownOption(token.rawName, token.name, specs, shorts)
    if (spec.type === 'boolean') {
      if (token.value !== undefined) throw new UsageError(`option ${token.rawName} takes no value; found "${token.value}"`)
      values[token.name] = true
      continue
    }
    const value = checkedValue(token.rawName, token.value, token.inlineValue === true, spec)
    if (spec.multiple === true) {
      const list = values[token.name] as string[] | undefined
      if (list === undefined) values[token.name] = [value]
      else list.push(value)
    } else if (values[token.name] !== undefined && values[token.name] !== value) {
      throw new UsageError(`option ${token.rawName} was given twice, as "${String(values[token.name])}" and as "${value}"`)
    } else {
      values[token.name] = value
    }
  }
  return { options: new ParsedValues(values), positionals }
}

function checkedValue(rawName: string, value: string | undefined, inline: boolean, spec: OptionSpec): string {
  const wanted = spec.choices === undefined ? spec.value ?? 'a value' : listed(spec.choices)
  if (value === undefined) throw new UsageError(`option ${rawName} needs ${wanted}`)
  // parseArgs takes the next argument whatever it is; `--config --json` is far likelier a forgotten value than a file of that name.
  if (!inline && value.length > 1 && value.startsWith('-') && !/^-\d/.test(value)) {
    throw new UsageError(`option ${rawName} needs ${wanted}; found "${value}"`, `Write ${rawName}=${value} if that is the value.`)
  }
  if (spec.choices !== undefined && !spec.choices.includes(value)) {
    const near = suggest(value, spec.choices)
    throw new UsageError(`option ${rawName} must be ${wanted}; found "${value}"`, near === undefined ? undefined : `Did you mean ${near}?`)
  }
  return value
}

function listed(choices: readonly string[]): string { return choices.length < 2 ? choices.join() : `${choices.slice(0, -1).join(', ')} or ${choices.at(-1)!}` }

function unknownOption(rawName: string, name: string, specs: OptionSpecs, shorts: ReadonlySet<string>): UsageError {
  if (!rawName.startsWith('--')) {
    const known = [...shorts].map((short) => `-${short}`).join(', ')
    return new UsageError(`unknown option ${rawName}`, known === '' ? undefined : `Known short options: ${known}.`)
  }
  const near = suggest(name, Object.keys(specs))
  return new UsageError(`unknown option ${rawName}`, near === undefined ? undefined : `Did you mean --${near}?`)
}

class ParsedValues implements Options {
  readonly values: OptionValues

  constructor(values: OptionValues) { this.values = values }

  string(name: string): string | undefined {
    const value = this.values[name]
    return typeof value === 'string' ? value : undefined
  }

  strings(name: string): readonly string[] {
    const value = this.values[name]
    return Array.isArray(value) ? value as readonly string[] : typeof value === 'string' ? [value] : []
  }

  flag(name: string): boolean { return this.values[name] === true }

  integer(name: string, range: { min?: number; max?: number } = {}): number | undefined {
    return this.#number(name, range, 'a whole number', (text) => /^-?\d+$/.test(text) ? Number(text) : undefined)
  }

  bytes(name: string, range: { min?: number; max?: number } = {}): number | undefined {
    return this.#number(name, range, 'a size in bytes (65536, 64KiB, 1.5GiB)', parseBytes)
  }

  #number(
    name: string, { min = 0, max = Number.MAX_SAFE_INTEGER }: { min?: number; max?: number }, what: string, parse: (text: string) => number | undefined,
  ): number | undefined {
    const text = this.string(name)
    if (text === undefined) return undefined
    const value = parse(text)
    if (value === undefined || !Number.isSafeInteger(value)) throw new UsageError(`option --${name} must be ${what}; found "${text}"`)
    if (value < min || value > max) {
      const range = max === Number.MAX_SAFE_INTEGER ? `at least ${min}` : `from ${min} to ${max}`
      throw new UsageError(`option --${name} must be ${range}; found ${text}`)
    }
    return value
  }
}
