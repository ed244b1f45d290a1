import { join } from 'node:path'
import { RESERVED_PREFIX, pageGroup } from '../keys/index.js'
import type { Metrics } from '../observe/metrics.js'
import type { Logger } from '../observe/logger.js'
import type { DirectoryReport, NativeAddon } from '../transfer/native-binding.js'
import { BLOCK_BYTES } from '../transfer/protocol.js'
import type { WorkerPool } from '../transfer/worker-pool.js'
import type { FileLayout } from './file-layout.js'

/** How often the fill level is looked at. */
const LOOK_EVERY_MS = 10_000
/** The directories are counted anew this often, since other processes write there too. */
const COUNT_EVERY_MS = 10 * 60_000
/** A page's access time is renewed at most this often: a write to the inode for each read would cost more than the order is worth. */
const TOUCH_EVERY_MS = 10 * 60_000
const TOUCHED_KEYS_MAX = 262_144
const GIB = 2 ** 30
/** Pages of the Python connector, which carry no record: a page hash and a suffix. */
const PAGE_NAME = /^[0-9a-f]{64}_/

const NOTHING = { pages: 0, bytes: 0 }

export interface CleanerOptions {
  readonly settings: {
    readonly l3CleanerEnabled: boolean; readonly l3CleanerHighWatermark: number; readonly l3CleanerLowWatermark: number; readonly l3CleanerCapacityGb: number | null
  }
  readonly directories: readonly DirectoryReport[]
  readonly layout: FileLayout
  readonly suffix: string
  readonly addon: NativeAddon
  readonly pool: WorkerPool
  readonly metrics: Metrics
  readonly logger: Logger
  /** Removes one file; answers whether it did. */
  readonly remove: (storedKey: string, directory: number) => Promise<boolean>
  /** Renews a page's access time, in the background. */
  readonly touch: (storedKey: string, directory: number) => void
}

interface PageGroup { bytes: number; usedAt: number; readonly names: string[] }

/**
 * Keeps the directories below their watermarks (the l3_cleaner_* keys): when more than the high one is in use, whole pages (all parts together) are removed,
 * longest unread first, until the low one is reached. Percent of the file system, or of `l3_cleaner_capacity_gb` for the cache's own bytes: on a volume shared with
 * others only the latter says anything about the cache. Only pages are ever removed: files with a record, and files named like the Python connector's pages.
 *
 * One cleaner per directory at a time, whichever process it is in, by a lock on `.hicache-nixl-cleaner.lock`.
 */
export class L3Cleaner {
  readonly #o: CleanerOptions
  /** When each page was last read or its access time renewed, oldest first. */
  readonly #touched = new Map<string, number>()
  /** Bytes of the cache in each directory, as last counted, and written since. -1: not counted yet. */
  readonly #ownBytes: number[]
  readonly #countedAt: number[]
  #timer: NodeJS.Timeout | null = null
  readonly #running: (Promise<{ pages: number; bytes: number }> | null)[]
  #stopped = false

  constructor(options: CleanerOptions) {
    this.#o = options
    this.#running = options.directories.map(() => null)
    this.#ownBytes = options.directories.map(() => -1)
    this.#countedAt = options.directories.map(() => 0)
  }

  get #enabled(): boolean { return this.#o.settings.l3CleanerEnabled }

  start(): void {
    if (!this.#enabled) return
    this.#timer = setInterval(() => {
      this.pass().catch((error: unknown) => this.#o.logger.warn('The l3 cleaner could not finish its pass.', { error: String(error) }))
    }, LOOK_EVERY_MS).unref()
  }

