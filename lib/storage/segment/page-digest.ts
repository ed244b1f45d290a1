import { hash } from 'node:crypto'
import { bytesOf } from '../../keys/utf8.js'

/** Words of a digest in typed arrays: 4 u32. */
export const DIGEST_WORDS = 4
/** Bytes of a scope in a slot record. */
export const SCOPE_BYTES = 16

const HASH_DIGITS = 64
/** Bit of the table below for what is no lower-case hex digit: no digit's value has it. */
const NO_DIGIT = 16
/** Value of a character code, for codes below 256. */
const DIGIT = new Int32Array(256).fill(NO_DIGIT)
for (let i = 0; i < 16; i++) DIGIT['0123456789abcdef'.charCodeAt(i)] = i

/** Tails of page hashes that are remembered: one a model, rank and part, so a handful; more than this only thrash. */
const TAILS_MAX = 256
/** Stored keys of another shape that are remembered, with their scopes. */
const KEYS_MAX = 4096
const PURPOSE = 'hicache-nixl scope\0'

/**
 * Names of pages in memory: 128 bits of a keyed hash over a stored key and its namespace, the same as native code computes. The key is a secret of
 * the process, so nobody can choose keys that collide in the index; it is never written down, and the digests are not either.
 *
 * docs/formats.md has the rule. A page hash (64 lower-case hex digits in front of the stored key) goes into the hash as it is, and what follows it, the
 * tail, is hashed by SHA-256 once and remembered. Any other stored key is hashed by SHA-256 as a whole, 1 to 2 us; the last 4096 of them
 * are remembered.
 *
 * One object serves one thread; `of` and `ofStored` allocate nothing for page hashes with a tail that was seen before.
 */
export class PageDigest {
  readonly #seed: Int32Array
  readonly #namespace: Uint8Array
  /** Scopes, 4 words each: by tail, the oldest first; by stored key, the one least lately used first. */
  readonly #tails = new Map<string, Int32Array>()
  readonly #keys = new Map<string, Int32Array>()
  /** The 8 words of the page hash that was parsed last. */
  readonly #words = new Int32Array(8)
  readonly #noWords = new Int32Array(8)
  #tail: string | null = null
  /** The scope that was asked for last, and its bytes. */
  #sharedOf: Int32Array | null = null
  #shared = new Uint8Array(SCOPE_BYTES)
  #scope: Int32Array = new Int32Array(DIGEST_WORDS)

  /**
   * @param seed 4 random words, the same as those that native code loads records with.
   * @param namespaceDigest 16 bytes (FileLayout.namespaceDigest).
   */
  constructor(seed: Uint32Array, namespaceDigest: Uint8Array) {
    this.#seed = Int32Array.from(seed.subarray(0, DIGEST_WORDS))
    this.#namespace = namespaceDigest.slice(0, SCOPE_BYTES)
  }

