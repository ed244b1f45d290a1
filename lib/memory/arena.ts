import { HiCacheError } from '../error.js'
import { BLOCK_BYTES } from '../transfer/protocol.js'
import type { NativeAddon } from '../transfer/native-binding.js'
import { SlotAllocator } from './slot-allocator.js'
import { Slot } from './slot.js'

/** @types/node leaves WebAssembly to the DOM's types; this is all that is used of it here. */
declare const WebAssembly: { readonly Memory: new (descriptor: { initial: number; maximum: number; shared: true }) => { readonly buffer: SharedArrayBuffer } }

const WASM_PAGE_BYTES = 65536
export const ARENA_BYTES_MIN = 16 * 1024 * 1024
export const ARENA_BYTES_MAX = 4 * 1024 * 1024 * 1024

/** Memory for an arena that another system has shared with this process, registered already. */
export interface ArenaBacking {
  readonly buffer: ArrayBuffer
  readonly region: number
  /** Ends it; views of the buffer are empty from then on. */
  release(): void
}

/**
 * The memory that pages travel through. Its buffer is that of a shared WebAssembly.Memory, whose base is page-aligned (a plain
 * SharedArrayBuffer's is not), so O_DIRECT works on it and every worker sees the same bytes at the same address. No
 * WebAssembly module is ever instantiated in it: its data and stack would overwrite slots. With 3FS and zero copy it is memory
 * that the file system's side sees too, and an ArrayBuffer that cannot be transferred.
 *
 * One third stays reserved for transfers: what callers hold (allocate(), getInArena()) can never starve the staging of a plain set().
 */
export class Arena {
  readonly buffer: SharedArrayBuffer | ArrayBuffer
  readonly bytes: number
  readonly region: number
  readonly #addon: NativeAddon
  readonly #backing: ArenaBacking | null
  readonly #allocator: SlotAllocator
  /** Which slot each block belongs to, to check views that callers pass in. */
  readonly #owners: (Slot | undefined)[]
  readonly #heldBytesMax: number
  #heldBytes = 0
  #onFree: () => void = () => {}
  readonly #waiting = new Set<() => void>()

  /** `backing`: of about `bytes`; without it, the arena makes its own memory. */
  constructor(bytes: number, addon: NativeAddon, backing: ArenaBacking | null = null) {
    if (!Number.isSafeInteger(bytes) || bytes < ARENA_BYTES_MIN || bytes > ARENA_BYTES_MAX) {
      throw new HiCacheError('ERR_ARGUMENT', `arenaBytes is a whole number from ${ARENA_BYTES_MIN} to ${ARENA_BYTES_MAX}; got ${bytes}.`)
    }
    this.buffer = backing?.buffer ?? sharedMemory(bytes)
    this.bytes = this.buffer.byteLength
    this.#addon = addon
    this.#backing = backing
    this.region = backing?.region ?? addon.registerMemory(new Uint8Array(this.buffer))
    const blocks = Math.floor(this.bytes / BLOCK_BYTES)
    this.#allocator = new SlotAllocator(blocks)
    this.#owners = new Array<Slot | undefined>(blocks)
    this.#heldBytesMax = Math.floor(this.bytes / 3) * 2
  }

  get usedBytes(): number { return this.bytes - this.#allocator.freeBlocks * BLOCK_BYTES }
  get heldBytes(): number { return this.#heldBytes }
  get heldBytesMax(): number { return this.#heldBytesMax }

  /** Called whenever memory came back. */
  onFree(listener: () => void): void { this.#onFree = listener }

  /** Resolves when memory came back, after `ms`, or when one of the signals fires. */
  async freed(ms: number, signals: readonly AbortSignal[] = []): Promise<void> {
    await new Promise<void>(resolve => {
      const end = (): void => {
        clearTimeout(timer)
        for (const signal of signals) signal.removeEventListener('abort', end)
        this.#waiting.delete(end)
        resolve()
      }
      const timer = setTimeout(end, ms)
      for (const signal of signals) signal.addEventListener('abort', end)
      this.#waiting.add(end)
      // One that has fired already never tells its listeners.
      if (signals.some(({ aborted }) => aborted)) end()
    })
  }

  /** A slot for a transfer, not yet pinned or held, or null when there is no room now. */
  allocate(bytes: number): Slot | null {
    const blocks = Math.ceil(bytes / BLOCK_BYTES)
    const start = this.#allocator.allocate(blocks)
    if (start < 0) return null
    const slot = new Slot(this, start * BLOCK_BYTES, bytes)
    this.#owners.fill(slot, start, start + blocks)
    return slot
  }

  /**
   * Slots for all of these lengths, each pinned once, or null. Then nobody is told of memory that came back, for none was gone: two who wait and each try would wake each other for ever.
   */
  allocateAll(lengths: readonly number[]): Slot[] | null {
    const slots: Slot[] = []
    for (const length of lengths) {
      const slot = this.allocate(length)
      if (!slot) {
        for (const taken of slots) this.#giveBack(taken)
        return null
      }
      slots.push(slot)
    }
    for (const slot of slots) slot.pin()
    return slots
  }

  /** May a caller hold `bytes` more? */
  mayHold(bytes: number): boolean { return this.#heldBytes + roundUp(bytes) <= this.#heldBytesMax }

  /** The held slot that a caller's view lies in, or null when it lies in none (released, or never given out). */
  slotOf(offset: number, bytes: number): Slot | null {
    const slot = this.#owners[Math.floor(offset / BLOCK_BYTES)]
    return slot?.held === true && offset >= slot.offset && offset + bytes <= slot.offset + slot.bytes ? slot : null
  }

  /** For Slot only. */
  noteHeld(slot: Slot, sign: 1 | -1): void { this.#heldBytes += sign * roundUp(slot.bytes) }

  /** For Slot only. */
  free(slot: Slot): void {
    if (this.#owners[slot.offset / BLOCK_BYTES] !== slot) return
    this.#giveBack(slot)
    for (const tell of [...this.#waiting]) tell()
    this.#onFree()
  }

  #giveBack(slot: Slot): void {
    const start = slot.offset / BLOCK_BYTES
    const blocks = Math.ceil(slot.bytes / BLOCK_BYTES)
    this.#owners.fill(undefined, start, start + blocks)
    this.#allocator.free(start, blocks)
  }

  /** Huge pages advised and every page touched, on a native thread. */
  populate(): Promise<number> { return this.#addon.populate(new Uint8Array(this.buffer)) }

  /** After this, no transfer can name the arena. Only when nothing is in flight. */
  unregister(): void {
    if (this.#backing) this.#backing.release()
    else this.#addon.unregisterMemory(this.region)
  }
}

function sharedMemory(bytes: number): SharedArrayBuffer {
  const wasmPages = Math.ceil(bytes / WASM_PAGE_BYTES)
  try {
    return new WebAssembly.Memory({ initial: wasmPages, maximum: wasmPages, shared: true }).buffer
  } catch (cause) {
    throw new HiCacheError('ERR_REJECTED', `An arena of ${bytes} bytes cannot be had here: lower arenaBytes (arena_bytes) or the limits on address space.`, { cause })
  }
}

export function roundUp(bytes: number): number { return Math.ceil(bytes / BLOCK_BYTES) * BLOCK_BYTES }
