import type { DType } from '../memory/dtype.js'
import type { HostMemory, Target } from '../memory/tensor.js'
import type { CallOptions, CallScope } from '../transfer/call-scope.js'
import type { RequestMemory } from '../transfer/transfer-request.js'
import type { ReadOutcome, WriteOutcome } from './outcome.js'
import type { PageInfo } from './page-info.js'

/** A page on its way to storage; its arguments are checked, its memory is pinned. */
export interface PageToWrite {
  /** As the caller named it, for answers and messages. */
  readonly key: string
  readonly storedKey: string
  readonly directory: number
  readonly dtype: DType
  readonly shape: readonly number[]
  /** Payload bytes. */
  readonly length: number
  readonly memory: RequestMemory
}

/** A page that is wanted; with a target (`host` is its memory, if that is a host's), or into memory of the kind that `memory` says. */
export interface PageToRead {
  readonly key: string
  readonly storedKey: string
  readonly directory: number
  readonly target: Target | undefined
  readonly host: HostMemory | null
  /** Bytes of the target, which are the only length that fits; null without one. */
  readonly exactLength: number | null
  /** The bytes go where no processor of ours can look (a GPU's memory), so nobody compares them with their checksum, and the outcome says so. */
  readonly unchecked: boolean
  readonly memory: RequestMemory
}

export interface VerifyOptions {
  /** Limits the reading. Default: as fast as it goes. */
  readonly bytesPerSecond?: number
  /** Removes pages that do not hold. Default: false, they are only counted. (The segment layout gives up such a page whenever it reads one.) */
  readonly drop?: boolean
  readonly onProgress?: (done: { pages: number; bytes: number }) => void
  readonly signal?: AbortSignal
}

/** What `verify()` found. `corrupt`: pages that fail their check or cannot be read. `missing`: pages that were listed and gone when they were read. */
export interface VerifyReport { pages: number; bytes: number; ok: number; corrupt: number; unverified: number; missing: number }

/** What `gc()` did: leftovers of dead writers that were removed (files, or their folders), and what was evicted to get below the limits. */
export interface GcReport { leftovers: number; evictedPages: number; evictedBytes: number }

/**
 * A layout of pages on storage: where a page goes, how it is found, how it is told from others. Calls that transfer answer once per page; the caller starts the
 * clock of their scope when they return.
 */
export interface PageStore {
  readonly name: 'file' | 'segment' | 'object'
  /**
   * Stores pages. `stride`: so many pages on is the next of the same chain (2 where keys and values of a page are stored apart), which tells what builds on what.
   */
  write(scope: CallScope, pages: readonly PageToWrite[], stride: number, end: (index: number, outcome: WriteOutcome) => void): void
  /** `length` is the payload's when it is a hit. */
  read(scope: CallScope, pages: readonly PageToRead[], stride: number, end: (index: number, outcome: ReadOutcome<Target>, length: number) => void): void
  /**
   * How many leading keys are there, with all their parts. The stored keys of `keys[i]` are `keys[i] + tails[j]`. A number when no storage had to be asked.
   * Checks the keys. @throws {HiCacheError} ERR_KEY, ERR_ARGUMENT.
   */
  leading(keys: readonly string[], tails: readonly string[], scope: CallScope): number | Promise<number>
  /** Removes pages; true when one of them was there. */
  remove(storedKeys: readonly string[], scope: CallScope): Promise<boolean>
  clear(options?: CallOptions): Promise<{ deleted: number }>
  entries(): AsyncGenerator<PageInfo, void, undefined>
  stat(storedKey: string, scope: CallScope): Promise<PageInfo | null>
  verify(options: VerifyOptions): Promise<VerifyReport>
  gc(): Promise<GcReport>
  /** Background work begins. Resolves when all pages are known that are there at this moment: pages can be asked for before that. */
  start(): Promise<void>
  /** Background work ends; called while the workers still live, and again is harmless. Resolves when nothing of it is under way. */
  stop(): Promise<void>
  /** After the workers have ended: gives locks back. */
  close(): Promise<void>
  /** Gauges of this layout, by name. */
  gauges(): Readonly<Record<string, number>>
}
