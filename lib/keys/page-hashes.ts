import { Buffer } from 'node:buffer'
import * as crypto from 'node:crypto'
import { HiCacheError, describe } from '../error.js'
import { keyKernel } from './kernel/kernel.js'
import { LONE_SURROGATE } from './utf8.js'

/** Two token ids of one position, EAGLE's bigram. */
export type Bigram = readonly [number, number]

/**
 * The token ids of a sequence, each a whole number from 0 to 2^32 - 1. A Uint32Array is taken as it is; of a plain array every element is
 * checked, which costs more than the hashing.
 */
export type Tokens = Uint32Array | readonly number[] | readonly Bigram[]

export interface PageHashOptions {
  /** Positions in a page: token ids, or bigrams where the tokens are such. */
  readonly pageTokens: number
  /** Hash of the page before the first one given, 64 hex characters. Absent or empty: the first one is page 0. */
  readonly prior?: string | undefined
  /** Namespace of page 0, from {@link namespaceSeed}. Not together with `prior`, in which it is contained already. */
  readonly seed?: string | undefined
  /** The tokens are flat bigrams: two ids a position, the first one first. An array of pairs needs no such word. Default false. */
  readonly bigrams?: boolean | undefined
}

const WORD_MAX = 0xffffffff
const HASH = /^[0-9a-fA-F]{64}$/

function optionalHash(name: string, value: unknown): string | undefined {
  if (value === undefined || value === null || value === '') return undefined
  if (typeof value === 'string' && HASH.test(value)) return value
  throw new HiCacheError('ERR_ARGUMENT', `${name} must be a hash of 64 hex characters, but is ${describe(value)}.`)
}

function checkToken(value: unknown, place: string): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= WORD_MAX) return value
  throw new HiCacheError('ERR_ARGUMENT', `${place} must be a whole number from 0 to ${WORD_MAX}, but is ${describe(value)}.`)
}

/** Every token as one word, every bigram as two. */
function wordsOf(tokens: unknown): { words: Uint32Array, paired: boolean } {
  if (ArrayBuffer.isView(tokens) && (tokens as Uint32Array)[Symbol.toStringTag] === 'Uint32Array') {
    return { words: tokens as Uint32Array, paired: false }
  }
  if (!Array.isArray(tokens)) {
    throw new HiCacheError(
      'ERR_ARGUMENT',
      `tokens must be a Uint32Array or an array of token ids or of pairs of them, but is ${describe(tokens)}. ` +
      'Uint32Array.from(ids, Number) makes one.'
    )
  }
  const list = tokens as readonly unknown[]
  if (!Array.isArray(list[0])) {
    const words = new Uint32Array(list.length)
    for (let i = 0; i < list.length; i++) words[i] = checkToken(list[i], `tokens[${i}]`)
    return { words, paired: false }
  }
  const words = new Uint32Array(list.length * 2)
  for (let i = 0; i < list.length; i++) {
    const pair = list[i]
    if (!Array.isArray(pair) || pair.length !== 2) {
      throw new HiCacheError('ERR_ARGUMENT', `tokens[${i}] must be a pair of token ids, as tokens[0] is, but is ${describe(pair)}.`)
    }
    words[2 * i] = checkToken(pair[0], `tokens[${i}][0]`)
    words[2 * i + 1] = checkToken(pair[1], `tokens[${i}][1]`)
  }
  return { words, paired: true }
}

/**
 * The chain by crypto.hash: OpenSSL has the processor's SHA instructions, and a call without a Hash object costs little. A hash of
 * a page of 64 tokens takes it 0.7 us, where createHash takes 0.9 to 1.3, the WebAssembly kernel 1.4 and the JavaScript reference
 * 2.7 (Node 20 on x86-64 with SHA instructions; `node scripts/bench-keys.mjs`).
 */
