import { HiCacheError, describe } from '../error.js'
import type { NativeAddon } from '../transfer/native-binding.js'
import type { DeviceMemory } from './device-memory.js'
import type { Pinnable } from './pinnable.js'
import { isDeviceBuffer, type DeviceBuffer, type Tensor } from './tensor.js'

/** NIXL's kinds of memory. */
export type MemoryType = 'DRAM' | 'VRAM' | 'FILE'

/**
 * NIXL's descriptor of memory or of a file: address (0 for a file), length in bytes (0 = the whole file), device id (a file's descriptor), and
 * the file's path ('' for memory).
 */
export type NixlTuple = readonly [address: bigint, length: number, deviceId: number, meta: string]

export type Registrable = Tensor | NodeJS.ArrayBufferView | DeviceBuffer | SharedArrayBuffer

/** Memory that the agents know already. */
export interface KnownMemory {
  readonly buffer: SharedArrayBuffer | ArrayBuffer
  /** The region that begins where the buffer does. */
  readonly region: number
}

/**
 * Memory made known to the native agents, so that transfers use it as it is: zero copy where address and length are multiples of 4096, as
 * those of a shared WebAssembly.Memory and of the arena are.
 *
 * Only shared memory and the arena are used directly (`zeroCopy`): an ordinary ArrayBuffer can be detached under a transfer, so a registration of
 * one describes it, and its pages are copied. What lies in the arena goes by the arena's own region. release() is idempotent, and deferred while a transfer holds the memory.
 */
export class NixlRegistration implements Disposable, Pinnable {
  readonly memoryType: MemoryType
  readonly tuples: readonly NixlTuple[]
  /** The agents' ids of the memory, one a tuple; empty for files and for memory that is not shared. */
  readonly regions: readonly number[]
  /** Do transfers use the memory as it is? */
  readonly zeroCopy: boolean
  readonly #addon: NativeAddon | null
  /** Keeps the memory alive for as long as agents know its address. */
  #views: readonly Uint8Array[] | null
  readonly #arena: KnownMemory | null
  readonly #onReleased: () => void
  #pins = 0
  #released = false

