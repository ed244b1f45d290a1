import { HiCacheError, describe } from '../error.js'
import { DTYPES, dtypeOfView, elementsOf, isDType, type DType } from './dtype.js'

/**
 * Elements in host memory. `data` is the typed array that carries the dtype: float16 and bfloat16 in a Uint16Array, float8 and
 * bool in a Uint8Array, 64-bit integers in BigInt arrays; a Buffer or Uint8Array of the right length serves for every dtype.
 */
export interface Tensor { readonly dtype: DType; readonly shape: readonly number[]; readonly data: NodeJS.ArrayBufferView }

/** Memory of a GPU. It is named by its address and never shown as an ArrayBuffer. */
export interface DeviceBuffer {
  readonly type: 'VRAM'
  readonly deviceId: number
  readonly address: bigint
  /** Bytes. */
  readonly length: number
  /** What the page is stored as. Default: uint8 of `length` elements. */
  readonly dtype?: DType
  readonly shape?: readonly number[]
}

/** What can be stored. It must stay unchanged until its promise settles. */
export type Source = Tensor | NodeJS.ArrayBufferView | DeviceBuffer
/** What can be read into. Its bytes are defined only when the outcome is ok. */
export type Target = Source

export function isDeviceBuffer(value: unknown): value is DeviceBuffer {
  return typeof value === 'object' && value !== null && (value as { type?: unknown }).type === 'VRAM'
}

/** A source or target taken apart: host bytes with what they mean. `tensor` tells whether dtype and shape were given or only inferred. */
export interface HostMemory { readonly bytes: Uint8Array; readonly dtype: DType; readonly shape: readonly number[]; readonly tensor: boolean; readonly view: NodeJS.ArrayBufferView }

/**
 * Checks a source or target and takes it apart. Throws ERR_ARGUMENT for: something that is neither a view nor a tensor, a detached or
 * out-of-bounds buffer, zero bytes, a dtype or shape that does not fit the data, device memory.
 */
export function hostMemory(value: unknown, what: 'source' | 'target', key: string): HostMemory {
  if (ArrayBuffer.isView(value)) {
    const view = value as NodeJS.ArrayBufferView
    checkAttached(view, what, key)
    const dtype = dtypeOfView(view)
    return { bytes: bytesOf(view), dtype, shape: [view.byteLength / DTYPES[dtype].bytes], tensor: false, view }
  }
  if (isDeviceBuffer(value)) throw new HiCacheError('ERR_ARGUMENT', `The ${what} of ${quote(key)} is GPU memory, and host memory is wanted.`, { key })
  if (typeof value !== 'object' || value === null || !ArrayBuffer.isView((value as Tensor).data)) {
    throw new HiCacheError('ERR_ARGUMENT',
      `The ${what} of ${quote(key)} is neither a tensor { dtype, shape, data } nor a typed array, Buffer or DataView; got ${describe(value)}.`, { key })
  }
  const { dtype, shape, data } = value as Tensor
  if ((value as { released?: unknown }).released === true) {
    throw new HiCacheError('ERR_ARGUMENT', `The ${what} of ${quote(key)} is an arena tensor that has been released.`, { key })
  }
  if (!isDType(dtype)) {
    throw new HiCacheError('ERR_ARGUMENT', `The ${what} of ${quote(key)} has the dtype ${describe(dtype)}; known are ${Object.keys(DTYPES).join(', ')}.`, { key })
  }
  const bytesWanted = elementsOf(shape) * DTYPES[dtype].bytes
  checkAttached(data, what, key)
  if (data.byteLength !== bytesWanted) {
    throw new HiCacheError('ERR_ARGUMENT',
      `The ${what} of ${quote(key)} has ${data.byteLength} bytes of data; ${dtype} [${shape.join(', ')}] takes ${bytesWanted}.`, { key })
  }
  return { bytes: bytesOf(data), dtype, shape, tensor: true, view: data }
}

/** A byte view of fixed length: on a buffer that shrinks or is detached later it becomes empty, which the copy checks for. */
function bytesOf(view: NodeJS.ArrayBufferView): Uint8Array {
  // Most are that already. Not those that grow with their buffer.
  const { buffer } = view as { buffer: { resizable?: boolean; growable?: boolean } }
  if (view.constructor === Uint8Array && buffer.resizable !== true && buffer.growable !== true) return view
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
}

function checkAttached(view: NodeJS.ArrayBufferView, what: string, key: string): void {
  // Reading byteLength of a DataView on a detached buffer throws; of a typed array it is 0.
  let length = 0
  try { length = view.byteLength } catch { /* detached: stays 0 */ }
  if (length === 0) {
    throw new HiCacheError('ERR_ARGUMENT',
      `The ${what} of ${quote(key)} has no bytes: it is empty, or its buffer was detached or shrunk. A page has at least one byte.`, { key })
  }
}

export function quote(key: unknown): string {
  return typeof key === 'string' ? JSON.stringify(key.length > 80 ? `${key.slice(0, 80)}...` : key) : describe(key)
}
