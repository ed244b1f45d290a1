import { expect } from 'chai'
import { HiCacheError } from '../../lib/error.js'
import { checkKey, KeyNames, type KeyScheme, RESERVED_PREFIX, STORED_KEY_BYTES_MAX } from '../../lib/keys/index.js'

const HASH = 'cf97adeedb59e05bfd73a2b4c2a8885708c4f4f70c84c64b27120e72ab733b72'

function errorOf(call: () => unknown): HiCacheError {
  try {
    call()
  } catch (error) {
    if (HiCacheError.is(error)) return error
    throw error
  }
  throw new Error('the call threw nothing')
}

describe('KeyNames', () => {
  const suffixes: readonly (readonly [scheme: Partial<KeyScheme>, suffix: string])[] = [
    [{ modelName: 'Qwen/Qwen3-8B', tpRank: 0, tpSize: 2 }, '_Qwen-Qwen3-8B_0_2'],
    [{ modelName: 'deepseek-ai/DeepSeek-V3', isMlaModel: true, tpRank: 3, tpSize: 8 }, '_deepseek-ai-DeepSeek-V3'],
    [{ modelName: 'a/b/c' }, '_a-b-c_0_1'],
    [{}, '__0_1'],
    [{ isMlaModel: true }, '_'],
    [{ modelName: 'm', tpRank: 1, tpSize: 4, ppRank: 1, ppSize: 3 }, '_m_1_4_3_1'],
    [{ modelName: 'm', tpRank: 1, tpSize: 4, cpRank: 1, cpSize: 2 }, '_m_1_4_cp1_2'],
    [{ modelName: 'm', ppRank: 2, ppSize: 3, cpRank: 0, cpSize: 2 }, '_m_0_1_3_2_cp0_2'],
    [{ modelName: 'm', isMlaModel: true, ppRank: 0, ppSize: 2, cpRank: 1, cpSize: 2 }, '_m_2_0_cp1_2']
  ]
  for (const [scheme, suffix] of suffixes) {
    it(`gives the suffix ${suffix}`, () => {
      const names = new KeyNames(scheme)
      expect(names.suffix).to.equal(suffix)
      expect(names.storedKey('key1')).to.equal(`key1${suffix}`)
    })
  }

  it('names the parts of a page', () => {
    const mha = new KeyNames({ modelName: 'Qwen/Qwen3-8B', tpRank: 0, tpSize: 2 })
    const mla = new KeyNames({ modelName: 'deepseek-ai/DeepSeek-V3', isMlaModel: true })
    expect(mha.pageKeys(HASH)).to.deep.equal([`${HASH}_Qwen-Qwen3-8B_0_2_k`, `${HASH}_Qwen-Qwen3-8B_0_2_v`])
    expect(mha.pageKeys(HASH, 'one-tensor')).to.deep.equal([`${HASH}_Qwen-Qwen3-8B_0_2`])
    expect(mla.pageKeys(HASH)).to.deep.equal([`${HASH}_deepseek-ai-DeepSeek-V3_k`])
    expect(mla.pageKeys(HASH, 'one-tensor')).to.deep.equal([`${HASH}_deepseek-ai-DeepSeek-V3`])
  })

  it('names component pools and Mamba states', () => {
    const names = new KeyNames({ modelName: 'm' })
    const page = `${HASH}_m_0_1`
    expect(names.poolKeys(HASH, 'indexer')).to.deep.equal([`${page}_indexer`])
    expect(names.poolKeys(HASH, 'swa', 2)).to.deep.equal([`${page}_swa_k`, `${page}_swa_v`])
    expect(names.poolKeys(HASH, 'swa', 3)).to.deep.equal([`${page}_swa_0`, `${page}_swa_1`, `${page}_swa_2`])
    expect(names.mambaKeys(HASH, 2)).to.deep.equal([`${page}_mamba_temporal`, `${page}_mamba_conv_0`, `${page}_mamba_conv_1`])
    expect(names.mambaKeys(HASH, 0)).to.deep.equal([`${page}_mamba_temporal`])
    expect(errorOf(() => names.poolKeys(HASH, '../x')).code).to.equal('ERR_ARGUMENT')
    expect(errorOf(() => names.poolKeys(HASH, 'swa', 0)).message).to.include('parts')
    expect(errorOf(() => names.mambaKeys(HASH, 1e9)).message).to.include('convolutions')
  })

  it('says which rank stores nothing', () => {
    expect(new KeyNames({ isMlaModel: true, tpRank: 0, tpSize: 2 }).backupSkip).to.equal(false)
    expect(new KeyNames({ isMlaModel: true, tpRank: 1, tpSize: 2 }).backupSkip).to.equal(true)
    expect(new KeyNames({ isMlaModel: false, tpRank: 1, tpSize: 2 }).backupSkip).to.equal(false)
  })

  describe('refuses', () => {
    const cases: readonly (readonly [scheme: Record<string, unknown>, ...parts: string[]])[] = [
      [{ tpRank: 2, tpSize: 2 }, 'tpRank', '2'], [{ tpRank: -1 }, 'tpRank', '-1'],
      [{ tpRank: 0.5, tpSize: 2 }, 'tpRank', '0.5'],
      [{ tpSize: 0 }, 'tpSize', '0'], [{ tpSize: '2' }, 'tpSize', '"2"'],
      [{ ppRank: 1 }, 'ppRank', '1'], [{ cpRank: 1, cpSize: 1 }, 'cpRank', '1'],
      [{ cpSize: NaN }, 'cpSize', 'NaN'], [{ isMlaModel: 'true' }, 'isMlaModel', '"true"'], [{ modelName: 7 }, 'modelName', '7'],
      [{ modelName: 'a\0b' }, 'modelName', 'NUL'], [{ modelName: '\udc00' }, 'modelName', 'lone surrogate'],
      [{ modelName: 'm'.repeat(200) }, 'modelName', '205 bytes']
    ]
    for (const [scheme, ...parts] of cases) {
      it(JSON.stringify(scheme).slice(0, 50), () => {
        const error = errorOf(() => new KeyNames(scheme))
        expect(error.code).to.equal('ERR_ARGUMENT')
        for (const part of parts) expect(error.message).to.include(part)
      })
    }
  })
})