  private constructor(memoryType: MemoryType, tuples: readonly NixlTuple[], addon: NativeAddon | null, views: Uint8Array[], onReleased: () => void, arena: KnownMemory | null) {
    this.memoryType = memoryType
    this.tuples = tuples
    this.#addon = addon
    this.#views = views
    this.#onReleased = onReleased
    this.#arena = arena
    this.zeroCopy = views.length > 0 && views.every(view => this.#inArena(view) || isShared(view.buffer))
    this.regions = this.zeroCopy ? views.map(view => this.#inArena(view) ? arena!.region : addon!.registerMemory(view)) : []
  }

  /** DRAM for host memory, VRAM for device buffers; a mixture is an error. */
  static memoryTypeOf(buffers: readonly Registrable[]): MemoryType {
    const device = buffers.filter(isDeviceBuffer).length
    if (device !== 0 && device !== buffers.length) {
      throw new HiCacheError('ERR_ARGUMENT', `One registration holds either host memory or GPU memory; got ${device} GPU buffers among ${buffers.length}.`)
    }
    return device > 0 ? 'VRAM' : 'DRAM'
  }

  /** Device memory that is known already: pinned until the registration is released. */
  static ofDevice(memory: DeviceMemory, part: DeviceBuffer, onReleased: () => void = () => {}): NixlRegistration {
    memory.pin()
    return new NixlRegistration('VRAM', [[part.address, part.length, part.deviceId, '']], null, [], () => {
      memory.unpin()
      onReleased()
    }, null)
  }

  /**
   * Registers host memory; `arena`: the cache's own, which is not registered twice. Throws ERR_ARGUMENT for memory that is empty or detached, or a GPU's: that is registered by
   * HiCacheNixl.registerDeviceBuffer().
   */
  static ofBuffers(buffers: readonly Registrable[], addon: NativeAddon, onReleased: () => void = () => {}, arena: KnownMemory | null = null): NixlRegistration {
    if (!Array.isArray(buffers) || buffers.length === 0) throw new HiCacheError('ERR_ARGUMENT', `A registration takes an array of one buffer or more; got ${describe(buffers)}.`)
    if (NixlRegistration.memoryTypeOf(buffers) === 'VRAM') {
      throw new HiCacheError('ERR_ARGUMENT', 'GPU memory is registered by registerDeviceBuffer(), allocDeviceBuffer() or openDeviceBuffer(), and not with host memory.')
    }
    const views = buffers.map(bytesOf)
    const tuples = views.map(view => [addon.addressOf(view), view.byteLength, 0, ''] as const)
    return new NixlRegistration('DRAM', tuples, addon, views, onReleased, arena)
  }

  /** Files by NIXL tuples, as NixlFileManager.filesToNixlTuples() makes them. They are described, not opened: whoever opened them closes them. */
  static ofFiles(tuples: readonly NixlTuple[]): NixlRegistration {
    const given: unknown = tuples
    if (!Array.isArray(given)) throw new HiCacheError('ERR_ARGUMENT', `A registration takes an array of NIXL file tuples; got ${describe(given)}.`)
    for (const tuple of given as unknown[]) {
      if (!Array.isArray(tuple) || tuple.length !== 4 || typeof tuple[0] !== 'bigint' || !Number.isSafeInteger(tuple[1]) ||
        !Number.isSafeInteger(tuple[2]) || (tuple[2] as number) < 0 || typeof tuple[3] !== 'string') {
        throw new HiCacheError('ERR_ARGUMENT', `A NIXL file tuple is [0n, length, open descriptor, path]; got ${describe(tuple)}.`)
      }
    }
    return new NixlRegistration('FILE', tuples.map(tuple => Object.freeze([...tuple] as const)), null, [], () => {}, null)
  }

  /** Where a view lies in this registration, or null. */
  find(view: Uint8Array): { readonly region: number; readonly offset: number; readonly address: bigint } | null {
    if (this.#released || this.#views === null || !this.zeroCopy) return null
    for (let i = 0; i < this.#views.length; i++) {
      const own = this.#views[i]!
      const offset = view.byteOffset - own.byteOffset
      if (view.buffer !== own.buffer || offset < 0 || offset + view.byteLength > own.byteLength) continue
      return { region: this.regions[i]!, offset: this.#inArena(own) ? view.byteOffset : offset, address: this.tuples[i]![0] + BigInt(offset) }
    }
    return null
  }

  get released(): boolean { return this.#released }

  /** For transfers. */
  pin(): void { this.#pins++ }
  unpin(): void {
    this.#pins--
    this.#unregister()
  }

  release(): void {
    this.#released = true
    this.#unregister()
  }

  [Symbol.dispose](): void { this.release() }

  #inArena(view: Uint8Array): boolean { return view.buffer === this.#arena?.buffer }

  #unregister(): void {
    if (!this.#released || this.#pins > 0 || this.#views === null) return
    this.#views.forEach((view, i) => {
      if (this.zeroCopy && !this.#inArena(view)) this.#addon!.unregisterMemory(this.regions[i]!)
    })
    this.#views = null
    this.#onReleased()
  }
}

function bytesOf(buffer: Registrable): Uint8Array {
  const view: unknown = ArrayBuffer.isView(buffer) ? buffer : isShared(buffer) ? new Uint8Array(buffer) : (buffer as Tensor | null)?.data
  if (!ArrayBuffer.isView(view) || view.byteLength === 0) {
    throw new HiCacheError('ERR_ARGUMENT', `A registration takes tensors, views or SharedArrayBuffers with at least one byte; got ${describe(buffer)}.`)
  }
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
}

export function isShared(value: unknown): value is SharedArrayBuffer {
  return Object.prototype.toString.call(value) === '[object SharedArrayBuffer]'
}
