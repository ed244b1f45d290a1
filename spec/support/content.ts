import type { DType, Tensor } from '../../lib/index.js'
import { DTYPES, elementsOf } from '../../lib/memory/dtype.js'

/** Bytes that look random and are the same for the same seed: every page of a spec differs from every other in nearly every byte. */
export function bytes(length: number, seed: number | string): Uint8Array {
  const words = new Uint32Array(Math.ceil(length / 4))
  let state = 0x9e3779b9
  for (const character of String(seed)) state = Math.imul(state ^ character.charCodeAt(0), 0x01000193) >>> 0
  // xorshift32; zero would stay zero.
  state = state === 0 ? 1 : state
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    words[i] = state
  }
  return new Uint8Array(words.buffer).slice(0, length)
}

export function fill(into: Uint8Array, seed: number | string): void { into.set(bytes(into.length, seed)) }

/** A tensor in the typed array that carries its dtype. */
export function tensor(dtype: DType, shape: readonly number[], seed: number | string): Tensor {
  const raw = bytes(elementsOf(shape) * DTYPES[dtype].bytes, seed)
  return { dtype, shape, data: new (DTYPES[dtype].carrier as Uint8ArrayConstructor)(raw.buffer as ArrayBuffer) }
}

/** The bytes of a view or tensor. */
export function bytesOf(value: NodeJS.ArrayBufferView | { readonly data: NodeJS.ArrayBufferView } | null): Buffer {
  if (value === null) throw new Error('There is nothing to compare: the page was not read.')
  const view = ArrayBuffer.isView(value) ? value : value.data
  return Buffer.from(view.buffer as ArrayBuffer, view.byteOffset, view.byteLength)
}

/** Are these the same bytes? Without chai's deep comparison, which takes seconds for a megabyte. */
export function same(a: NodeJS.ArrayBufferView | { readonly data: NodeJS.ArrayBufferView } | null, b: NodeJS.ArrayBufferView | { readonly data: NodeJS.ArrayBufferView }): boolean {
  return bytesOf(a).equals(bytesOf(b))
}

export const ALL_DTYPES = Object.keys(DTYPES) as DType[]
