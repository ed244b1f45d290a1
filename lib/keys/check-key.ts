import { HiCacheError, describe } from '../error.js'
import { LONE_SURROGATE, byteLengthOf } from './utf8.js'

/** Bytes of UTF-8 in a stored key: what Linux takes in one file name. */
export const STORED_KEY_BYTES_MAX = 255
/** File names that begin so are the package's own: markers, locks, temporaries. */
export const RESERVED_PREFIX = '.hicache-nixl'

const SLASH = 47
const HASH_IT = 'Use a hash of it as the key, for example crypto.hash(\'sha256\', key).'

function refuse(key: string, what: string): never {
  throw new HiCacheError('ERR_KEY', `The key ${describe(key)} ${what}.`, { key })
}

/**
 * Checks that a key can name a page. A key that cannot is refused, never encoded: the stored key is what SGLang's Python
 * connector makes of the same key, and an encoded one would be a page that neither finds of the other.
 *
 * Refused: the empty key, `.` and `..`, NUL, `/`, lone surrogates (they have no UTF-8), a key that begins with `.hicache-nixl`,
 * and one whose stored key, `key + suffix`, has more than 255 bytes of UTF-8. Anything else is taken as it is, control characters
 * too: a newline in a key is a newline in a file's name, which file systems take and line-by-line listings do not.
 *
 * @param suffix what will follow the key in the stored key, well-formed. Default none.
 * @throws {HiCacheError} `ERR_ARGUMENT` for something that is no string; `ERR_KEY`, with the key, for a string that cannot name a page.
 */
export function checkKey(key: unknown, suffix = ''): asserts key is string {
  if (typeof key !== 'string') throw new HiCacheError('ERR_ARGUMENT', `A key must be a string, but is ${describe(key)}.`)
  const length = key.length
  if (length === 0) throw new HiCacheError('ERR_KEY', 'A key must not be empty.', { key })
  if (length > STORED_KEY_BYTES_MAX) refuse(key, `makes a stored key of more than ${STORED_KEY_BYTES_MAX} bytes. ${HASH_IT}`)
  let ascii = true
  for (let i = 0; i < length; i++) {
    const unit = key.charCodeAt(i)
    if (unit === SLASH) refuse(key, `holds a "/" (at ${i}), which would leave the storage directory. Replace it, or hash the key`)
    if (unit === 0) refuse(key, `holds a NUL (at ${i}), which ends a file's name. Replace it, or hash the key`)
    if (unit > 127) ascii = false
  }
  if (key === '.' || key === '..') refuse(key, 'is a name of a directory itself. Take another')
  if (key.startsWith(RESERVED_PREFIX)) {
    refuse(key, `begins with ${RESERVED_PREFIX}, which the package keeps for its own files. Take another`)
  }
  if (!ascii && LONE_SURROGATE.test(key)) {
    refuse(key, `holds a lone surrogate (at ${key.search(LONE_SURROGATE)}), which has no UTF-8. Use well-formed Unicode`)
  }
  // Three bytes a UTF-16 unit at most: what fits so needs no counting, and that is every page hash under a common suffix.
  if ((ascii ? length : length * 3) + suffix.length * 3 <= STORED_KEY_BYTES_MAX) return
  const bytes = (ascii ? length : byteLengthOf(key)) + byteLengthOf(suffix)
  if (bytes <= STORED_KEY_BYTES_MAX) return
  const share = suffix === '' ? '' : `, ${byteLengthOf(suffix)} of them the suffix ${describe(suffix)}`
  refuse(key, `makes a stored key of ${bytes} bytes${share}; the most is ${STORED_KEY_BYTES_MAX}. ${HASH_IT}`)
}
