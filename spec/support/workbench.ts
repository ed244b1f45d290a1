import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { HiCacheNixl, type OpenOptions } from '../../lib/index.js'
import { placeOptions, type StorageLayout } from './layouts.js'
import { objectPlace } from './object-place.js'
import { s3Front, type S3Front } from './s3-front.js'
import { systemRoot } from './systems.js'

export const MIB = 1024 * 1024

export interface WorkbenchOptions {
  /** Specs keep pages from being read and written (hangPages). Default false. */
  readonly hangs?: boolean
}

/** Caches and directories of one suite: whatever a spec opens or makes is closed and removed after it, also when it fails. */
export class Workbench {
  readonly #caches: HiCacheNixl[] = []
  readonly #directories: string[] = []
  readonly #endings: (() => unknown)[] = []
  readonly #lastEndings: (() => unknown)[] = []
  readonly #storageLayout: StorageLayout
  readonly #hangs: boolean
  #front: Promise<S3Front> | undefined
  #fronted: S3Front | undefined

  constructor(storageLayout: StorageLayout, { hangs = false }: WorkbenchOptions = {}) {
    this.#storageLayout = storageLayout
    this.#hangs = hangs
  }

  /** A new, empty directory on the disk of the temporary files (or below `parent`). */
  async directory(parent = systemRoot()): Promise<string> {
    const path = await mkdtemp(join(parent, 'hicache-spec-'))
    this.#directories.push(path)
    return path
  }

  /**
   * A cache with a small arena, of this workbench's layout, on a directory of its own unless the options name one (of objects: that prefix). The machine's environment
   * decides nothing.
   */
  async open({ storageDir, ...options }: OpenOptions = {}): Promise<HiCacheNixl> {
    const place = placeOptions(this.#storageLayout, storageDir ?? await this.directory(), await this.#endpoint())
    const cache = await HiCacheNixl.open({ arenaBytes: 16 * MIB, env: {}, ...place, ...options })
    this.#caches.push(cache)
    return cache
  }

  /** What stands between the caches and the object store, where this workbench is one for hanging. */
  get front(): S3Front {
    if (this.#fronted === undefined) throw new Error('Only a workbench for hanging has a front, once a cache is open: workbench(storageLayout, { hangs: true }).')
    return this.#fronted
  }

  async #endpoint(): Promise<string | undefined> {
    if (this.#storageLayout !== 'object' || !this.#hangs) return undefined
    this.#fronted = await (this.#front ??= s3Front(this, objectPlace().gateway.endpoint))
    return this.#fronted.endpoint
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
    this.#front = this.#fronted = undefined
    // A cache that was closed without grace while its disk hung gives its folder back when the spec's end lets the disk go on: a file may go, or come, under rm's hands.
    for (const path of this.#directories.splice(0)) await rm(path, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 })
  }
}

/** To be called in a describe(): the workbench of each of its specs. Its caches have that layout: a spec that looks at files of pages says `file`. */
export function workbench(storageLayout: StorageLayout = 'file', options?: WorkbenchOptions): Workbench {
  const bench = new Workbench(storageLayout, options)
  afterEach(() => bench.clear())
  return bench
}

/** The same for a whole suite: what its `before` opens serves all its specs. */
export function suiteWorkbench(storageLayout: StorageLayout = 'file'): Workbench {
  const bench = new Workbench(storageLayout)
  after(() => bench.clear())
  return bench
}
