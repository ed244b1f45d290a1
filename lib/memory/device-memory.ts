import { HiCacheError } from '../error.js'
import type { DeviceRegion, NativeCuda } from '../transfer/native-binding.js'
import type { Pinnable } from './pinnable.js'
import type { DeviceBuffer } from './tensor.js'

/** How another process opens the memory: the 64 bytes of CUDA's handle of the whole allocation, and where in it the memory begins. */
export interface DeviceHandle { readonly handle: Uint8Array; readonly offset: number }

/**
 * Memory of a GPU that transfers may use, whole or in part (subarray()). Made by HiCacheNixl's allocDeviceBuffer(), openDeviceBuffer() and registerDeviceBuffer(). release() is idempotent, and
 * deferred while a transfer holds the memory; memory that was registered only stays its owner's.
 */
export class DeviceMemory implements DeviceBuffer, Disposable, Pinnable {
  readonly type = 'VRAM'
  readonly deviceId: number
  readonly address: bigint
  /** Bytes. */
  readonly length: number
  /** The agents' id of the memory. */
  readonly region: number
  readonly #cuda: NativeCuda
  readonly #onReleased: (ended: Promise<void>) => void
  #pins = 0
  #released = false
  #ended = false

  constructor(made: DeviceRegion, length: number, cuda: NativeCuda, onReleased: (ended: Promise<void>) => void) {
    this.deviceId = made.device
    this.address = made.address
    this.length = length
    this.region = made.region
    this.#cuda = cuda
    this.#onReleased = onReleased
  }

  get released(): boolean { return this.#released }

  /** A part of it, to be written from or read into. Throws ERR_ARGUMENT for a part that lies outside. */
  subarray(offset: number, length: number): DeviceBuffer {
    if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < 0 || length < 1 || offset + length > this.length) {
      throw new HiCacheError('ERR_ARGUMENT', `A part of device memory of ${this.length} bytes is an offset and a length inside of it; got ${String(offset)} and ${String(length)}.`)
    }
    return { type: 'VRAM', deviceId: this.deviceId, address: this.address + BigInt(offset), length }
  }

  /** For another process on this machine. Rejects with ERR_IO for memory that CUDA cannot share this way, such as that of expandable segments. */
  async exportHandle(): Promise<DeviceHandle> {
    if (this.#released) throw new HiCacheError('ERR_ARGUMENT', 'The device memory has been released.')
    this.pin()
    try {
      return await this.#cuda.exportHandle(this.region)
    } catch (cause) {
      throw deviceError(cause, 'The handle of device memory cannot be had')
    } finally {
      this.unpin()
    }
  }

  /** Does it hold that range of that device? */
  holds({ deviceId, address, length }: DeviceBuffer): boolean {
    return !this.#released && deviceId === this.deviceId && address >= this.address && address + BigInt(length) <= this.address + BigInt(this.length)
  }

  pin(): void { this.#pins++ }
  unpin(): void {
    this.#pins--
    this.#end()
  }

  release(): void {
    this.#released = true
    this.#end()
  }

  /** Ends it although transfers hold it, whose end nobody will tell: native code keeps the memory until then. */
  abandon(): void {
    this.#released = true
    this.#pins = 0
    this.#end()
  }

  [Symbol.dispose](): void { this.release() }

  #end(): void {
    if (!this.#released || this.#pins > 0 || this.#ended) return
    this.#ended = true
    this.#onReleased(this.#cuda.release(this.region))
  }
}

/** What native code says of a device, as an error of ours. */
export function deviceError(cause: unknown, what: string, key?: string): HiCacheError {
  const message = cause instanceof Error ? cause.message : String(cause)
  return new HiCacheError('ERR_IO', `${what}: ${message}.`, { cause, ...(key === undefined ? {} : { key }) })
}
