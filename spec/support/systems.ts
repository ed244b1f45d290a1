import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { OpenOptions } from '../../lib/index.js'
import type { ObjectServer } from './object-server.js'
import { standInLibrary, type StandInName } from './stand-in.js'

/** A system that moves the bytes of files beside the kernel, or objects, on a stand-in for its library: its hardware is not here. */
export interface StorageSystem {
  readonly title: string
  readonly plugin: string
  readonly agent: 'embedded' | 'nixl'
  readonly engine: string | null
  readonly libraries: readonly { readonly variable: string; readonly library: StandInName }[]
  /** Top-level keys of the configuration. `root`: the folder below which all storage directories of the suite lie. */
  config(root: string): Record<string, unknown>
  /** What must be below `root`. */
  prepare?(root: string): void
  /** What runs as long as a suite does; answers how to end it. */
  start?(root: string): Promise<() => Promise<void>>
  /** Default: those of storage directories. */
  readonly layouts?: readonly ('file' | 'segment' | 'object')[]
  /** Further variables of the environment. */
  variables?(root: string): Record<string, string>
  /** What allocate() lies in. */
  readonly arenaBuffer: typeof ArrayBuffer | typeof SharedArrayBuffer
  /** The suites of describeLayouts() that run on it, by title: all of them, or those in which it is another way than a system that runs them all. */
  readonly suites: 'all' | readonly string[]
}

/** Pages there and back, and pools: what a second system of a kind, or one that moves host memory as the kernel's engines do, needs to show. */
export const MOVING_SUITES: readonly string[] = ['set and get', 'calls that are not waited for', 'exists', 'reopening', 'the page API', 'registrations']

const usrbio = [{ variable: 'HICACHE_NIXL_HF3FS_PATH', library: 'usrbio' }] as const
const cufile = [{ variable: 'HICACHE_NIXL_CUDA_PATH', library: 'cuda' }, { variable: 'HICACHE_NIXL_CUFILE_PATH', library: 'cufile' }] as const
// The kernel's list of modules as the probe wants it, which a container may hide.
const modules = (root: string): string => join(root, 'modules')
const withModules = {
  prepare: (root: string): void => { writeFileSync(modules(root), 'nvidia_fs 1 0 - Live 0x0\n') },
  variables: (root: string): Record<string, string> => ({ HICACHE_NIXL_PROC_MODULES: modules(root) })
}
const mounted = (root: string): void => { mkdirSync(join(root, '3fs-virt', 'iovs'), { recursive: true }) }

const objectsOf = (root: string): string => join(root, 'objects')
/** Serves the folder in which the stand-in keeps its objects: for what NIXL cannot do with objects, and for caches without it. */
let server: ObjectServer | undefined