  /** Resolves when no pass is under way any more: never, while a directory hangs in one. */
  async stop(): Promise<void> {
    this.#stopped = true
    if (this.#timer) clearInterval(this.#timer)
    await Promise.allSettled(this.#running.filter(pass => pass !== null))
  }

  /** A page of `bytes` was stored. It takes whole blocks, and one more for its record: with small pages that is a good part of it. */
  noteWritten(directory: number, bytes: number): void {
    if (this.#enabled && this.#ownBytes[directory]! >= 0) this.#ownBytes[directory]! += (Math.ceil(bytes / BLOCK_BYTES) + 1) * BLOCK_BYTES
  }

  noteRead(storedKey: string, directory: number): void {
    if (!this.#enabled) return
    const now = Date.now()
    const before = this.#touched.get(storedKey)
    if (before !== undefined && now - before < TOUCH_EVERY_MS) return
    this.#touched.delete(storedKey)
    this.#touched.set(storedKey, now)
    if (this.#touched.size > TOUCHED_KEYS_MAX) this.#touched.delete(this.#touched.keys().next().value!)
    this.#o.touch(storedKey, directory)
  }

  /** Looks at every directory once, and cleans where need be. Answers what was removed; nothing when the cleaner is not enabled. */
  async pass(): Promise<{ pages: number; bytes: number }> {
    if (!this.#enabled || this.#stopped) return { pages: 0, bytes: 0 }
    // Each for itself: one that hangs does not keep the others from being cleaned.
    const removed = await Promise.all(this.#o.directories.map(({ writable }, directory) => writable ? this.#passOf(directory) : Promise.resolve(NOTHING)))
    this.#o.metrics.count('cleaner_passes')
    return { pages: removed.reduce((sum, { pages }) => sum + pages, 0), bytes: removed.reduce((sum, { bytes }) => sum + bytes, 0) }
  }

  /** One at a time for each directory: who comes meanwhile gets the answer of the one that runs. */
  #passOf(directory: number): Promise<{ pages: number; bytes: number }> {
    return this.#running[directory] ??= this.#cleanLocked(directory).finally(() => { this.#running[directory] = null })
  }

  async #cleanLocked(directory: number): Promise<{ pages: number; bytes: number }> {
    const { addon, directories, metrics, logger } = this.#o
    const lock = await addon.lockFile(join(directories[directory]!.realPath, `${RESERVED_PREFIX}-cleaner.lock`))
    if (lock < 0) return NOTHING
    try {
      const removed = await this.#clean(directory)
      if (removed.pages > 0) {
        metrics.count('cleaner_evicted_pages', removed.pages)
        metrics.count('cleaner_evicted_bytes', removed.bytes)
        logger.info('The l3 cleaner removed pages.', { directory: directories[directory]!.path, ...removed })
      }
      return removed
    } finally {
      await addon.unlockFile(lock)
    }
  }

  async #clean(directory: number): Promise<{ pages: number; bytes: number }> {
    const { l3CleanerHighWatermark, l3CleanerLowWatermark } = this.#o.settings
    const used = await this.#usage(directory)
    if (used.bytes <= used.of * l3CleanerHighWatermark / 100) return { pages: 0, bytes: 0 }
    const groups = await this.#pages(directory)
    // Counted just now: what the watermark is about, if it is about the cache's own bytes, is known exactly.
    const exact = this.#o.settings.l3CleanerCapacityGb === null ? used.bytes : this.#ownBytes[directory]!
    let toFree = exact - used.of * l3CleanerLowWatermark / 100
    let pages = 0
    let bytes = 0
    for (const group of groups.sort((a, b) => a.usedAt - b.usedAt)) {
      if (toFree <= 0 || this.#stopped) break
      if (group.names.some(name => (this.#touched.get(name) ?? 0) > group.usedAt)) continue
      const gone = await Promise.all(group.names.map(name => this.#o.remove(name, directory)))
      if (!gone.some(Boolean)) continue
      pages++
      bytes += group.bytes
      toFree -= group.bytes
      this.#ownBytes[directory]! -= group.bytes
    }
    return { pages, bytes }
  }

  /** Bytes in use, of how many: of the file system, or of the capacity's share of this directory. */
  async #usage(directory: number): Promise<{ bytes: number; of: number }> {
    const { l3CleanerCapacityGb } = this.#o.settings
    if (l3CleanerCapacityGb === null) {
      const { usedBytes, availableBytes } = await this.#o.addon.usageOf(this.#o.directories[directory]!.realPath)
      // What root keeps for itself is not there for the cache: as df counts it.
      return { bytes: usedBytes, of: usedBytes + availableBytes }
    }
    if (this.#ownBytes[directory]! < 0 || Date.now() - this.#countedAt[directory]! > COUNT_EVERY_MS) await this.#pages(directory)
    return { bytes: this.#ownBytes[directory]!, of: l3CleanerCapacityGb * GIB / this.#o.directories.length }
  }

  /** Every page of a directory, its parts together; counts the bytes on the way. */
  async #pages(directory: number): Promise<PageGroup[]> {
    const groups = new Map<string, PageGroup>()
    let own = 0
    for (const folder of this.#o.layout.folders()) {
      for (const file of await this.#o.pool.list(directory, folder, this.#o.layout.scheme === 'flat')) {
        // In the bucketed scheme whatever lies in a bucket is a page; a flat directory may hold files of others.
        const ours = this.#o.layout.scheme === 'bucketed' || file.record === 'whole' || PAGE_NAME.test(file.name)
        if (!ours) continue
        own += file.allocated
        const name = pageGroup(file.name, this.#o.suffix)
        const usedAt = Math.max(file.accessedAt, file.modifiedAt, this.#touched.get(file.name) ?? 0)
        const group = groups.get(name)
        if (group) {
          group.bytes += file.allocated
          group.usedAt = Math.max(group.usedAt, usedAt)
          group.names.push(file.name)
        } else {
          groups.set(name, { bytes: file.allocated, usedAt, names: [file.name] })
        }
      }
    }
    this.#ownBytes[directory] = own
    this.#countedAt[directory] = Date.now()
    return [...groups.values()]
  }
}
