import { HiCacheError, describe } from '../error.js'
import { keyKernel } from './kernel/kernel.js'

/** `bucketed`: 256 folders in each directory, today's SGLang. `flat`: the file right in its directory, as at first. */
export type DirectoryScheme = 'flat' | 'bucketed'

/** Where a stored key's file lies. */
export interface PagePlace {
  /** Index of its storage directory. */
  readonly directory: number
  /** Its name relative to that: `d1/key1`, or `key1` in the flat scheme. */
  readonly name: string
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))

/** The names of all folders of a bucketed directory, `00` to `ff`. */
export const BUCKETS: readonly string[] = HEX

/**
 * Where the page of `storedKey` lies among `directoryCount` storage directories. With h the 64-bit BLAKE2b of the stored key: the
 * bucket is the low 8 bits, the directory (h >> 16) mod the count. The flat scheme chooses among several directories alike; only the
 * bucket is left out.
 * The stored key is one that `checkKey` let pass: nothing is checked here.
 *
 * @throws {HiCacheError} `ERR_ARGUMENT` for a directory count that is no positive whole number.
 */
export function routePage(storedKey: string, directoryCount: number, scheme: DirectoryScheme): PagePlace {
  if (!Number.isSafeInteger(directoryCount) || directoryCount < 1) {
    throw new HiCacheError(
      'ERR_ARGUMENT', `The number of storage directories must be a positive whole number, but is ${describe(directoryCount)}.`
    )
  }
  if (scheme === 'flat' && directoryCount === 1) return { directory: 0, name: storedKey }
  const hash = keyKernel().blake2b64(storedKey)
  let directory = 0
  if (directoryCount > 1) {
    // h >> 16 is the first six bytes: 48 bits, which a double holds exactly.
    const high = hash[0]! * 0x100 + hash[1]!
    const low = hash[2]! * 0x1000000 + hash[3]! * 0x10000 + hash[4]! * 0x100 + hash[5]!
    directory = (high * 0x100000000 + low) % directoryCount
  }
  return { directory, name: scheme === 'flat' ? storedKey : `${HEX[hash[7]!]!}/${storedKey}` }
}

const HASH_CHARACTERS = 64
const PAGE_HASH = /^[0-9a-f]{64}_/
/** What may follow a page's suffix: `_k`, `_v`, a Mamba state, a pool with or without its part; no more of a suffix, `_2_1` or `_cp0_2`. */
const PART = /^(?:|_[kv]|_(?!cp\d+_\d)[A-Za-z][A-Za-z0-9_-]*)$/
const PART_AT_END = /(?:_mamba_temporal|_mamba_conv_\d+|_[kv])$/

/**
 * The page that the file of a stored key is a part of: equal for all parts of one page, so that a cleaner evicts them together. A
 * stored key that is no page's, one not beginning with 64 hex characters and `_`, is a group of its own.
 *
 * With the `suffix` of the namespace every part of its pages is known, component pools too. Without it, and for other namespaces'
 * pages, `_k`, `_v` and Mamba states go together, and a component pool of a page is a group beside it.
 */
export function pageGroup(storedKey: string, suffix?: string): string {
  if (!PAGE_HASH.test(storedKey)) return storedKey
  if (suffix !== undefined && storedKey.startsWith(suffix, HASH_CHARACTERS)) {
    const end = HASH_CHARACTERS + suffix.length
    if (PART.test(storedKey.slice(end))) return storedKey.slice(0, end)
  }
  return storedKey.replace(PART_AT_END, '')
}
