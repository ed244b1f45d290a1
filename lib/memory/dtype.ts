import { HiCacheError, describe } from '../error.js'

/** Element types of a tensor: PyTorch's names. */
export type DType =
  | 'int8' | 'int16' | 'int32' | 'int64' | 'uint8' | 'uint16' | 'uint32' | 'uint64'
  | 'float16' | 'bfloat16' | 'float8_e4m3fn' | 'float8_e5m2' | 'float32' | 'float64' | 'bool'

type Carrier =
  | Int8ArrayConstructor | Int16ArrayConstructor | Int32ArrayConstructor | BigInt64ArrayConstructor
  | Uint8ArrayConstructor | Uint16ArrayConstructor | Uint32ArrayConstructor | BigUint64ArrayConstructor
  | Float32ArrayConstructor | Float64ArrayConstructor

interface DTypeFacts {
  /** The number that stands for the type on disk: never changes, never used again for another. */
  readonly code: number
  readonly bytes: number
  /** The typed array that carries it in JavaScript. */
  readonly carrier: Carrier
}

export const DTYPES: Readonly<Record<DType, DTypeFacts>> = {
  uint8: { code: 1, bytes: 1, carrier: Uint8Array },
  int8: { code: 2, bytes: 1, carrier: Int8Array },
  uint16: { code: 3, bytes: 2, carrier: Uint16Array },
  int16: { code: 4, bytes: 2, carrier: Int16Array },
  uint32: { code: 5, bytes: 4, carrier: Uint32Array },
  int32: { code: 6, bytes: 4, carrier: Int32Array },
  uint64: { code: 7, bytes: 8, carrier: BigUint64Array },
  int64: { code: 8, bytes: 8, carrier: BigInt64Array },
  float16: { code: 9, bytes: 2, carrier: Uint16Array },
  bfloat16: { code: 10, bytes: 2, carrier: Uint16Array },
  float8_e4m3fn: { code: 11, bytes: 1, carrier: Uint8Array },
  float8_e5m2: { code: 12, bytes: 1, carrier: Uint8Array },
  float32: { code: 13, bytes: 4, carrier: Float32Array },
  float64: { code: 14, bytes: 8, carrier: Float64Array },
  bool: { code: 15, bytes: 1, carrier: Uint8Array }
}

const NAMES = Object.keys(DTYPES) as DType[]
const BY_CODE = new Map(NAMES.map(name => [DTYPES[name].code, name]))

/** What a bare typed array holds, by its class name (class identity differs between realms). */
const BY_CLASS: Readonly<Record<string, DType>> = {
  Int8Array: 'int8', Int16Array: 'int16', Int32Array: 'int32', BigInt64Array: 'int64',
  Uint8Array: 'uint8', Uint8ClampedArray: 'uint8', Uint16Array: 'uint16', Uint32Array: 'uint32', BigUint64Array: 'uint64',
  Float16Array: 'float16', Float32Array: 'float32', Float64Array: 'float64', DataView: 'uint8'
}

export function isDType(value: unknown): value is DType {
  return typeof value === 'string' && Object.hasOwn(DTYPES, value)
}

export function dtypeOfCode(code: number): DType | undefined { return BY_CODE.get(code) }

/** The dtype of a bare view: a Buffer and a DataView are bytes. */
export function dtypeOfView(view: NodeJS.ArrayBufferView): DType {
  const tag = (view as { [Symbol.toStringTag]?: string })[Symbol.toStringTag] ?? ''
  return BY_CLASS[tag] ?? 'uint8'
}

/** Can this view, as it is, carry elements of the dtype? Bytes (Uint8Array, Buffer, DataView) carry everything. */
export function carries(view: NodeJS.ArrayBufferView, dtype: DType): boolean {
  const own = dtypeOfView(view)
  return own === 'uint8' || own === dtype || dtypeOfView(new DTYPES[dtype].carrier(0)) === own
}

/** Elements of a shape. Throws ERR_ARGUMENT on anything that is not a list of whole numbers >= 0 with a product below 2^53. */
export function elementsOf(shape: readonly number[]): number {
  if (!Array.isArray(shape) || shape.length > SHAPE_DIMENSIONS_MAX) {
    throw new HiCacheError('ERR_ARGUMENT', `A shape is an array of at most ${SHAPE_DIMENSIONS_MAX} whole numbers; got ${describe(shape)}.`)
  }
  let elements = 1
  for (const size of shape as readonly unknown[]) {
    if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) {
      throw new HiCacheError('ERR_ARGUMENT', `A shape holds whole numbers from 0; got [${shape.map(String).join(', ')}].`)
    }
    elements *= size
    if (!Number.isSafeInteger(elements)) {
      throw new HiCacheError('ERR_ARGUMENT', `The shape [${shape.join(', ')}] has 2^53 elements or more.`)
    }
  }
  return elements
}

/** Dimensions a record has room for. */
export const SHAPE_DIMENSIONS_MAX = 16
