import { HiCacheError, describe } from '../error.js'
import { STORED_KEY_BYTES_MAX } from './check-key.js'
import { LONE_SURROGATE, byteLengthOf } from './utf8.js'

/** What a cache's stored keys say of the process that wrote them. */
export interface KeyScheme {
  /** The model as SGLang names it, `Qwen/Qwen3-8B`. Default ''. */
  readonly modelName: string
  /** Rank in and size of the tensor-parallel group. Defaults 0 and 1. */
  readonly tpRank: number
  readonly tpSize: number
  /** The same of the pipeline-parallel group. Defaults 0 and 1. */
  readonly ppRank: number
  readonly ppSize: number
  /** The same of the context-parallel group. Defaults 0 and 1. */
  readonly cpRank: number
  readonly cpSize: number
  /** The model has multi-head latent attention: its pages are the same on every tensor-parallel rank. Default false. */
  readonly isMlaModel: boolean
}

/** Room that a suffix leaves for the key: a page hash of 64 bytes and the name of a part. */
const KEY_BYTES_MIN = 96

type Given = { readonly [Name in keyof KeyScheme]?: KeyScheme[Name] | undefined }

function group(given: Given, kind: 'tp' | 'pp' | 'cp'): [rank: number, size: number] {
  const { [`${kind}Rank` as const]: rank = 0, [`${kind}Size` as const]: size = 1 } = given
  if (!Number.isSafeInteger(size) || size < 1) {
    throw new HiCacheError('ERR_ARGUMENT', `${kind}Size must be a positive whole number, but is ${describe(size)}.`)
  }
  if (!Number.isSafeInteger(rank) || rank < 0 || rank >= size) {
    const range = `from 0 to ${kind}Size - 1, which is ${size - 1}`
    throw new HiCacheError('ERR_ARGUMENT', `${kind}Rank must be a whole number ${range}, but is ${describe(rank)}.`)
  }
  return [rank, size]
}

/**
 * The scheme with its defaults, checked.
 *
 * @throws {HiCacheError} `ERR_ARGUMENT` for a value of the wrong type, a rank outside of its group, a model name that no file
 * name can hold.
 */
export function keyScheme(given: Given = {}): KeyScheme {
  const { modelName = '', isMlaModel = false } = given
  if (typeof modelName !== 'string') {
    throw new HiCacheError('ERR_ARGUMENT', `modelName must be a string, but is ${describe(modelName)}.`)
  }
  if (typeof isMlaModel !== 'boolean') {
    throw new HiCacheError('ERR_ARGUMENT', `isMlaModel must be true or false, but is ${describe(isMlaModel)}.`)
  }
  if (modelName.includes('\0') || LONE_SURROGATE.test(modelName)) {
    throw new HiCacheError(
      'ERR_ARGUMENT', `modelName must hold no NUL and no lone surrogate, which no file name can, but is ${describe(modelName)}.`
    )
  }
  const [tpRank, tpSize] = group(given, 'tp')
  const [ppRank, ppSize] = group(given, 'pp')
  const [cpRank, cpSize] = group(given, 'cp')
  const scheme = Object.freeze({ modelName, tpRank, tpSize, ppRank, ppSize, cpRank, cpSize, isMlaModel })
  const bytes = byteLengthOf(suffixOf(scheme))
  if (bytes > STORED_KEY_BYTES_MAX - KEY_BYTES_MIN) {
    throw new HiCacheError(
      'ERR_ARGUMENT',
      `modelName ${describe(modelName)} makes a suffix of ${bytes} bytes; the most is ${STORED_KEY_BYTES_MAX - KEY_BYTES_MIN}, ` +
      `so that a page hash and its parts fit a file name of ${STORED_KEY_BYTES_MAX}. Take a shorter name.`
    )
  }
  return scheme
}

/** What follows every key in its stored key: the model, the ranks where pages differ by them. */
export function suffixOf(scheme: KeyScheme): string {
  const model = scheme.modelName.replaceAll('/', '-')
  let suffix = scheme.isMlaModel ? `_${model}` : `_${model}_${scheme.tpRank}_${scheme.tpSize}`
  if (scheme.ppSize > 1) suffix += `_${scheme.ppSize}_${scheme.ppRank}`
  if (scheme.cpSize > 1) suffix += `_cp${scheme.cpRank}_${scheme.cpSize}`
  return suffix
}
