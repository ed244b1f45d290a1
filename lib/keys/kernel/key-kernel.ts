/**
 * The key kernel: SHA-256 page-hash chains and the 8-byte BLAKE2b of a stored key.
 *
 * One source, two programs: tsc makes the JavaScript reference of it, AssemblyScript the WebAssembly module. Hence the narrow
 * language: `i32` and nothing else, no objects, no arrays, memory through ./memory.js only, and every sum ends in `| 0`, which is
 * nothing to WebAssembly and what keeps JavaScript's numbers 32 bits wide. 64-bit words are pairs of halves: tsc has no number of that
 * width but BigInt, and that is far slower.
 * After a change: `node scripts/build-kernel.mjs --write`.
 */
import { carryOf, loadByte, loadWord, rotateRight, storeByte, storeWord, swapBytes } from './memory.js'

// The memory, 64 KiB. The host writes messages at INPUT and reads results at DIGEST and DIGESTS.
/** SHA-256's 64 round constants. */
const ROUND_CONSTANTS: i32 = 0
/** SHA-256's message schedule of 64 words. */
const SCHEDULE: i32 = 256
/** SHA-256's state of 8 words. */
const STATE: i32 = 512
/** The last, padded block or two of a message. */
const TAIL: i32 = 576
/** BLAKE2b's 8 initial 64-bit words, its working vector of 16, its state of 8. */
const INITIAL: i32 = 704
const VECTOR: i32 = 768
const CHAIN: i32 = 896
/** BLAKE2b's ten message permutations, a byte per index. */
const PERMUTATIONS: i32 = 960
/** A hash of 8 or 32 bytes. */
export const DIGEST: i32 = 1152
/** The 32 raw bytes of the prior hash, directly before the input. */
export const PRIOR: i32 = 1248
export const INPUT: i32 = 1280
export const INPUT_BYTES_MAX: i32 = 49152
/** hashPages leaves its digests here, 32 bytes each. */
export const DIGESTS: i32 = 50432
export const PAGES_MAX: i32 = 472

function constants(index: i32, a: i32, b: i32, c: i32, d: i32): void {
  const at: i32 = ROUND_CONSTANTS + (index << 2)
  storeWord(at, a)
  storeWord(at + 4, b)
  storeWord(at + 8, c)
  storeWord(at + 12, d)
}

/** Eight 4-bit indices in each half, the first in the lowest bits. */
function permutation(row: i32, first: i32, second: i32): void {
  const at: i32 = PERMUTATIONS + (row << 4)
  for (let i: i32 = 0; i < 8; i++) {
    storeByte(at + i, (first >>> (i << 2)) & 15)
    storeByte(at + 8 + i, (second >>> (i << 2)) & 15)
  }
}

function initialWord(index: i32, low: i32, high: i32): void {
  storeWord(INITIAL + (index << 3), low)
  storeWord(INITIAL + (index << 3) + 4, high)
}

/** Fills the tables. Once, before anything else. */
export function prepare(): void {
  constants(0, 0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5)
  constants(4, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5)
  constants(8, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3)
  constants(12, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174)
  constants(16, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc)
  constants(20, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da)
  constants(24, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7)
  constants(28, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967)
  constants(32, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13)
  constants(36, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85)
  constants(40, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3)
  constants(44, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070)
  constants(48, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5)
  constants(52, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3)
  constants(56, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208)
  constants(60, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2)
  permutation(0, 0x76543210, 0xfedcba98)
  permutation(1, 0x6df984ae, 0x357b20c1)
  permutation(2, 0xdf250c8b, 0x491763ea)
  permutation(3, 0xebcd1397, 0x8f04a562)
  permutation(4, 0xfa427509, 0xd386cb1e)
  permutation(5, 0x38b0a6c2, 0x91ef57d4)
  permutation(6, 0xa4def15c, 0xb8293670)
  permutation(7, 0x931ce7bd, 0xa2684f05)
  permutation(8, 0x803b9ef6, 0x5a417d2c)
  permutation(9, 0x5167482a, 0x0dc3e9bf)
  initialWord(0, 0xf3bcc908, 0x6a09e667)
  initialWord(1, 0x84caa73b, 0xbb67ae85)
  initialWord(2, 0xfe94f82b, 0x3c6ef372)
  initialWord(3, 0x5f1d36f1, 0xa54ff53a)
  initialWord(4, 0xade682d1, 0x510e527f)
  initialWord(5, 0x2b3e6c1f, 0x9b05688c)
  initialWord(6, 0xfb41bd6b, 0x1f83d9ab)
  initialWord(7, 0x137e2179, 0x5be0cd19)
}

export function sha256Begin(): void {
  storeWord(STATE, 0x6a09e667)
  storeWord(STATE + 4, 0xbb67ae85)
  storeWord(STATE + 8, 0x3c6ef372)
  storeWord(STATE + 12, 0xa54ff53a)
  storeWord(STATE + 16, 0x510e527f)
  storeWord(STATE + 20, 0x9b05688c)
  storeWord(STATE + 24, 0x1f83d9ab)
  storeWord(STATE + 28, 0x5be0cd19)
}

