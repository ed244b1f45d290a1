import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import type { HiCacheError, OpenOptions } from '../../lib/index.js'
import { layoutOptions, type DiskLayout } from './layouts.js'
import { RemoteCache } from './remote-cache.js'
import { StandInControl, standInLibrary } from './stand-in.js'
import type { StorageSystem } from './systems.js'
import type { Workbench } from './workbench.js'

/** A cache on a system, in a process of its own, whose library is told how to fail. */
export interface RemoteSystem {
  readonly cache: RemoteCache
  readonly control: StandInControl
  /** Where the system is mounted. */
  readonly root: string
  readonly storageDir: string
  /** Opens the cache; the system's own configuration unless the options bring another. */
  open(options?: OpenOptions): ReturnType<RemoteCache['open']>
  /** What `3fs-virt/iovs` of the mount holds: memory and rings that are shared with the file system's side. */
  links(): string[]
}

/** What a cache says that is not opened, because nothing that is asked for can be used. */
export async function unavailable(opening: Promise<unknown>): Promise<string> {
  try {
    await opening
  } catch (error) {
    const { code, message } = error as HiCacheError
    if (code === 'ERR_PLUGIN_UNAVAILABLE') return message
    throw error
  }
  throw new Error('The cache was opened; expected ERR_PLUGIN_UNAVAILABLE.')
}

/** Compiles the stand-ins; call it in a hook with time for that. `defines`: of the library, for variants. */
export async function librariesOf(system: StorageSystem, defines: readonly string[] = []): Promise<Record<string, string>> {
  const libraries = await Promise.all(system.libraries.map(async ({ variable, library }) => [variable, await standInLibrary(library, defines)] as const))
  return Object.fromEntries(libraries)
}

/** `env`: instead of the stand-ins that librariesOf() gives. */
export async function remoteSystem(bench: Workbench, system: StorageSystem, storageLayout: DiskLayout, env?: Readonly<Record<string, string>>): Promise<RemoteSystem> {
  const [root, aside] = await Promise.all([bench.directory(), bench.directory()])
  system.prepare?.(root)
  const storageDir = await bench.directory(root)
  const control = new StandInControl(join(aside, 'control'))
  const cache = new RemoteCache(bench, [], { ...env ?? await librariesOf(system), HICACHE_STAND_IN_CONTROL: control.path })
  return {
    cache, control, root, storageDir,
    open: options => cache.open({ storageDir, config: system.config(root), ...layoutOptions(storageLayout), ...options }),
    links: () => readdirSync(join(root, '3fs-virt', 'iovs'))
  }
}
