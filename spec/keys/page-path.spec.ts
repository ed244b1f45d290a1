import { expect } from 'chai'
import { HiCacheError } from '../../lib/error.js'
import { BUCKETS, bytesOf, KeyNames, pageGroup, routePage } from '../../lib/keys/index.js'
import { instantiateWasmKernel, referenceKernel } from '../../lib/keys/kernel/kernel.js'

const V1 = 'cf97adeedb59e05bfd73a2b4c2a8885708c4f4f70c84c64b27120e72ab733b72'
const OTHER = V1.replace('cf', 'ab')

/** The contract's: stored key, h, bucket, directory of three. */
const VECTORS: readonly (readonly [storedKey: string, hash: string, bucket: string, directory: number])[] = [
  ['key1', 'b650dcad7186d1d1', 'd1', 2],
  [`${V1}_Qwen-Qwen3-8B_0_2_k`, '92285ac46b191446', '46', 1],
  [`${V1}_Qwen-Qwen3-8B_0_2_v`, '74d7ca171f4c376b', '6b', 0],
  [`${V1}_deepseek-ai-DeepSeek-V3`, '088573ff567bf9cb', 'cb', 0]
]

describe('routePage', () => {
  for (const [storedKey, hash, bucket, directory] of VECTORS) {
    it(`puts ${storedKey.replace(V1, '<V1>')} where SGLang does`, () => {
      for (const kernel of [referenceKernel(), instantiateWasmKernel()]) expect(Buffer.from(kernel.blake2b64(storedKey)).toString('hex')).to.equal(hash)
      expect(routePage(storedKey, 3, 'bucketed')).to.deep.equal({ directory, name: `${bucket}/${storedKey}` })
      expect(routePage(storedKey, 1, 'bucketed')).to.deep.equal({ directory: 0, name: `${bucket}/${storedKey}` })
      expect(routePage(storedKey, 3, 'flat')).to.deep.equal({ directory, name: storedKey })
      expect(routePage(storedKey, 1, 'flat')).to.deep.equal({ directory: 0, name: storedKey })
    })
  }

  it('takes the directory from all 48 bits above the lowest 16', () => {
    for (const [storedKey, hash] of VECTORS) {
      for (const count of [2, 5, 7, 255, 65_537, 4_294_967_311]) {
        expect(routePage(storedKey, count, 'bucketed').directory).to.equal(Number((BigInt(`0x${hash}`) >> 16n) % BigInt(count)))
      }
    }
  })

  it('names buckets that exist, and all of them', () => {
    const seen = new Set<string>()
    for (let i = 0; i < 5000; i++) seen.add(routePage(`key${i}`, 1, 'bucketed').name.slice(0, 2))
    expect([...seen].sort()).to.deep.equal(BUCKETS)
  })

  it('refuses a number of directories that is none', () => {
    for (const count of [0, -1, 1.5, NaN]) {
      expect(() => routePage('key1', count, 'flat')).to.throw(HiCacheError, String(count)).with.property('code', 'ERR_ARGUMENT')
    }
  })
})

describe('pageGroup', () => {
  const names = new KeyNames({ modelName: 'Qwen/Qwen3-8B', tpRank: 0, tpSize: 2 })
  const parts = [
    ...names.pageKeys(V1), ...names.pageKeys(V1, 'one-tensor'), ...names.mambaKeys(V1, 12),
    ...names.poolKeys(V1, 'indexer'), ...names.poolKeys(V1, 'swa', 2), ...names.poolKeys(V1, 'swa', 3)
  ]

  it('is one for all parts of a page of the namespace', () => {
    expect([...new Set(parts.map((part) => pageGroup(part, names.suffix)))]).to.deep.equal([V1 + names.suffix])
  })

  it('is one for keys, values and Mamba states without the namespace', () => {
    const known = [...names.pageKeys(V1), ...names.pageKeys(V1, 'one-tensor'), ...names.mambaKeys(V1, 12)]
    expect([...new Set(known.map((part) => pageGroup(part)))]).to.deep.equal([V1 + names.suffix])
  })

  it('keeps other pages, ranks and models apart', () => {
    const pages = [
      names.pageKeys(OTHER), new KeyNames({ modelName: 'Qwen/Qwen3-8B', tpRank: 1, tpSize: 2 }).pageKeys(V1),
      new KeyNames({ modelName: 'Qwen/Qwen3-8B', tpRank: 0, tpSize: 2, ppRank: 1, ppSize: 2 }).pageKeys(V1),
      new KeyNames({ modelName: 'Qwen/Qwen3-8B', tpRank: 0, tpSize: 2, cpRank: 1, cpSize: 2 }).pageKeys(V1),
      new KeyNames({ modelName: 'b', isMlaModel: true }).pageKeys(V1), names.pageKeys(V1)
    ]
    const groups = pages.map((keys) => new Set(keys.map((key) => pageGroup(key, names.suffix))))
    for (const group of groups) expect(group.size).to.equal(1)
    expect(new Set(groups.flatMap((group) => [...group])).size).to.equal(pages.length)
  })

  it('leaves keys that are no page hashes alone', () => {
    for (const key of ['cache_k', 'cache_v', V1, `${V1.toUpperCase()}_m_0_1_k`, `x${V1}_m_0_1_k`]) expect(pageGroup(key)).to.equal(key)
  })
})

describe('bytesOf', () => {
  it('gives UTF-8', () => {
    expect([...bytesOf('aé漢😀')]).to.deep.equal([...new TextEncoder().encode('aé漢😀')])
  })
})