/** Takes in `count` blocks of 64 bytes from `at`, a multiple of 4. */
export function sha256Blocks(at: i32, count: i32): void {
  for (let block: i32 = 0; block < count; block++) {
    for (let t: i32 = 0; t < 64; t += 4) storeWord(SCHEDULE + t, swapBytes(loadWord(at + t)))
    for (let t: i32 = SCHEDULE + 64; t < SCHEDULE + 256; t += 4) {
      const early: i32 = loadWord(t - 60)
      const late: i32 = loadWord(t - 8)
      const s0: i32 = rotateRight(early, 7) ^ rotateRight(early, 18) ^ (early >>> 3)
      const s1: i32 = rotateRight(late, 17) ^ rotateRight(late, 19) ^ (late >>> 10)
      storeWord(t, (loadWord(t - 64) + s0 + loadWord(t - 28) + s1) | 0)
    }
    let a: i32 = loadWord(STATE)
    let b: i32 = loadWord(STATE + 4)
    let c: i32 = loadWord(STATE + 8)
    let d: i32 = loadWord(STATE + 12)
    let e: i32 = loadWord(STATE + 16)
    let f: i32 = loadWord(STATE + 20)
    let g: i32 = loadWord(STATE + 24)
    let h: i32 = loadWord(STATE + 28)
    for (let t: i32 = 0; t < 256; t += 4) {
      const choice: i32 = g ^ (e & (f ^ g))
      const majority: i32 = (a & b) | (c & (a | b))
      const s1: i32 = rotateRight(e, 6) ^ rotateRight(e, 11) ^ rotateRight(e, 25)
      const s0: i32 = rotateRight(a, 2) ^ rotateRight(a, 13) ^ rotateRight(a, 22)
      const step: i32 = (h + s1 + choice + loadWord(ROUND_CONSTANTS + t) + loadWord(SCHEDULE + t)) | 0
      h = g
      g = f
      f = e
      e = (d + step) | 0
      d = c
      c = b
      b = a
      a = (step + s0 + majority) | 0
    }
    storeWord(STATE, (loadWord(STATE) + a) | 0)
    storeWord(STATE + 4, (loadWord(STATE + 4) + b) | 0)
    storeWord(STATE + 8, (loadWord(STATE + 8) + c) | 0)
    storeWord(STATE + 12, (loadWord(STATE + 12) + d) | 0)
    storeWord(STATE + 16, (loadWord(STATE + 16) + e) | 0)
    storeWord(STATE + 20, (loadWord(STATE + 20) + f) | 0)
    storeWord(STATE + 24, (loadWord(STATE + 24) + g) | 0)
    storeWord(STATE + 28, (loadWord(STATE + 28) + h) | 0)
    at += 64
  }
}

/** Ends a message of `total` bytes, below 2^31, whose last `tail` bytes, fewer than 64, lie at `at`. The hash goes to `to`. */
export function sha256Finish(at: i32, tail: i32, total: i32, to: i32): void {
  for (let i: i32 = 0; i < 128; i += 4) storeWord(TAIL + i, 0)
  for (let i: i32 = 0; i < tail; i++) storeByte(TAIL + i, loadByte(at + i))
  storeByte(TAIL + tail, 128)
  const end: i32 = tail < 56 ? 64 : 128
  storeWord(TAIL + end - 8, swapBytes(total >>> 29))
  storeWord(TAIL + end - 4, swapBytes(total << 3))
  sha256Blocks(TAIL, end >> 6)
  for (let i: i32 = 0; i < 32; i += 4) storeWord(to + i, swapBytes(loadWord(STATE + i)))
}

function sha256(at: i32, length: i32, to: i32): void {
  sha256Begin()
  const blocks: i32 = length >> 6
  sha256Blocks(at, blocks)
  sha256Finish(at + (blocks << 6), length & 63, length, to)
}

/**
 * The hashes of `pages` pages of `pageBytes` bytes each, a multiple of 4, that lie at INPUT one after the other; with `chained` the
 * first one's prior hash lies at PRIOR. A page's hash goes over the 32 bytes before the next page: they are taken in already, and
 * so hash and page are one message without a copy. The input is spent afterwards.
 */
export function hashPages(pageBytes: i32, pages: i32, chained: i32): void {
  let at: i32 = INPUT
  for (let page: i32 = 0; page < pages; page++) {
    const digest: i32 = DIGESTS + (page << 5)
    if (page > 0) {
      for (let i: i32 = 0; i < 32; i += 4) storeWord(at - 32 + i, loadWord(digest - 32 + i))
    }
    if (page > 0 || chained !== 0) sha256(at - 32, pageBytes + 32, digest)
    else sha256(at, pageBytes, digest)
    at += pageBytes
  }
}