export function cryptoPageHashes(words: Uint32Array, wordsPerPage: number, prior?: string): string[] {
  const pageBytes = wordsPerPage * 4
  const count = Math.floor(words.length / wordsPerPage)
  const hashes: string[] = []
  if (count === 0) return hashes
  const bytes = new Uint8Array(words.buffer, words.byteOffset, count * pageBytes)
  // Memory of its own, not of Node's pool: what is hashed is copied once, so a SharedArrayBuffer or a later change does no harm.
  const message = Buffer.allocUnsafeSlow(32 + pageBytes)
  const first = message.subarray(32)
  let last = prior
  for (let at = 0; at < bytes.length; at += pageBytes) {
    first.set(bytes.subarray(at, at + pageBytes))
    if (last !== undefined) message.write(last, 0, 32, 'hex')
    last = crypto.hash('sha256', last === undefined ? first : message, 'hex')
    hashes.push(last)
  }
  return hashes
}

/**
 * HiCache's page hashes: one per whole page of `tokens`, each over the hash of the page before it and the page's token ids, 64
 * lower-case hex characters each. Tokens that do not fill a page have none. Page 0 has no hash before it but the namespace's `seed`, if
 * there is one.
 *
 * @throws {HiCacheError} `ERR_ARGUMENT` for a token that is no whole number from 0 to 2^32 - 1 (with its index), a `pageTokens`
 * that is no positive whole number, a `prior` or `seed` that is no hash, both of them at once, an odd number of flat bigram ids.
 */
export function pageHashes(tokens: Tokens, options: PageHashOptions): string[] {
  if (typeof options !== 'object' || options === null) {
    throw new HiCacheError('ERR_ARGUMENT', `options must be an object with pageTokens, but is ${describe(options)}.`)
  }
  const { pageTokens } = options
  if (!Number.isSafeInteger(pageTokens) || pageTokens < 1) {
    throw new HiCacheError('ERR_ARGUMENT', `pageTokens must be a positive whole number, but is ${describe(pageTokens)}.`)
  }
  const prior = optionalHash('prior', options.prior)
  const seed = optionalHash('seed', options.seed)
  if (prior !== undefined && seed !== undefined) {
    throw new HiCacheError(
      'ERR_ARGUMENT',
      'prior and seed exclude each other: the seed belongs to page 0, and a page with a prior hash is not page 0. Leave one out.'
    )
  }
  const { words, paired } = wordsOf(tokens)
  const bigrams = paired || options.bigrams === true
  if (bigrams && words.length % 2 !== 0) {
    throw new HiCacheError('ERR_ARGUMENT', `bigrams are two token ids each, but tokens has ${words.length}, an odd number.`)
  }
  const wordsPerPage = bigrams ? pageTokens * 2 : pageTokens
  if (wordsPerPage > words.length) return []
  if (typeof crypto.hash === 'function') return cryptoPageHashes(words, wordsPerPage, prior ?? seed)
  return keyKernel().pageHashes(words, wordsPerPage, prior ?? seed)
}

/** What keeps the pages of one tenant or adapter apart from those of others. Absent and empty are two things. */
export interface Namespace {
  /** The adapter's name, for example. */
  readonly extraKey?: string | null | undefined
  /** The tenant's salt. */
  readonly cacheSalt?: string | null | undefined
}

const NAMESPACE_MARK = Buffer.from('sglang-cache-namespace-v1', 'latin1')

/**
 * The seed of page 0 in a namespace, 64 hex characters, so that two namespaces never share a page; undefined where neither part is there.
 *
 * @throws {HiCacheError} `ERR_ARGUMENT` for a part that is no string, or one with a lone surrogate: it has no UTF-8.
 */
export function namespaceSeed(namespace: Namespace = {}): string | undefined {
  const parts = [['extraKey', namespace.extraKey], ['cacheSalt', namespace.cacheSalt]] as const
  if (parts.every(([, value]) => value === undefined || value === null)) return undefined
  const message: Uint8Array[] = [NAMESPACE_MARK]
  for (const [name, value] of parts) {
    if (value === undefined || value === null) {
      message.push(Buffer.of(0))
      continue
    }
    if (typeof value !== 'string' || LONE_SURROGATE.test(value)) {
      throw new HiCacheError('ERR_ARGUMENT', `${name} must be a string of well-formed Unicode, but is ${describe(value)}.`)
    }
    const text = Buffer.from(value, 'utf8')
    const head = Buffer.alloc(9)
    head[0] = 1
    head.writeBigUInt64LE(BigInt(text.length), 1)
    message.push(head, text)
  }
  return crypto.createHash('sha256').update(Buffer.concat(message)).digest('hex')
}
