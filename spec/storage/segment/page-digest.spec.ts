import { createHash } from 'node:crypto'
import { expect } from 'chai'
import { PageDigest } from '../../../lib/storage/segment/page-digest.js'

const NAMESPACE = Uint8Array.from({ length: 16 }, (_, i) => i)
const SEED = Uint32Array.of(1, 2, 0x80000003, 0xffffffff)
const HASH = '0123456789abcdef'.repeat(4)

/** RFC 8439, 2.1, on four elements of a state. */
function quarterRound(x: Uint32Array, a: number, b: number, c: number, d: number): void {
  const step = (to: number, from: number, target: number, bits: number): void => {
    x[to] = x[to]! + x[from]!
    const mixed = x[target]! ^ x[to]
    x[target] = mixed << bits | mixed >>> 32 - bits
  }
  step(a, b, d, 16)
  step(c, d, b, 12)
  step(a, b, d, 8)
  step(c, d, b, 7)
}

function scopeOf(storedKey: string, namespace = NAMESPACE): Buffer {
  const hashed = /^[0-9a-f]{64}/.test(storedKey)
  return createHash('sha256').update(`hicache-nixl scope\0${hashed ? 'h' : 't'}`).update(namespace).update(hashed ? storedKey.slice(64) : storedKey, 'utf8').digest().subarray(0, 16)
}

