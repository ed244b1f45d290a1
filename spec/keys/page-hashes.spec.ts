import { expect } from 'chai'
import { createHash, randomInt } from 'node:crypto'
import { runInNewContext } from 'node:vm'
import { HiCacheError } from '../../lib/error.js'
import { instantiateWasmKernel, referenceKernel } from '../../lib/keys/kernel/kernel.js'
import { cryptoPageHashes, namespaceSeed, pageHashes, type Tokens } from '../../lib/keys/page-hashes.js'

const V1 = 'cf97adeedb59e05bfd73a2b4c2a8885708c4f4f70c84c64b27120e72ab733b72'
const V2 = '4ebfa8a1f3c341517621838c6e1b9aa350307e3f00b3cbd1a07ef740f54396d6'
const V3 = 'fea7b32778ecbdd7adee1941e98c89cf96bbc762f5f1beb0be24e36a456fbbc5'
const V4 = '1617a7384eff5e9135098c24794739af884859cdb17c1a61a834e8d6ac997351'
const V5 = 'ede8ef26a097f0fd889f9f39f6f5af921370630b164c4a4fa28eb716b2df9269'
const V6 = '5fb505bbb82c29d7a783f79808ae82d6665124a94811809775743a92b040bcbe'
const V7 = 'c4165f88cf13746cba8f2f8e1070a6c861507b1665f09fb61ae58a550653fb76'

const upTo = (count: number): Uint32Array => Uint32Array.from({ length: count }, (_, i) => i)

function errorOf(call: () => unknown): HiCacheError {
  try {
    call()
  } catch (error) {
    if (HiCacheError.is(error)) return error
    throw error
  }
  throw new Error('the call threw nothing')
}