  /**
   * The digest of the stored key `key + tail`, as 4 words from `out[at]` on. Equal to `ofStored(key + tail)`, however the two are divided.
   * Quick for a `key` of exactly 64 lower-case hex digits, and true for those; pass the same string object as `tail` each time (it is compared before anything else).
   */
  of(key: string, tail: string, out: Uint32Array, at = 0): boolean {
    if (key.length === HASH_DIGITS && this.#parse(key)) {
      if (tail !== this.#tail) this.#useTail(tail)
      this.#mix(this.#words, this.#scope, out, at)
      return true
    }
    this.ofStored(key + tail, out, at)
    return false
  }

  /** The digest of a stored key, as 4 words from `out[at]` on; finds out by itself whether a page hash is in front. */
  ofStored(storedKey: string, out: Uint32Array, at = 0): void {
    if (storedKey.length >= HASH_DIGITS && this.#parse(storedKey)) {
      this.#useTailOf(storedKey)
      this.#mix(this.#words, this.#scope, out, at)
    } else {
      this.#mix(this.#noWords, this.#scopeOfKey(storedKey), out, at)
    }
  }

  /** ofStored(), and the scope of the key as its slot record holds it: 16 bytes. Scopes of page hashes with one tail are one object, which nobody may change. */
  ofStoredWithScope(storedKey: string, out: Uint32Array, at = 0): Uint8Array {
    if (storedKey.length < HASH_DIGITS || !this.#parse(storedKey)) {
      const scope = this.#scopeOfKey(storedKey)
      this.#mix(this.#noWords, scope, out, at)
      return bytesOfWords(scope)
    }
    this.#useTailOf(storedKey)
    this.#mix(this.#words, this.#scope, out, at)
    if (this.#sharedOf !== this.#scope) {
      this.#sharedOf = this.#scope
      this.#shared = bytesOfWords(this.#scope)
    }
    return this.#shared
  }

  /** Reads the 64 digits in front of `text` (which has as many characters) into #words; false when they are not all lower-case hex. */
  #parse(text: string): boolean {
    const words = this.#words
    let seen = 0
    let codes = 0
    for (let i = 0; i < 8; i++) {
      const at = 8 * i
      const a = text.charCodeAt(at)
      const b = text.charCodeAt(at + 1)
      const c = text.charCodeAt(at + 2)
      const d = text.charCodeAt(at + 3)
      const e = text.charCodeAt(at + 4)
      const f = text.charCodeAt(at + 5)
      const g = text.charCodeAt(at + 6)
      const h = text.charCodeAt(at + 7)
      codes |= a | b | c | d | e | f | g | h
      const p = DIGIT[a & 255]!
      const q = DIGIT[b & 255]!
      const r = DIGIT[c & 255]!
      const s = DIGIT[d & 255]!
      const t = DIGIT[e & 255]!
      const u = DIGIT[f & 255]!
      const v = DIGIT[g & 255]!
      const w = DIGIT[h & 255]!
      seen |= p | q | r | s | t | u | v | w
      words[i] = p << 28 | q << 24 | r << 20 | s << 16 | t << 12 | u << 8 | v << 4 | w
    }
    return codes < 256 && seen < NO_DIGIT
  }