/** The rule of docs/formats.md, word by word. */
function reference(storedKey: string, seed = SEED, namespace = NAMESPACE): number[] {
  const hashed = /^[0-9a-f]{64}/.test(storedKey)
  const scope = scopeOf(storedKey, namespace)
  const start = new Uint32Array(16)
  start.set(seed)
  for (let i = 0; i < 8; i++) start[4 + i] = hashed ? parseInt(storedKey.slice(8 * i, 8 * i + 8), 16) : 0
  for (let i = 0; i < 4; i++) start[12 + i] = scope.readUInt32LE(4 * i)
  const x = start.slice()
  for (let round = 0; round < 2; round++) {
    for (let i = 0; i < 4; i++) quarterRound(x, i, 4 + i, 8 + i, 12 + i)
    for (let i = 0; i < 4; i++) quarterRound(x, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
  }
  return [0, 1, 2, 3].map(i => ((x[i]! + start[i]!) ^ (x[i + 4]! + start[i + 4]!)) >>> 0)
}

function digest(of: PageDigest, key: string, tail: string): number[] {
  const out = new Uint32Array(6).fill(7)
  of.of(key, tail, out, 1)
  expect([out[0], out[5]], 'writes nothing but its own four words').to.deep.equal([7, 7])
  return [...out.subarray(1, 5)]
}

function digestOfStored(of: PageDigest, storedKey: string): number[] {
  const out = new Uint32Array(4)
  of.ofStored(storedKey, out)
  return [...out]
}

/** Page hashes by number, the same in every run. */
const hashOf = (i: number): string => createHash('sha256').update(`page ${i}`).digest('hex')

const KEYS: readonly (readonly [string, string])[] = [
  [HASH, '_m_0_1'], [HASH, ''], ['f'.repeat(64), '_m_0_1_k'], ['0'.repeat(64), '_m'], [hashOf(1), '_m_0_1'], [hashOf(1), '_m_0_1_v'],
  // Divided at another place, and digits that go on in the tail.
  [HASH.slice(0, 60), 'abcd_m'], [`${HASH}ab`, '_m'], ['', `${HASH}_m`], [HASH, 'abc'],
  // No page hashes: capitals, 63 digits, other characters whose lower byte is a digit's, none at all.
  [HASH.toUpperCase(), '_m'], [HASH.slice(1), '_m'], [`${HASH.slice(1)}g`, '_m'], [`g${HASH.slice(1)}`, '_m'], [`${HASH.slice(0, 31)}\u0130${HASH.slice(32)}`, '_m'],
  [`${HASH.slice(0, 63)}\uff10`, ''], ['key', '_m'], ['k', ''], ['ключ-鍵-🔑', '_模型']
]

describe('the digest of a page', () => {
  it('the spec\'s quarter round is RFC 8439\'s', () => {
    const x = Uint32Array.of(0x11111111, 0x01020304, 0x9b8d6f43, 0x01234567)
    quarterRound(x, 0, 1, 2, 3)
    expect([...x]).to.deep.equal([0xea2a92f4, 0xcb1cf8ce, 0x4581472e, 0x5881c4bb])
  })
  it('is what the rule says, from key and tail and from the stored key', () => {
    const of = new PageDigest(SEED, NAMESPACE)
    for (let again = 0; again < 2; again++) {
      for (const [key, tail] of KEYS) {
        expect(digest(of, key, tail), `${key} + ${tail}`).to.deep.equal(reference(key + tail))
        expect(digestOfStored(of, key + tail), key + tail).to.deep.equal(reference(key + tail))
      }
    }
  })
  it('known answers, for native code to be held against', () => {
    const of = new PageDigest(Uint32Array.of(1, 2, 3, 4), NAMESPACE)
    expect(digest(of, HASH, '_m_0_1')).to.deep.equal([0x65eaa078, 0xb80a2d4e, 0x2e034379, 0xf715145a])
    expect(digest(of, 'key', '_m_0_1')).to.deep.equal([0xe46e4789, 0x623ac862, 0xab8c3e73, 0x03ac71b9])
  })
  it('another seed, namespace, hash or tail: another digest', () => {
    const all = [
      digest(new PageDigest(SEED, NAMESPACE), HASH, '_m'), digest(new PageDigest(Uint32Array.of(1, 2, 0x80000003, 0xfffffffe), NAMESPACE), HASH, '_m'),
      digest(new PageDigest(SEED, new Uint8Array(16)), HASH, '_m'), digest(new PageDigest(SEED, NAMESPACE), hashOf(2), '_m'), digest(new PageDigest(SEED, NAMESPACE), HASH, '_n')
    ].flat()
    expect(new Set(all).size).to.equal(20)
  })
  it('keeps its own copy of seed and namespace', () => {
    const seed = SEED.slice()
    const namespace = NAMESPACE.slice()
    const of = new PageDigest(seed, namespace)
    seed.fill(0)
    namespace.fill(0)
    expect(digest(of, HASH, '_m')).to.deep.equal(reference(`${HASH}_m`))
  })
  it('stays right when more tails and more keys come than are remembered', () => {
    const of = new PageDigest(SEED, NAMESPACE)
    for (let i = 0; i < 700; i++) {
      const tail = `_model-${i * 7919 % 350}`
      expect(digest(of, hashOf(i % 5), tail)).to.deep.equal(reference(hashOf(i % 5) + tail))
    }
    for (let i = 0; i < 9000; i++) {
      const key = `key ${i < 4200 ? i : i * 31 % 4500}`
      const [first] = digest(of, key, '_m')
      if (i % 50 === 0) expect(first).to.equal(reference(`${key}_m`)[0])
    }
  })
  it('the scope: 16 bytes of SHA-256 over namespace and what no page hash says', () => {
    const of = new PageDigest(SEED, NAMESPACE)
    const into = new Uint32Array(6)
    const scope = (storedKey: string): Buffer => Buffer.from(of.ofStoredWithScope(storedKey, into, 1))
    for (const [key, tail] of KEYS) {
      expect(scope(key + tail), key + tail).to.deep.equal(scopeOf(key + tail))
      expect([...into.subarray(1, 5)], key + tail).to.deep.equal(digest(of, key, tail))
    }
    expect([into[0], into[5]]).to.deep.equal([0, 0])
    expect(of.ofStoredWithScope(`${hashOf(1)}_m`, into), 'one object').to.equal(of.ofStoredWithScope(`${hashOf(2)}_m`, into))
    expect(scope(`${hashOf(1)}_m`), 'a key that reads as the tail of a hash').not.to.deep.equal(scope('_m'))
    expect(scope(`${hashOf(1)}_n`)).to.deep.equal(scopeOf(`${hashOf(1)}_n`))
  })
})
