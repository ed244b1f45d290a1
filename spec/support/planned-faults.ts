import { readdirSync, readlinkSync } from 'node:fs'
import type { Context } from 'mocha'
import { type HiCacheNixl, HiCacheError, type OpenOptions } from '../../lib/index.js'
import { loadAddon } from '../../lib/transfer/load-addon.js'
import type { EngineName, Fault } from '../../lib/transfer/native-binding.js'
import type { Workbench } from './workbench.js'

/** A way that bytes take to the disk, and the points at which it asks for planned faults when it reads. */
export interface StoragePath {
  readonly name: string
  readonly engine: EngineName
  /** Where the directory is made; undefined: among the temporary files. */
  readonly parent: string | undefined
  /** The engine's points, or null where the pool's threads move everything. */
  readonly submit: string | null
  readonly complete: string | null
  /** All points that a read of a page's payload passes. */
  readonly reading: readonly string[]
}

export const STORAGE_PATHS: readonly StoragePath[] = [
  { name: 'io_uring', engine: 'io_uring', parent: undefined, submit: 'ring.enter', complete: 'ring.complete', reading: ['ring.enter', 'ring.complete'] },
  { name: 'aio', engine: 'aio', parent: undefined, submit: 'aio.submit', complete: 'aio.complete', reading: ['aio.submit', 'aio.complete'] },
  { name: 'posix_aio', engine: 'posix_aio', parent: undefined, submit: 'paio.submit', complete: 'paio.complete', reading: ['paio.submit', 'paio.complete'] },
  { name: 'the pool alone (/dev/shm)', engine: 'posix_aio', parent: '/dev/shm', submit: null, complete: null, reading: ['preadv'] }
]

/**
 * Opens a cache on a path. Where this machine does not have the path (a container that forbids io_uring, temporary files on tmpfs), the spec is pending
 * and says so once, loudly.
 */
export async function openOn(bench: Workbench, path: StoragePath, context: Context, options: OpenOptions = {}): Promise<HiCacheNixl> {
  const storageDir = options.storageDir ?? await bench.directory(path.parent)
  let cache: HiCacheNixl
  try {
    cache = await bench.open({ engine: path.engine, ...options, storageDir })
  } catch (error) {
    if (!HiCacheError.is(error) || error.code !== 'ERR_PLUGIN_UNAVAILABLE') throw error
    return skipLoudly(context, `${path.name}: ${error.message}`)
  }
  const { engine, engineReason } = cache.directories[0]!
  if (path.submit !== null && !engine) return skipLoudly(context, `${path.name}: the temporary files are where no engine is used: ${engineReason}`)
  return cache
}

const said = new Set<string>()

/** Ends the running spec or hook as pending, with one line that nobody overlooks. */
export function skipLoudly(context: Context, why: string): never {
  if (!said.has(why)) console.warn(`  !!! NOT TESTED HERE: ${why}`)
  said.add(why)
  context.skip()
}

/** What this machine must have when CI says so: a fault there, pending elsewhere. */
export function skipUnlessCi(context: Context, why: string): never {
  if (process.env.CI === 'true') throw new Error(`CI must run this spec, and cannot: ${why}`)
  skipLoudly(context, why)
}

/** Plans failures; answers how to take them back, which says how often each struck. The end of the spec takes them back in any case. */
export function plan(bench: Workbench, ...faults: readonly Fault[]): () => number[] {
  const addon = loadAddon()
  addon.setFaults(faults)
  let struck: number[] | null = null
  const end = (): number[] => struck ??= addon.clearFaults()
  bench.atEnd(end)
  return end
}

/** Open descriptors of this process. */
export function descriptors(): number { return readdirSync('/proc/self/fd').length }

/** Files below a directory that this process has open: what begins shows in it. Files that have no name yet count. */
export function openFilesBelow(directory: string): string[] {
  return readdirSync('/proc/self/fd').flatMap(descriptor => {
    try {
      const path = readlinkSync(`/proc/self/fd/${descriptor}`)
      return path.startsWith(`${directory}/`) && !path.endsWith('tmp') ? [path] : []
    } catch {
      return []
    }
  })
}

/**
 * Waits for a state of the outside world that no event announces (the kernel letting go, a thread that starts). Fails when it does not come, long after it
 * should have.
 */
export async function until(holds: () => boolean | Promise<boolean>, what: string, ms = 15_000): Promise<void> {
  const end = performance.now() + ms
  while (!await holds()) {
    if (performance.now() > end) throw new Error(`It never came: ${what}.`)
    await new Promise(resolve => { setTimeout(resolve, 5) })
  }
}

/** For what must end by itself: fails, instead of hanging the run, when it does not. The bound is no measure of speed. */
export async function bounded<T>(work: Promise<T>, what: string, ms = 20_000): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  try {
    return await Promise.race([work, new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`It did not end: ${what}.`)), ms)
    })])
  } finally {
    clearTimeout(timer)
  }
}

/** Keys `name-00` to `name-NN`: no name is part of another, so that a fault's `match` means one page. */
export function keys(name: string, count: number): string[] {
  return Array.from({ length: count }, (_, i) => `${name}-${String(i).padStart(2, '0')}`)
}
