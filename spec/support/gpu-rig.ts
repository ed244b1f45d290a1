import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { HiCacheNixl, type DeviceMemory, type OpenOptions } from '../../lib/index.js'
import { loadAddon } from '../../lib/transfer/load-addon.js'
import type { NativeAddon } from '../../lib/transfer/native-binding.js'
import { StandInControl } from './stand-in.js'

const WAIT_MS = 20_000

/** What a scenario (gpu-scenarios.ts) is told; over the command line, so nothing but JSON. */
export interface GpuTask {
  readonly scenario: string
  /** A folder of its own, empty. */
  readonly folder: string
  readonly plugin?: string
  readonly storageLayout?: 'file' | 'segment'
  readonly verifyVram?: boolean
  /** Top-level keys of the configuration; default: the plugin, active. */
  readonly config?: Record<string, unknown>
  readonly parameters?: Readonly<Record<string, unknown>>
}

/** What scenarios about memory of a GPU have in common, over the real libraries as over the stand-ins. `control` is null with the real ones. */
export class GpuRig {
  readonly task: GpuTask
  readonly addon: NativeAddon = loadAddon()
  readonly control: StandInControl | null
  readonly #caches: HiCacheNixl[] = []

  constructor(task: GpuTask) {
    this.task = task
    const path = process.env['HICACHE_STAND_IN_CONTROL']
    this.control = path === undefined || path === '' ? null : new StandInControl(path)
  }

  /** A cache as the task says, on a folder named after `name`. */
  async open(options: OpenOptions = {}, name = 'pages'): Promise<HiCacheNixl> {
    const { plugin = 'posix', storageLayout = 'file', verifyVram = false, folder } = this.task
    const config = this.task.config ?? { plugin: { [plugin]: { active: true } } }
    const cache = await HiCacheNixl.open({
      env: {}, arenaBytes: 32 << 20, storageDir: join(folder, name), storageLayout, ...(storageLayout === 'segment' ? { segmentBytes: 4 << 20 } : {}), config, verifyVram, ...options
    })
    this.#caches.push(cache)
    return cache
  }

  /** Puts bytes into memory of a GPU, beside the cache. */
  async fill(memory: DeviceMemory, bytes: Uint8Array, offset = 0): Promise<void> {
    const shared = new Uint8Array(new SharedArrayBuffer(bytes.length))
    shared.set(bytes)
    await this.#copy(memory, shared, offset, false)
  }

  /** The bytes of a GPU's memory, beside the cache. */
  async bytes(memory: DeviceMemory, offset = 0, length = memory.length - offset): Promise<Uint8Array> {
    const shared = new Uint8Array(new SharedArrayBuffer(length))
    await this.#copy(memory, shared, offset, true)
    return Uint8Array.from(shared)
  }

  async #copy(memory: DeviceMemory, shared: Uint8Array, offset: number, toHost: boolean): Promise<void> {
    const region = this.addon.registerMemory(shared)
    try {
      await this.addon.cuda.copy(new Float64Array([memory.region, offset, region, 0, shared.length]), toHost)
    } finally {
      this.addon.unregisterMemory(region)
    }
  }

  /** With the stand-ins: waits until a counter has that value, or what the function says of it holds. */
  async until(name: string, holds: number | ((value: number) => boolean)): Promise<void> {
    const control = this.control!
    for (const end = performance.now() + WAIT_MS; ;) {
      const value = control.get(name)
      if (typeof holds === 'number' ? value === holds : holds(value)) return
      if (performance.now() > end) throw new Error(`${name} stayed ${value}`)
      await sleep(2)
    }
  }

  async close(): Promise<void> { await Promise.all(this.#caches.splice(0).map(cache => cache.close())) }
}

/** Bytes that are elsewhere different: of `length`, as `seed` says. */
export function noise(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length)
  let state = Math.imul(seed, 0x9e3779b1) | 1
  for (let i = 0; i < length; i++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    bytes[i] = state
  }
  return bytes
}
