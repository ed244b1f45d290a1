import { HiCacheError } from '../error.js'
import type { Place } from './parsed-value.js'

/** Which layer a value comes from; the earlier in this list, the stronger. */
export type SettingLayer = 'option' | 'configuration' | 'environment' | 'default'

/** Where a value was written, for the message that finds fault with it. */
export interface Origin {
  readonly layer: Exclude<SettingLayer, 'default'>
  /** A file's path, or `<object>`, `<inline>`, `<environment>`, `<options>`. */
  readonly file: string
  readonly place?: Place
  /** The key as it was written there. */
  readonly key?: string
}

export interface Setting { readonly value: unknown; readonly origin: Origin }

/** One plugin section as it was given. */
export interface SectionSettings { readonly name: string; readonly origin: Origin; readonly settings: Map<string, Setting> }

/** A key that could break a line of a log, or hide in one, is shown as JSON. */
const shownKey = (key: string): string => /^[\w.@$ -]{1,200}$/.test(key) ? key : JSON.stringify(key.slice(0, 200))

/** Collects what is wrong, so that a check can show all of it at once. */
export class ConfigProblems {
  readonly #problems: HiCacheError[] = []

  /** `text` says what was expected and what was found; the value of a secret never. */
  add(origin: Origin, text: string): void {
    const { file, place, key, layer } = origin
    const at = place === undefined ? file : `${file}:${place.line}:${place.column}`
    // What the program passed is its own argument; everything else is configuration.
    this.#problems.push(new HiCacheError(layer === 'option' ? 'ERR_ARGUMENT' : 'ERR_CONFIG', `${at}: ${key === undefined ? '' : `${shownKey(key)}: `}${text}`,
      place === undefined ? {} : { where: { file, line: place.line, column: place.column } }))
  }

  get empty(): boolean { return this.#problems.length === 0 }

  /** In the order of the text; those without a place first. */
  sorted(): HiCacheError[] {
    const rank = ({ where }: HiCacheError): number => where === undefined ? 0 : where.line * 1e6 + where.column
    return this.#problems.toSorted((a, b) => rank(a) - rank(b))
  }
}
