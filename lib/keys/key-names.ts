import { HiCacheError, describe } from '../error.js'
import { checkKey } from './check-key.js'
import { type KeyScheme, keyScheme, suffixOf } from './key-scheme.js'

/** How the page API lays a page out in memory: keys and values apart, straight from the pool, or as one tensor. */
export type PageForm = 'zero-copy' | 'one-tensor'

const POOL = /^[A-Za-z][A-Za-z0-9_-]*$/

/**
 * The names that HiCache gives to pages in a store, for one model and rank.
 *
 * Every method throws `ERR_KEY` for a key that cannot name a page (see {@link checkKey}): keys are refused, never encoded.
 */
export class KeyNames {
  readonly scheme: KeyScheme
  /** What follows the key: `_Qwen-Qwen3-8B_0_2`. */
  readonly suffix: string
  /** This rank answers a write with true and stores nothing: of an MLA model only rank 0 writes. */
  readonly backupSkip: boolean

  /** @throws {HiCacheError} `ERR_ARGUMENT` for an invalid scheme. */
  constructor(scheme: { readonly [Name in keyof KeyScheme]?: KeyScheme[Name] | undefined } = {}) {
    this.scheme = keyScheme(scheme)
    this.suffix = suffixOf(this.scheme)
    this.backupSkip = this.scheme.isMlaModel && this.scheme.tpRank !== 0
  }

  /** The tensor API's name of `key`, and the page API's of a page in one tensor. */
  storedKey(key: string): string {
    checkKey(key, this.suffix)
    return key + this.suffix
  }

  /**
   * The page API's names of the page with `hash`: `_k` and `_v` in zero-copy form (`_k` alone for an MLA model), or one name
   * without either as one tensor.
   */
  pageKeys(hash: string, form: PageForm = 'zero-copy'): string[] {
    if (form === 'one-tensor') return [this.storedKey(hash)]
    return this.#parts(hash, this.scheme.isMlaModel ? ['_k'] : ['_k', '_v'])
  }

  /**
   * The names of a component pool's parts: one without a mark, two as `_k` and `_v`, more by number from 0. `pool` is a letter and
   * then letters, digits, `_` or `-`.
   */
  poolKeys(hash: string, pool: string, parts = 1): string[] {
    if (typeof pool !== 'string' || !POOL.test(pool)) {
      const shape = 'a letter and then letters, digits, "_" or "-"'
      throw new HiCacheError('ERR_ARGUMENT', `A pool's name must be ${shape}, but is ${describe(pool)}.`)
    }
    const count = partCount('parts', parts, 1)
    if (count === 1) return this.#parts(hash, [`_${pool}`])
    if (count === 2) return this.#parts(hash, [`_${pool}_k`, `_${pool}_v`])
    return this.#parts(hash, Array.from({ length: count }, (_, i) => `_${pool}_${i}`))
  }

  /** The names of a Mamba state: the temporal one, then `convolutions` convolution states by number from 0. */
  mambaKeys(hash: string, convolutions: number): string[] {
    const count = partCount('convolutions', convolutions, 0)
    return this.#parts(hash, ['_mamba_temporal', ...Array.from({ length: count }, (_, i) => `_mamba_conv_${i}`)])
  }

  #parts(hash: string, parts: readonly string[]): string[] {
    return parts.map((part) => {
      checkKey(hash, this.suffix + part)
      return hash + this.suffix + part
    })
  }
}

/** More parts than any page has: a bound, so that a wrong number is an error and not an array of that length. */
const PARTS_MAX = 1024

function partCount(name: string, value: number, min: number): number {
  if (Number.isSafeInteger(value) && value >= min && value <= PARTS_MAX) return value
  throw new HiCacheError('ERR_ARGUMENT', `${name} must be a whole number from ${min} to ${PARTS_MAX}, but is ${describe(value)}.`)
}
