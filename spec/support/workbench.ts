import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { HiCacheNixl, type OpenOptions } from '../../lib/index.js'
import { layoutOptions, type StorageLayout } from './layouts.js'

export const MIB = 1024 * 1024

/** Caches and directories of one suite: whatever a spec opens or makes is closed and removed after it, also when it fails. */
export class Workbench {
  readonly #caches: HiCacheNixl[] = []
  readonly #directories: string[] = []
  readonly #endings: (() => unknown)[] = []
  readonly #lastEndings: (() => unknown)[] = []
  readonly #storageLayout: StorageLayout

  constructor(storageLayout: StorageLayout) { this.#storageLayout = storageLayout }

  /** A new, empty directory on the disk of the temporary files (or below `parent`). */
  async directory(parent = tmpdir()): Promise<string> {
    const path = await mkdtemp(join(parent, 'hicache-spec-'))
    this.#directories.push(path)
    return path
  }

  /** A cache with a small arena, of this workbench's layout, on a directory of its own unless the options name one. The machine's environment decides nothing. */
  async open(options: OpenOptions = {}): Promise<HiCacheNixl> {
    const cache = await HiCacheNixl.open({ arenaBytes: 16 * MIB, env: {}, ...layoutOptions(this.#storageLayout), ...options, storageDir: options.storageDir ?? await this.directory() })
    this.#caches.push(cache)
    return cache
  }

  /** Directories `a`, `b`, ... of one new directory. */
  async directories(...names: string[]): Promise<string[]> {
    const parent = await this.directory()
    return await Promise.all(names.map(async name => {
      await mkdir(join(parent, name), { mode: 0o700 })
      return join(parent, name)
    }))
  }

  /** Runs after the spec, before the caches are closed. */
  atEnd(ending: () => unknown): void { this.#endings.push(ending) }

  /** Runs after the caches have been closed: for servers that they talk to until then. */
  atLast(ending: () => unknown): void { this.#lastEndings.push(ending) }

  async clear(): Promise<void> {
    for (const ending of this.#endings.splice(0).reverse()) await ending()
    await Promise.all(this.#caches.splice(0).map(cache => cache.close()))
    for (const ending of this.#lastEndings.splice(0).reverse()) await ending()
    // A cache that was closed without grace while its disk hung gives its folder back when the spec's end lets the disk go on: a file may go, or come, under rm's hands.
    for (const path of this.#directories.splice(0)) await rm(path, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 })
  }
}

/** To be called in a describe(): the workbench of each of its specs. Its caches have that layout: a spec that looks at files of pages says `file`. */
export function workbench(storageLayout: StorageLayout = 'file'): Workbench {
  const bench = new Workbench(storageLayout)
  afterEach(() => bench.clear())
  return bench
}

/** The same for a whole suite: what its `before` opens serves all its specs. */
export function suiteWorkbench(storageLayout: StorageLayout = 'file'): Workbench {
  const bench = new Workbench(storageLayout)
  after(() => bench.clear())
  return bench
}
