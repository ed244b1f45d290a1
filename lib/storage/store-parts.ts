import { HiCacheError } from '../error.js'
import type { KeyNames } from '../keys/index.js'
import type { Arena } from '../memory/arena.js'
import { SlotTensor } from '../memory/arena-tensor.js'
import { DTYPES, carries, elementsOf } from '../memory/dtype.js'
import { Status } from '../transfer/protocol.js'
import type { Target } from '../memory/tensor.js'
import type { Health } from '../observe/health.js'
import type { Logger } from '../observe/logger.js'
import type { Metrics } from '../observe/metrics.js'
import type { Batcher } from '../transfer/batcher.js'
import type { CallOptions, CallScope } from '../transfer/call-scope.js'
import type { DirectoryReport, NativeAddon } from '../transfer/native-binding.js'
import type { RequestResult } from '../transfer/transfer-request.js'
import type { WorkerPool } from '../transfer/worker-pool.js'
import type { MissReason, ReadOutcome } from './outcome.js'
import type { PageMeta } from './file-layout.js'
import type { PageToRead } from './page-store.js'
import type { PolicyName } from './policies/policies.js'

/** The options that concern layouts, as the configuration names them (docs/configuration.md). */
export interface StoreSettings {
  readonly acceptUnverified: boolean
  readonly timeoutMs: number
  readonly capacity: number | null
  readonly segmentBytes: number | null
  readonly leaseMs: number
  readonly evictionPolicy: PolicyName
  readonly fsync: 'never' | 'batch'
  readonly l3CleanerEnabled: boolean
  readonly l3CleanerHighWatermark: number
  readonly l3CleanerLowWatermark: number
  readonly l3CleanerCapacityGb: number | null
}

/** What a layout gets from the cache that it belongs to. */
export interface StoreParts {
  readonly addon: NativeAddon
  readonly directories: readonly DirectoryReport[]
  readonly settings: StoreSettings
  /** Reads do not compute the payload's checksum, and say so (`verified: false`): for bench alone. */
  readonly uncheckedReads: boolean
  readonly names: KeyNames
  readonly arena: Arena
  readonly batcher: Batcher
  readonly pool: WorkerPool
  readonly metrics: Metrics
  readonly health: Health
  readonly logger: Logger
  /** A directory that does not answer: its pages are `unavailable`. */
  readonly unavailable: (directory: number) => boolean
  /** Why, as a sentence. */
  readonly unavailableReason: (directory: number) => string
  readonly scope: (options?: CallOptions) => CallScope
  /** Waits for `work`, with a call's deadline and signal. */
  readonly within: <T>(work: Promise<T>, options: CallOptions | undefined) => Promise<T>
  readonly stage: () => 'open' | 'closing' | 'closed'
}

/** The error of a write to a directory or an endpoint that does not answer. */
export function unavailableError(parts: StoreParts, directory: number, key: string): HiCacheError {
  return new HiCacheError('ERR_REJECTED', parts.unavailableReason(directory), { key })
}

export function missReason(status: number): MissReason | null {
  switch (status) {
    case Status.absent: return 'absent'
    case Status.corrupt: return 'corrupt'
    case Status.stale: return 'stale'
    case Status.identity: return 'identity'
    case Status.length: return 'length'
    default: return null
  }
}

/** Does a page of this dtype and shape fit where it is wanted? */
export function misfit(page: PageToRead, meta: PageMeta, length: number): MissReason | null {
  if (elementsOf(meta.shape) * DTYPES[meta.dtype].bytes !== length) return 'corrupt'
  const { host } = page
  if (host && !(host.tensor ? host.dtype === meta.dtype : carries(host.view, meta.dtype))) return 'dtype'
  return null
}

/** The answer to a read whose bytes have arrived. */
export function hit(page: PageToRead, result: RequestResult & { failure: null }, meta: PageMeta, arena: Arena, verified: boolean): ReadOutcome<Target> {
  let value: Target
  if (result.slot) value = new SlotTensor(result.slot, arena.buffer, meta.dtype, meta.shape)
  else if (result.bytes) value = { dtype: meta.dtype, shape: meta.shape, data: new (DTYPES[meta.dtype].carrier as Uint8ArrayConstructor)(result.bytes.buffer as ArrayBuffer) }
  else value = page.target!
  return { ok: true, status: 'hit', key: page.key, value, verified }
}

/** setTimeout's longest. */
export const TIMEOUT_MS_MAX = 2 ** 31 - 1

/** @throws {HiCacheError} ERR_CANCELLED. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw new HiCacheError('ERR_CANCELLED', 'It was cancelled by its signal.', { cause: signal.reason })
}

/** The key as the caller of set() gave it; of the page API with its part, `<hash>..._k`. */
export function keyOf(storedKey: string, suffix: string): string {
  return storedKey.endsWith(suffix) ? storedKey.slice(0, storedKey.length - suffix.length) : storedKey
}