export const SYSTEMS: readonly StorageSystem[] = [
  {
    title: '3FS (dram)', plugin: '3fs', agent: 'embedded', engine: 'usrbio', libraries: usrbio, prepare: mounted,
    config: root => ({ plugin: { '3fs': { active: true, mount_point: root, mem_config: 'dram' } } }),
    arenaBuffer: SharedArrayBuffer, suites: 'all'
  },
  {
    title: '3FS (dram_zc)', plugin: '3fs', agent: 'embedded', engine: 'usrbio', libraries: usrbio, prepare: mounted,
    config: root => ({ plugin: { '3fs': { active: true, mount_point: root, mem_config: 'dram_zc' } } }),
    // The file system's side sees the arena, so it is memory of 3FS's.
    arenaBuffer: ArrayBuffer, suites: [...MOVING_SUITES, 'arena tensors', 'bytes in flight', 'the arena']
  },
  {
    title: 'an agent of NIXL', plugin: 'posix', agent: 'nixl', engine: 'nixl', libraries: [{ variable: 'HICACHE_NIXL_LIBNIXL_PATH', library: 'nixl_capi' }],
    config: () => ({ agent: 'nixl', plugin: { posix: { active: true } } }),
    arenaBuffer: SharedArrayBuffer, suites: 'all'
  },
  {
    title: 'objects of an agent of NIXL', plugin: 'obj', agent: 'nixl', engine: 'nixl', libraries: [{ variable: 'HICACHE_NIXL_LIBNIXL_PATH', library: 'nixl_capi' }],
    prepare: root => { mkdirSync(objectsOf(root)) },
    variables: root => ({ HICACHE_STAND_IN_NIXL_OBJECTS: objectsOf(root) }),
    start: async root => {
      // What it needs is not wherever the other systems are used.
      const { ObjectServer } = await import('./object-server.js')
      const started = server = await ObjectServer.start(objectsOf(root))
      return async () => { await started.fake.down() }
    },
    config: () => ({ agent: 'nixl', plugin: { obj: server!.section } }),
    layouts: ['object'], arenaBuffer: SharedArrayBuffer, suites: [...MOVING_SUITES, 'verify', 'clear', 'targets that do not fit']
  },
  // Host memory goes by the POSIX engine there; what goes to a GPU has specs of its own (spec/systems).
  {
    title: 'GDS_MT', plugin: 'gds_mt', agent: 'embedded', engine: null, libraries: cufile, ...withModules,
    config: () => ({ plugin: { gds_mt: { active: true } } }),
    arenaBuffer: SharedArrayBuffer, suites: MOVING_SUITES
  },
  {
    title: 'GDS', plugin: 'gds', agent: 'embedded', engine: null, libraries: cufile, ...withModules,
    config: () => ({ plugin: { gds: { active: true } } }),
    arenaBuffer: SharedArrayBuffer, suites: MOVING_SUITES
  }
]

let current: { readonly system: StorageSystem; readonly root: string } | null = null

/** Those on which suites run: all, or what HICACHE_SPEC_SYSTEMS says (`none`, or titles, separated by commas). */
export function systemsInUse(): readonly StorageSystem[] {
  const wanted = process.env['HICACHE_SPEC_SYSTEMS']
  return wanted === undefined ? SYSTEMS : SYSTEMS.filter(({ title }) => wanted.split(',').includes(title))
}

/** Those of them that run this suite of describeLayouts(). */
export function systemsFor(title: string): readonly StorageSystem[] {
  return systemsInUse().filter(({ suites }) => suites === 'all' || suites.includes(title))
}

/** describe() of a suite whose caches use that system: to be had by systemOptions(). */
export function describeOn(title: string, system: StorageSystem, suite: () => void): void {
  describe(`${title}, on ${system.title} (stand-in)`, () => {
    const before_: Record<string, string | undefined> = {}
    let end: (() => Promise<void>) | undefined
    before(async function () {
      // The stand-in is compiled.
      this.timeout(120_000)
      const root = mkdtempSync(join(tmpdir(), 'hicache-system-'))
      const variables: Record<string, string> = { ...system.variables?.(root) }
      for (const { variable, library } of system.libraries) variables[variable] = await standInLibrary(library)
      for (const [variable, value] of Object.entries(variables)) {
        before_[variable] = process.env[variable]
        process.env[variable] = value
      }
      system.prepare?.(root)
      end = await system.start?.(root)
      current = { system, root }
    })
    suite()
    after(async () => {
      await end?.()
      for (const [variable, value] of Object.entries(before_)) {
        if (value === undefined) Reflect.deleteProperty(process.env, variable)
        else process.env[variable] = value
      }
      const { root } = current!
      current = null
      rmSync(root, { recursive: true, force: true })
    })
  })
}

/** Where the suite's storage directories lie. */
export function systemRoot(): string { return current?.root ?? tmpdir() }

/** What a cache of the suite that runs needs beside its storage directory. */
export function systemOptions(): OpenOptions { return current === null ? {} : { config: current.system.config(current.root) } }

/** The system of the suite that runs. */
export function currentSystem(): StorageSystem | null { return current?.system ?? null }
