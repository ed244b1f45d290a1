import { DTYPES, type DType } from './dtype.js'
import type { Slot } from './slot.js'
import type { Tensor } from './tensor.js'

/** A tensor in the arena: zero copy in both directions. `data` must not be used after release(). */
export interface ArenaTensor extends Tensor, Disposable {
  readonly released: boolean
  /** Gives the memory back; idempotent, and deferred while a transfer holds it. */
  release(): void
}

export class SlotTensor implements ArenaTensor {
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly data: NodeJS.ArrayBufferView
  #slot: Slot | null

  /** Takes the slot over: it is held until release(). */
  constructor(slot: Slot, buffer: SharedArrayBuffer | ArrayBuffer, dtype: DType, shape: readonly number[]) {
    const { carrier, bytes } = DTYPES[dtype]
    slot.hold()
    this.#slot = slot
    this.dtype = dtype
    this.shape = Object.freeze([...shape])
    // The union of constructors has no common signature; each takes these three.
    this.data = new (carrier as Uint8ArrayConstructor)(buffer, slot.offset, slot.bytes / bytes)
  }

  get released(): boolean { return this.#slot === null }

  release(): void {
    this.#slot?.letGo()
    this.#slot = null
  }

  [Symbol.dispose](): void { this.release() }
}
