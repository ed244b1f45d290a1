import { closeSync, constants, mkdirSync, openSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { HiCacheError, describe } from '../error.js'
import { checkKey, routePage, type DirectoryScheme } from '../keys/index.js'
import type { NixlTuple } from '../memory/nixl-registration.js'

/**
 * The files of one storage directory, by hand: where a key's file lies, and files as NIXL tuples. For tools and for code written against the
 * Python connector's class of this name; the cache itself does not open files on the main thread. All methods are synchronous.
 */
export class NixlFileManager {
  readonly baseDir: string
  readonly scheme: DirectoryScheme

  /** Makes `baseDir` (0700) when it is not there. Throws ERR_IO when it cannot. */
  constructor(baseDir: string, scheme: DirectoryScheme = 'bucketed') {
    if (typeof baseDir !== 'string' || baseDir === '') throw new HiCacheError('ERR_ARGUMENT', `The base directory is a path; got ${describe(baseDir)}.`)
    this.baseDir = resolve(baseDir)
    this.scheme = scheme
    try {
      mkdirSync(this.baseDir, { recursive: true, mode: 0o700 })
    } catch (cause) {
      throw new HiCacheError('ERR_IO', `The directory ${this.baseDir} cannot be made: ${(cause as Error).message}.`, { cause, ...errnoOf(cause) })
    }
  }

  /** The path of a stored key's file. Throws ERR_KEY for a key that cannot name one. */
  getFilePath(storedKey: string): string {
    checkKey(storedKey)
    return join(this.baseDir, routePage(storedKey, 1, this.scheme).name)
  }

  /** Makes an empty file (0600), and its folder, if it is not there. False when the system refuses. */
  createFile(path: string): boolean {
    try {
      mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
      closeSync(openSync(path, constants.O_WRONLY | constants.O_CREAT, 0o600))
      return true
    } catch { return false }
  }

  /** An open descriptor for reading and writing, or null when the file is not there or cannot be opened. Close it with closeFile(). */
  openFile(path: string): number | null {
    try { return openSync(path, constants.O_RDWR) } catch { return null }
  }

  /** False when the descriptor was not open. */
  closeFile(descriptor: number): boolean {
    try {
      closeSync(descriptor)
      return true
    } catch { return false }
  }

  /** Opens the files and describes them. All or none: throws ERR_IO for the first that cannot be opened, with the others closed again. */
  filesToNixlTuples(paths: readonly string[]): NixlTuple[] {
    const tuples: NixlTuple[] = []
    for (const path of paths) {
      try {
        tuples.push([0n, 0, openSync(path, constants.O_RDWR), path])
      } catch (cause) {
        for (const [, , descriptor] of tuples) this.closeFile(descriptor)
        throw new HiCacheError('ERR_IO', `The file ${path} cannot be opened: ${(cause as Error).message}.`, { cause, ...errnoOf(cause) })
      }
    }
    return tuples
  }
}

function errnoOf(error: unknown): { errno?: string } {
  const { code } = error as NodeJS.ErrnoException
  return code === undefined ? {} : { errno: code }
}