/** BLAKE2b's mixing function on four words of the vector and two of the message, all by address. */
function mix(a: i32, b: i32, c: i32, d: i32, x: i32, y: i32): void {
  let aLow: i32 = loadWord(a)
  let aHigh: i32 = loadWord(a + 4)
  let bLow: i32 = loadWord(b)
  let bHigh: i32 = loadWord(b + 4)
  let cLow: i32 = loadWord(c)
  let cHigh: i32 = loadWord(c + 4)
  let dLow: i32 = loadWord(d)
  let dHigh: i32 = loadWord(d + 4)
  let addend: i32 = loadWord(x)
  let low: i32 = 0
  let high: i32 = 0

  // a += b + x; d = (d ^ a) >>> 32
  low = (aLow + bLow) | 0
  aHigh = (aHigh + bHigh + carryOf(low, bLow)) | 0
  aLow = (low + addend) | 0
  aHigh = (aHigh + loadWord(x + 4) + carryOf(aLow, addend)) | 0
  low = dHigh ^ aHigh
  dHigh = dLow ^ aLow
  dLow = low

  // c += d; b = (b ^ c) >>> 24
  cLow = (cLow + dLow) | 0
  cHigh = (cHigh + dHigh + carryOf(cLow, dLow)) | 0
  low = bLow ^ cLow
  high = bHigh ^ cHigh
  bLow = (low >>> 24) | (high << 8)
  bHigh = (high >>> 24) | (low << 8)

  // a += b + y; d = (d ^ a) >>> 16
  addend = loadWord(y)
  low = (aLow + bLow) | 0
  aHigh = (aHigh + bHigh + carryOf(low, bLow)) | 0
  aLow = (low + addend) | 0
  aHigh = (aHigh + loadWord(y + 4) + carryOf(aLow, addend)) | 0
  low = dLow ^ aLow
  high = dHigh ^ aHigh
  dLow = (low >>> 16) | (high << 16)
  dHigh = (high >>> 16) | (low << 16)

  // c += d; b = (b ^ c) >>> 63
  cLow = (cLow + dLow) | 0
  cHigh = (cHigh + dHigh + carryOf(cLow, dLow)) | 0
  low = bLow ^ cLow
  high = bHigh ^ cHigh
  bLow = (low << 1) | (high >>> 31)
  bHigh = (high << 1) | (low >>> 31)

  storeWord(a, aLow)
  storeWord(a + 4, aHigh)
  storeWord(b, bLow)
  storeWord(b + 4, bHigh)
  storeWord(c, cLow)
  storeWord(c + 4, cHigh)
  storeWord(d, dLow)
  storeWord(d + 4, dHigh)
}

/** One column or diagonal: the vector's words a to d by index, mixed with the message words that the permutation names at `row`. */
function mixWords(a: i32, b: i32, c: i32, d: i32, row: i32, message: i32): void {
  mix(
    VECTOR + (a << 3), VECTOR + (b << 3), VECTOR + (c << 3), VECTOR + (d << 3),
    message + (loadByte(row) << 3), message + (loadByte(row + 1) << 3)
  )
}

function blake2bBlock(message: i32, counter: i32, last: i32): void {
  for (let i: i32 = 0; i < 64; i += 4) {
    storeWord(VECTOR + i, loadWord(CHAIN + i))
    storeWord(VECTOR + 64 + i, loadWord(INITIAL + i))
  }
  storeWord(VECTOR + 96, loadWord(VECTOR + 96) ^ counter)
  if (last !== 0) {
    storeWord(VECTOR + 112, ~loadWord(VECTOR + 112))
    storeWord(VECTOR + 116, ~loadWord(VECTOR + 116))
  }
  for (let round: i32 = 0; round < 12; round++) {
    const row: i32 = PERMUTATIONS + ((round < 10 ? round : round - 10) << 4)
    mixWords(0, 4, 8, 12, row, message)
    mixWords(1, 5, 9, 13, row + 2, message)
    mixWords(2, 6, 10, 14, row + 4, message)
    mixWords(3, 7, 11, 15, row + 6, message)
    mixWords(0, 5, 10, 15, row + 8, message)
    mixWords(1, 6, 11, 12, row + 10, message)
    mixWords(2, 7, 8, 13, row + 12, message)
    mixWords(3, 4, 9, 14, row + 14, message)
  }
  for (let i: i32 = 0; i < 64; i += 4) {
    storeWord(CHAIN + i, loadWord(CHAIN + i) ^ loadWord(VECTOR + i) ^ loadWord(VECTOR + 64 + i))
  }
}

/** BLAKE2b with a digest of 8 bytes and no key over the `length` bytes at INPUT, at most INPUT_BYTES_MAX. The hash goes to DIGEST. */
export function blake2b64(length: i32): void {
  for (let i: i32 = 0; i < 64; i += 4) storeWord(CHAIN + i, loadWord(INITIAL + i))
  // The parameter block's first word: digest length 8, no key, fanout 1, depth 1.
  storeWord(CHAIN, loadWord(CHAIN) ^ 0x01010008)
  let at: i32 = 0
  while (length - at > 128) {
    blake2bBlock(INPUT + at, at + 128, 0)
    at += 128
  }
  for (let i: i32 = length; i < at + 128; i++) storeByte(INPUT + i, 0)
  blake2bBlock(INPUT + at, length, 1)
  storeWord(DIGEST, loadWord(CHAIN))
  storeWord(DIGEST + 4, loadWord(CHAIN + 4))
}