describe('checkKey', () => {
  it('takes hashes, other scripts, spaces, control characters and dots inside', () => {
    for (const key of [HASH, 'key1', 'é漢字😀', 'a b', 'a\nb', '...', '.hidden', 'a..b', '-rf', 'a\\b', 'x'.repeat(255)]) {
      expect(() => checkKey(key), key).not.to.throw()
    }
  })

  const refused: readonly (readonly [what: string, key: string, part: string])[] = [
    ['an empty key', '', 'empty'],
    ['NUL', 'a\0', 'NUL (at 1)'],
    ['a slash', 'a/b', '"/" (at 1)'],
    ['a way out of the directory', '../../etc/passwd', '"/" (at 2)'],
    ['an absolute path', '/etc/passwd', '"/" (at 0)'],
    ['the directory', '.', 'directory itself'],
    ['its parent', '..', 'directory itself'],
    ['a high surrogate alone', 'a\ud83d', 'lone surrogate (at 1)'],
    ['a low surrogate alone', '\ude00a', 'lone surrogate (at 0)'],
    ['surrogates in the wrong order', '\ude00\ud83d', 'lone surrogate'],
    ['a name of the package\'s own', `${RESERVED_PREFIX}-marker`, RESERVED_PREFIX],
    ['256 bytes', 'x'.repeat(256), '255 bytes'],
    ['256 bytes in 128 characters', 'é'.repeat(128), '256 bytes']
  ]
  for (const [what, key, part] of refused) {
    it(`refuses ${what}`, () => {
      const error = errorOf(() => checkKey(key))
      expect(error.code).to.equal('ERR_KEY')
      expect(error.key).to.equal(key)
      expect(error.message).to.include(part)
    })
  }

  it('refuses what is no string as an argument, not as a key', () => {
    for (const key of [undefined, null, 7, Buffer.from('key1'), ['key1'], Symbol('key1'), new String('key1')]) {
      expect(errorOf(() => checkKey(key)).code).to.equal('ERR_ARGUMENT')
    }
  })

  it('counts the suffix and the part, in bytes', () => {
    const names = new KeyNames({ modelName: 'modèle' })
    const room = STORED_KEY_BYTES_MAX - Buffer.byteLength(names.suffix)
    expect(Buffer.byteLength(names.storedKey('x'.repeat(room)))).to.equal(255)
    const error = errorOf(() => names.storedKey('x'.repeat(room + 1)))
    expect(error.code).to.equal('ERR_KEY')
    expect(error.message).to.include('256 bytes').and.to.include('hash of it')
    expect(names.pageKeys('x'.repeat(room), 'one-tensor')).to.have.length(1)
    expect(errorOf(() => names.pageKeys('x'.repeat(room), 'zero-copy')).code).to.equal('ERR_KEY')
    expect(errorOf(() => names.storedKey('a/b')).key).to.equal('a/b')
  })
})
