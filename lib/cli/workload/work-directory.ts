import { mkdir, mkdtemp, rm, stat, statfs } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { HiCacheError } from '../../error.js'
import { formatBytes } from '../format.js'
import type { WorkPlace } from './work-place.js'

export interface WorkDirectoryOptions {
  /** Exactly this directory; it is made when it is not there. */
  readonly exact: string | undefined
  /** Else a fresh one in each of these, named after `prefix`. */
  readonly parents: readonly string[]
  readonly prefix: string
}

/** The storage directories of one run of replay, demo or bench, and whether they are its own to remove. */
export class WorkDirectory implements WorkPlace {
  private constructor(
    readonly paths: readonly string[],
    /** The directories were made for this run. */
    readonly fresh: boolean,
  ) {}

  get open(): { readonly storageDir: readonly string[] } { return { storageDir: this.paths } }

  static async make(options: WorkDirectoryOptions): Promise<WorkDirectory> {
    try {
      if (options.exact !== undefined) {
        const path = resolve(options.exact)
        const made = await mkdir(path, { recursive: true, mode: 0o700 })
        return new WorkDirectory([path], made !== undefined)
      }
      const parents = options.parents.length > 0 ? options.parents : [tmpdir()]
      const paths: string[] = []
      for (const parent of parents) {
        await mkdir(parent, { recursive: true, mode: 0o700 })
        paths.push(await mkdtemp(join(resolve(parent), options.prefix)))
      }
      return new WorkDirectory(paths, true)
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException
      throw new HiCacheError('ERR_IO', `cannot make the directory to work in: ${message}`, { cause, ...(code === undefined ? {} : { errno: code }) })
    }
  }

  /** Throws ERR_IO when the file systems have less free space than `bytes` together, before anything is written. */
  async requireSpace(bytes: number, what: string): Promise<void> {
    const free = await this.freeBytes()
    if (free >= bytes) return
    throw new HiCacheError('ERR_IO',
      `${what} needs ${formatBytes(bytes)} in ${this.paths.join(', ')}, where only ${formatBytes(free)} are free`, { errno: 'ENOSPC' })
  }

  /** What ordinary users may still write, counted once for directories of one file system. */
  async freeBytes(): Promise<number> {
    const devices = new Map<number, number>()
    for (const path of this.paths) {
      const { bavail, bsize } = await statfs(path)
      devices.set((await stat(path)).dev, bavail * bsize)
    }
    return [...devices.values()].reduce((sum, free) => sum + free, 0)
  }

  /** Removes a folder of ours in the directories, with all that is in it. */
  async empty(folder: string): Promise<void> {
    for (const path of this.paths) await rm(join(path, folder), { recursive: true, force: true })
  }

  /** Removes the directories with all that is in them, if they were made for this run. */
  async remove(): Promise<void> {
    if (!this.fresh) return
    for (const path of this.paths) await rm(path, { recursive: true, force: true })
  }

  close(): void { /* Nothing is open. */ }
}
