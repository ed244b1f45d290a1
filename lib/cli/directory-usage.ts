import { statfs } from 'node:fs/promises'
import type { HiCacheNixl } from '../index.js'

export interface UsageOfDirectory {
  readonly path: string
  /** Pages of this namespace, and the bytes they take on the disk. */
  readonly pages: number
  readonly bytes: number
  readonly allocatedBytes: number
  /** Of the file system; 0 where it does not say, and of an object store. */
  readonly freeBytes: number
  readonly totalBytes: number
}

const NO_FILE_SYSTEM = { bavail: 0, blocks: 0, bsize: 0 } as const

/**
 * How much the directories hold. Counting reads every folder, so it is done at most once per `maxAgeMs`, by one caller at a time;
 * what is shown meanwhile is the last count.
 */
export class DirectoryUsage {
  readonly #cache: HiCacheNixl
  readonly #maxAgeMs: number
  readonly #signal: AbortSignal
  #counted: readonly UsageOfDirectory[] = []
  #countedAtMs = -Infinity
  #running: Promise<void> | undefined
  #failed = false

  constructor(cache: HiCacheNixl, maxAgeMs: number, signal: AbortSignal) {
    this.#cache = cache
    this.#maxAgeMs = maxAgeMs
    this.#signal = signal
  }

  get directories(): readonly UsageOfDirectory[] { return this.#counted }

  /** Resolves when the count is no older than allowed. Never rejects: a directory that cannot be read keeps its last figures. */
  async refresh(): Promise<void> {
    if (performance.now() - this.#countedAtMs < this.#maxAgeMs) return
    this.#running ??= this.#count().then(
      () => { this.#failed = false },
      () => { this.#failed = true },
    ).finally(() => { this.#running = undefined })
    await this.#running
  }

  async #count(): Promise<void> {
    const totals = new Map(this.#cache.directories.map(({ path }) => [path, { pages: 0, bytes: 0, allocatedBytes: 0 }]))
    const inObjects = this.#cache.storageLayout === 'object'
    for await (const page of this.#cache.entries()) {
      if (this.#signal.aborted) return
      let total = totals.get(page.directory)
      // A bucket is no directory of the cache's; its pages name it.
      if (total === undefined && inObjects) totals.set(page.directory, total = { pages: 0, bytes: 0, allocatedBytes: 0 })
      if (total === undefined) continue
      total.pages++
      total.bytes += page.bytes
      total.allocatedBytes += page.allocatedBytes
    }
    this.#counted = await Promise.all([...totals].map(async ([path, total]) => {
      const { bavail, blocks, bsize } = inObjects ? NO_FILE_SYSTEM : await statfs(path).catch(() => NO_FILE_SYSTEM)
      return { path, ...total, freeBytes: bavail * bsize, totalBytes: blocks * bsize }
    }))
    this.#countedAtMs = performance.now()
  }

  /** In the Prometheus text format. */
  text(): string {
    const lines: string[] = []
    const gauge = (name: string, help: string, value: (directory: UsageOfDirectory) => number): void => {
      lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} gauge`)
      for (const directory of this.#counted) lines.push(`${name}{directory="${escapeLabel(directory.path)}"} ${value(directory)}`)
    }
    gauge('hicache_nixl_directory_pages', 'Pages of this namespace in the directory.', ({ pages }) => pages)
    gauge('hicache_nixl_directory_bytes', 'Payload bytes of these pages.', ({ bytes }) => bytes)
    gauge('hicache_nixl_directory_allocated_bytes', 'Bytes that these pages take on the disk.', ({ allocatedBytes }) => allocatedBytes)
    gauge('hicache_nixl_directory_free_bytes', 'Free bytes of its file system.', ({ freeBytes }) => freeBytes)
    gauge('hicache_nixl_directory_total_bytes', 'Size of its file system.', ({ totalBytes }) => totalBytes)
    lines.push('# HELP hicache_nixl_directory_count_failed 1 when the last count of the directories failed.',
      '# TYPE hicache_nixl_directory_count_failed gauge', `hicache_nixl_directory_count_failed ${this.#failed ? 1 : 0}`)
    return `${lines.join('\n')}\n`
  }
}

function escapeLabel(value: string): string {
  return value.replace(/[\\"\n]/g, (character) => character === '\n' ? '\\n' : `\\${character}`)
}
