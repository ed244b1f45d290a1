/** Stable codes of every error this package raises. What each means stands beside it in {@link HiCacheError}. */
export type ErrorCode =
  | 'ERR_ARGUMENT' | 'ERR_KEY' | 'ERR_CONFIG' | 'ERR_PLUGIN_UNAVAILABLE' | 'ERR_ADDON' | 'ERR_CLOSED'
  | 'ERR_TIMEOUT' | 'ERR_CANCELLED' | 'ERR_REJECTED' | 'ERR_CORRUPT' | 'ERR_IO' | 'ERR_WORKER'

/** A place in a configuration text. Lines and columns count from 1. */
export interface SourcePlace { readonly file: string; readonly line: number; readonly column: number }

export interface HiCacheErrorDetails {
  /** The operating system's name of the failure, `ENOSPC` for example. */
  readonly errno?: string
  /** What an object store answered when it would not do it: the status, and S3's word for it (`AccessDenied`). */
  readonly http?: { readonly status: number; readonly code: string }
  /** The key of the page concerned, as the caller gave it. */
  readonly key?: string
  readonly where?: SourcePlace
  readonly cause?: unknown
}

/** Marks our errors across copies of the package and across realms, where `instanceof` fails. */
const BRAND = Symbol.for('hicache-nixl.error')

/**
 * The one error class of the package.
 *
 * | code | meaning |
 * |---|---|
 * | `ERR_ARGUMENT` | an argument has the wrong type, size or state; the call did nothing |
 * | `ERR_KEY` | a key cannot name a page (empty, NUL, `/`, lone surrogates, or a stored name over 255 bytes) |
 * | `ERR_CONFIG` | the configuration is invalid; `where` says the place when it came from a text |
 * | `ERR_PLUGIN_UNAVAILABLE` | the storage plugin that was asked for cannot be used here; the message has reason and remedy |
 * | `ERR_ADDON` | the native addon is missing or does not load |
 * | `ERR_CLOSED` | the cache is closing or closed |
 * | `ERR_TIMEOUT` | the deadline of the request passed |
 * | `ERR_CANCELLED` | the caller's AbortSignal fired |
 * | `ERR_REJECTED` | a bound (bytes in flight, memory, queue) refused the request |
 * | `ERR_CORRUPT` | stored bytes failed their check where a miss cannot express it |
 * | `ERR_IO` | the operating system failed the transfer (`errno` says how), or the object store refused it (`http` says what it answered) |
 * | `ERR_WORKER` | the worker that held the request died |
 */
export class HiCacheError extends Error {
  readonly code: ErrorCode
  declare readonly errno?: string
  declare readonly http?: { readonly status: number; readonly code: string }
  declare readonly key?: string
  declare readonly where?: SourcePlace

  constructor(code: ErrorCode, message: string, details: HiCacheErrorDetails = {}) {
    super(message, 'cause' in details ? { cause: details.cause } : undefined)
    this.code = code
    if (details.errno !== undefined) this.errno = details.errno
    if (details.http !== undefined) this.http = details.http
    if (details.key !== undefined) this.key = details.key
    if (details.where !== undefined) this.where = details.where
    Object.defineProperty(this, BRAND, { value: true })
  }

  override get name(): string { return 'HiCacheError' }

  /** True for an error of this package, also one of another copy or realm of it. */
  static is(value: unknown): value is HiCacheError {
    return typeof value === 'object' && value !== null && (value as Record<symbol, unknown>)[BRAND] === true
  }
}

/** What of a wrong text a message shows at most: enough to tell which it is, and no page of it. */
const TEXT_CHARACTERS_MAX = 80

/** A wrong value as a message shows it: what it is, and short. Of memory and of objects their kind, never their content. */
export function describe(value: unknown): string {
  switch (typeof value) {
    case 'string': {
      if (value.length <= TEXT_CHARACTERS_MAX) return JSON.stringify(value)
      return `${JSON.stringify(value.slice(0, TEXT_CHARACTERS_MAX))} and ${value.length - TEXT_CHARACTERS_MAX} more characters`
    }
    case 'number': return Object.is(value, -0) ? '-0' : String(value)
    case 'bigint': return `the bigint ${value}`
    case 'boolean': case 'undefined': return String(value)
    case 'object': {
      if (value === null) return 'null'
      if (Array.isArray(value)) return `an array of ${value.length}`
      // By its tag, not by its class: that differs between realms.
      const kind = Object.prototype.toString.call(value).slice(8, -1)
      if (ArrayBuffer.isView(value)) return `a ${kind} of ${value.byteLength} bytes`
      return kind === 'Object' ? `an object (${nameOfClass(value)})` : `a ${kind}`
    }
    default: return `a ${typeof value}`
  }
}

/** Any object may come, one with a prototype or a getter of its own making too. */
function nameOfClass(value: object): string {
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype === null) return 'no class'
  const made: unknown = (prototype as { constructor?: unknown }).constructor
  return typeof made === 'function' && made.name !== '' ? made.name : 'no class'
}