describe('pageHashes', () => {
  const ways: Record<string, (tokens: Uint32Array, wordsPerPage: number, prior?: string) => string[]> = {
    'pageHashes': (tokens, pageTokens, prior) => pageHashes(tokens, { pageTokens, prior }),
    'crypto.hash': cryptoPageHashes,
    'the JavaScript reference': (...given) => referenceKernel().pageHashes(...given),
    'the WebAssembly kernel': (...given) => instantiateWasmKernel().pageHashes(...given)
  }
  for (const [name, way] of Object.entries(ways)) {
    it(`gives the contract's vectors by ${name}`, () => {
      expect(way(Uint32Array.of(1, 2, 3, 4), 4), 'V1').to.deep.equal([V1])
      expect(way(Uint32Array.of(5, 6, 7, 8), 4, V1), 'V2').to.deep.equal([V2])
      expect(way(Uint32Array.of(1, 2, 3, 4, 5, 6, 7, 8), 4), 'V1, V2').to.deep.equal([V1, V2])
      expect(way(upTo(64), 64), 'V3').to.deep.equal([V3])
      expect(way(upTo(64).map((i) => i + 64), 64, V3), 'V4').to.deep.equal([V4])
      expect(way(upTo(128), 64), 'V3, V4').to.deep.equal([V3, V4])
      expect(way(Uint32Array.of(1, 2, 2, 3), 4), 'V5').to.deep.equal([V5])
      expect(way(Uint32Array.of(151643, 151644, 4294967295), 3), 'V6').to.deep.equal([V6])
    })
  }

  it('gives V7, the hash of no tokens after V1, by the kernel\'s SHA-256; a page is never empty', () => {
    for (const kernel of [referenceKernel(), instantiateWasmKernel()]) expect(kernel.sha256(Buffer.from(V1, 'hex'))).to.equal(V7)
    expect(pageHashes(new Uint32Array(0), { pageTokens: 4, prior: V1 })).to.deep.equal([])
  })

  it('is equal by every way on random chains', () => {
    const kernels = [referenceKernel(), instantiateWasmKernel()]
    for (let round = 0; round < 30; round++) {
      const tokens = new Uint32Array(randomInt(0, 5000)).map(() => randomInt(2 ** 32))
      const pageTokens = randomInt(1, 200)
      const prior = round % 3 === 0 ? V1 : undefined
      const hashes = pageHashes(tokens, { pageTokens, prior })
      expect(hashes).to.have.length(Math.floor(tokens.length / pageTokens))
      for (const kernel of kernels) expect(kernel.pageHashes(tokens, pageTokens, prior)).to.deep.equal(hashes)
    }
  })

  it('leaves out the tokens that do not fill a page', () => {
    expect(pageHashes(Uint32Array.of(1, 2, 3, 4, 5, 6, 7), { pageTokens: 4 })).to.deep.equal([V1])
    expect(pageHashes(Uint32Array.of(1, 2, 3), { pageTokens: 4 })).to.deep.equal([])
    expect(pageHashes([], { pageTokens: 4 })).to.deep.equal([])
  })

  it('goes on from the hash of the page before, upper-case or not', () => {
    expect(pageHashes(Uint32Array.of(5, 6, 7, 8), { pageTokens: 4, prior: V1.toUpperCase() })).to.deep.equal([V2])
    expect(pageHashes(Uint32Array.of(1, 2, 3, 4), { pageTokens: 4, prior: '' })).to.deep.equal([V1])
  })

  it('takes views into larger, shared and foreign memory, and plain arrays', () => {
    const shared = new Uint32Array(new SharedArrayBuffer(24), 8, 4)
    shared.set([1, 2, 3, 4])
    const foreign = runInNewContext('Uint32Array.of(1, 2, 3, 4)') as Uint32Array
    for (const tokens of [shared, foreign, [1, 2, 3, 4], upTo(9).subarray(1, 5)]) expect(pageHashes(tokens, { pageTokens: 4 })).to.deep.equal([V1])
  })

  it('feeds both elements of a bigram, as pairs and flat', () => {
    expect(pageHashes([[1, 2], [2, 3]], { pageTokens: 2 })).to.deep.equal([V5])
    expect(pageHashes(Uint32Array.of(1, 2, 2, 3), { pageTokens: 2, bigrams: true })).to.deep.equal([V5])
    expect(pageHashes([1, 2, 2, 3, 9, 9], { pageTokens: 2, bigrams: true })).to.deep.equal([V5])
    expect(pageHashes([[1, 2], [3, 4], [5, 6], [7, 8], [9, 9]], { pageTokens: 2 })).to.deep.equal([V1, V2])
  })

  describe('refuses', () => {
    const cases: readonly (readonly [what: string, tokens: unknown, options: unknown, ...parts: string[]])[] = [
      ['a token below 0', [1, -1], { pageTokens: 1 }, 'tokens[1]', '-1'],
      ['a token of 2^32', [4294967296], { pageTokens: 1 }, 'tokens[0]', '4294967296'],
      ['a fraction', [1, 2, 0.5], { pageTokens: 1 }, 'tokens[2]', '0.5'],
      ['a bigint', [1n], { pageTokens: 1 }, 'tokens[0]', 'bigint 1'],
      ['NaN', [NaN], { pageTokens: 1 }, 'tokens[0]', 'NaN'],
      ['a token past the last whole page', [1, 2, -3], { pageTokens: 2 }, 'tokens[2]', '-3'],
      ['a hole', new Array(1), { pageTokens: 1 }, 'tokens[0]', 'undefined'],
      ['an element of a bigram out of range', [[1, 2], [3, 4294967296]], { pageTokens: 1 }, 'tokens[1][1]', '4294967296'],
      ['a triple', [[1, 2], [3, 4, 5]], { pageTokens: 1 }, 'tokens[1]', 'an array of 3'],
      ['a pair among single tokens', [1, [2, 3]], { pageTokens: 1 }, 'tokens[1]', 'an array of 2'],
      ['a single token among pairs', [[1, 2], 3], { pageTokens: 1 }, 'tokens[1]', '3'],
      ['half a flat bigram', Uint32Array.of(1, 2, 3), { pageTokens: 1, bigrams: true }, '3', 'odd'],
      ['other typed arrays', BigInt64Array.of(1n), { pageTokens: 1 }, 'BigInt64Array', 'Uint32Array.from(ids, Number)'],
      ['no tokens', undefined, { pageTokens: 1 }, 'tokens', 'undefined'],
      ['no options', [1], undefined, 'options', 'undefined'],
      ['pages of no tokens', [1], { pageTokens: 0 }, 'pageTokens', '0'],
      ['pages of half a token', [1], { pageTokens: 1.5 }, 'pageTokens', '1.5'],
      ['a page size that is no number', [1], { pageTokens: '64' }, 'pageTokens', '"64"'],
      ['a short prior hash', [1], { pageTokens: 1, prior: V1.slice(2) }, 'prior', V1.slice(2)],
      ['a prior that is no hex', [1], { pageTokens: 1, prior: 'g'.repeat(64) }, 'prior', 'ggg'],
      ['a seed that is no string', [1], { pageTokens: 1, seed: 7 }, 'seed', '7'],
      ['a prior and a seed', [1], { pageTokens: 1, prior: V1, seed: V2 }, 'prior and seed', 'Leave one out']
    ]
    for (const [what, tokens, options, ...parts] of cases) {
      it(what, () => {
        const error = errorOf(() => pageHashes(tokens as Tokens, options as { pageTokens: number }))
        expect(error.code).to.equal('ERR_ARGUMENT')
        for (const part of parts) expect(error.message).to.include(part)
      })
    }
  })
})