  #useTailOf(storedKey: string): void {
    const tail = this.#tail
    // startsWith before slice: a sliced string for every page would be garbage, and a string whose hash nobody has computed yet.
    if (tail === null || storedKey.length !== HASH_DIGITS + tail.length || !storedKey.startsWith(tail, HASH_DIGITS)) {
      this.#useTail(storedKey.slice(HASH_DIGITS))
    }
  }

  #useTail(tail: string): void {
    let scope = this.#tails.get(tail)
    if (scope === undefined) {
      scope = this.#hash('h', tail)
      bound(this.#tails, TAILS_MAX)
      this.#tails.set(tail, scope)
    }
    this.#tail = tail
    this.#scope = scope
  }

  #scopeOfKey(storedKey: string): Int32Array {
    let scope = this.#keys.get(storedKey)
    if (scope === undefined) {
      scope = this.#hash('t', storedKey)
      bound(this.#keys, KEYS_MAX)
    } else {
      this.#keys.delete(storedKey)
    }
    this.#keys.set(storedKey, scope)
    return scope
  }

  #hash(kind: 'h' | 't', tail: string): Int32Array {
    const bytes = bytesOf(tail)
    const text = new Uint8Array(PURPOSE.length + 1 + SCOPE_BYTES + bytes.length)
    for (let i = 0; i < PURPOSE.length; i++) text[i] = PURPOSE.charCodeAt(i)
    text[PURPOSE.length] = kind.charCodeAt(0)
    text.set(this.#namespace, PURPOSE.length + 1)
    text.set(bytes, PURPOSE.length + 1 + SCOPE_BYTES)
    const digest = hash('sha256', text, 'buffer')
    return Int32Array.of(digest.readInt32LE(0), digest.readInt32LE(4), digest.readInt32LE(8), digest.readInt32LE(12))
  }

  /**
   * Two double rounds of ChaCha over seed, hash words and scope; then the start is added and 8 words are folded into 4. A quarter round is
   * two lines, written out: a function for it would not be inlined so often.
   */
  #mix(words: Int32Array, scope: Int32Array, out: Uint32Array, at: number): void {
    const seed = this.#seed
    const s0 = seed[0]!, s1 = seed[1]!, s2 = seed[2]!, s3 = seed[3]!
    const s4 = words[0]!, s5 = words[1]!, s6 = words[2]!, s7 = words[3]!
    let x0 = s0, x1 = s1, x2 = s2, x3 = s3
    let x4 = s4, x5 = s5, x6 = s6, x7 = s7
    let x8 = words[4]!, x9 = words[5]!, x10 = words[6]!, x11 = words[7]!
    let x12 = scope[0]!, x13 = scope[1]!, x14 = scope[2]!, x15 = scope[3]!
    for (let round = 0; round < 2; round++) {
      x0 = x0 + x4 | 0; x12 ^= x0; x12 = x12 << 16 | x12 >>> 16; x8 = x8 + x12 | 0; x4 ^= x8; x4 = x4 << 12 | x4 >>> 20
      x0 = x0 + x4 | 0; x12 ^= x0; x12 = x12 << 8 | x12 >>> 24; x8 = x8 + x12 | 0; x4 ^= x8; x4 = x4 << 7 | x4 >>> 25
      x1 = x1 + x5 | 0; x13 ^= x1; x13 = x13 << 16 | x13 >>> 16; x9 = x9 + x13 | 0; x5 ^= x9; x5 = x5 << 12 | x5 >>> 20
      x1 = x1 + x5 | 0; x13 ^= x1; x13 = x13 << 8 | x13 >>> 24; x9 = x9 + x13 | 0; x5 ^= x9; x5 = x5 << 7 | x5 >>> 25
      x2 = x2 + x6 | 0; x14 ^= x2; x14 = x14 << 16 | x14 >>> 16; x10 = x10 + x14 | 0; x6 ^= x10; x6 = x6 << 12 | x6 >>> 20
      x2 = x2 + x6 | 0; x14 ^= x2; x14 = x14 << 8 | x14 >>> 24; x10 = x10 + x14 | 0; x6 ^= x10; x6 = x6 << 7 | x6 >>> 25
      x3 = x3 + x7 | 0; x15 ^= x3; x15 = x15 << 16 | x15 >>> 16; x11 = x11 + x15 | 0; x7 ^= x11; x7 = x7 << 12 | x7 >>> 20
      x3 = x3 + x7 | 0; x15 ^= x3; x15 = x15 << 8 | x15 >>> 24; x11 = x11 + x15 | 0; x7 ^= x11; x7 = x7 << 7 | x7 >>> 25
      x0 = x0 + x5 | 0; x15 ^= x0; x15 = x15 << 16 | x15 >>> 16; x10 = x10 + x15 | 0; x5 ^= x10; x5 = x5 << 12 | x5 >>> 20
      x0 = x0 + x5 | 0; x15 ^= x0; x15 = x15 << 8 | x15 >>> 24; x10 = x10 + x15 | 0; x5 ^= x10; x5 = x5 << 7 | x5 >>> 25
      x1 = x1 + x6 | 0; x12 ^= x1; x12 = x12 << 16 | x12 >>> 16; x11 = x11 + x12 | 0; x6 ^= x11; x6 = x6 << 12 | x6 >>> 20
      x1 = x1 + x6 | 0; x12 ^= x1; x12 = x12 << 8 | x12 >>> 24; x11 = x11 + x12 | 0; x6 ^= x11; x6 = x6 << 7 | x6 >>> 25
      x2 = x2 + x7 | 0; x13 ^= x2; x13 = x13 << 16 | x13 >>> 16; x8 = x8 + x13 | 0; x7 ^= x8; x7 = x7 << 12 | x7 >>> 20
      x2 = x2 + x7 | 0; x13 ^= x2; x13 = x13 << 8 | x13 >>> 24; x8 = x8 + x13 | 0; x7 ^= x8; x7 = x7 << 7 | x7 >>> 25
      x3 = x3 + x4 | 0; x14 ^= x3; x14 = x14 << 16 | x14 >>> 16; x9 = x9 + x14 | 0; x4 ^= x9; x4 = x4 << 12 | x4 >>> 20
      x3 = x3 + x4 | 0; x14 ^= x3; x14 = x14 << 8 | x14 >>> 24; x9 = x9 + x14 | 0; x4 ^= x9; x4 = x4 << 7 | x4 >>> 25
    }
    out[at] = (x0 + s0) ^ (x4 + s4)
    out[at + 1] = (x1 + s1) ^ (x5 + s5)
    out[at + 2] = (x2 + s2) ^ (x6 + s6)
    out[at + 3] = (x3 + s3) ^ (x7 + s7)
  }
}

/** Little-endian. */
function bytesOfWords(words: Int32Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(4 * words.length)
  const view = new DataView(bytes.buffer)
  for (let i = 0; i < words.length; i++) view.setInt32(4 * i, words[i]!, true)
  return bytes
}

/** Makes room for one more: the entry least lately used (or, where nobody moves entries, put in) goes. */
function bound(cache: Map<string, unknown>, max: number): void {
  if (cache.size < max) return
  for (const oldest of cache.keys()) {
    cache.delete(oldest)
    return
  }
}