describe('namespaceSeed', () => {
  it('gives the contract\'s vectors', () => {
    const seed = namespaceSeed({ extraKey: 'lora-a' })
    expect(seed).to.equal('407c773a7c02b33bd4a62af6bf5fc77997c2c8067811ecf2b39e3839c3f4284b')
    expect(pageHashes([1, 2, 3, 4], { pageTokens: 4, seed })).to.deep.equal(['e4f68dc4af99b6de199d5a048add282da40aa4ef97942ce9eca321bccada9376'])
    expect(namespaceSeed({ cacheSalt: 'tenant-1' })).to.equal('3ad2e4c0a01548f53b6eeefabd91653acdebfc600f84ca614c46d961df378b83')
  })

  it('gives what Python gives for both parts, empty ones and other scripts', () => {
    expect(namespaceSeed({ extraKey: 'lora-a', cacheSalt: 'tenant-1' })).to.equal('7d5eebadb5b6d118f6fb1bee6a7270aef93f903baf6224b4d5dc6579365f3491')
    expect(namespaceSeed({ extraKey: '' })).to.equal('fd649dd130277fa0773e23e84ddfa4ec779d9df77087968a60d7cefb9050ab1d')
    expect(namespaceSeed({ extraKey: 'lörä', cacheSalt: '' })).to.equal('05e452a6437bac5493588b4a69171e1eb74c9a1a409b93b189b1f7ec0cbeedd4')
  })

  it('is none without parts: pages are those of everybody', () => {
    for (const none of [undefined, {}, { extraKey: null }, { extraKey: undefined, cacheSalt: null }]) expect(namespaceSeed(none)).to.equal(undefined)
    expect(pageHashes([1, 2, 3, 4], { pageTokens: 4, seed: namespaceSeed({}) })).to.deep.equal([V1])
  })

  it('tells parts from each other by place and length, and feeds the seed like a prior hash', () => {
    const seeds = [{ extraKey: 'ab' }, { cacheSalt: 'ab' }, { extraKey: 'a', cacheSalt: 'b' }, { extraKey: 'ab', cacheSalt: '' }].map(namespaceSeed)
    expect(new Set(seeds).size).to.equal(4)
    const seed = seeds[0]!
    const expected = createHash('sha256').update(Buffer.from(seed, 'hex')).update(Buffer.of(7, 0, 0, 0)).digest('hex')
    expect(pageHashes([7], { pageTokens: 1, seed })).to.deep.equal([expected])
  })

  it('refuses what has no UTF-8', () => {
    expect(errorOf(() => namespaceSeed({ extraKey: 'a\ud800' })).message).to.include('extraKey')
    expect(errorOf(() => namespaceSeed({ cacheSalt: 7 as unknown as string })).code).to.equal('ERR_ARGUMENT')
  })
})
