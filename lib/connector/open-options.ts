import { HiCacheError, describe } from '../error.js'
import type { DirectoryScheme } from '../keys/index.js'
import type { Logger } from '../observe/logger.js'
import { closest } from '../config/spelling.js'
import { checkSignal } from './arguments.js'

/**
 * How to open a cache. What is left out comes from the configuration, then from the environment, then from the default. docs/configuration.md has
 * the configuration's own keys; the options here that have one there win over it.
 */
export interface OpenOptions {
  /** `@path` to a .toml, .json, .yaml or .yml file, inline JSON (or its single-quoted form), or an object. */
  config?: string | object
  /** The storage plugin: `posix`, `3fs`, `gds_mt`, `gds`, `obj` or `auto`. Default: `auto`. */
  plugin?: string
  /** One directory or several; pages are spread over them by key. Made (0700) when not there. Default: /tmp/hicache_storage. */
  storageDir?: string | readonly string[]
  /** Default: segment, except where a directory holds page files already or SGLang's variable names the directories: then file. */
  storageLayout?: 'file' | 'segment'
  /**
   * Bytes on the disk that the segment layout may take in each storage directory, all processes together; from 3 MiB, of which each process needs 2 for itself.
   * Default: it stops growing where less than a tenth of the file system would be left free.
   */
  capacity?: number
  /** Which page makes room for a new one in the segment layout. Default: prefix-aware. */
  evictionPolicy?: 'prefix-aware' | 'lru'
  /** `batch`: a write of the segment layout is on the disk when it is answered, synchronised once for all that end together. Default: never. */
  fsync?: 'never' | 'batch'
  /** Bytes of a segment, a multiple of 4096 from 1 MiB to 4 GiB. Default: 64 MiB, growing with the store to at most 1 GiB, but never more than a 16th of what it may take. */
  segmentBytes?: number
  /** Milliseconds for which a page stays after a lookup answered that it is there (segment layout), 0 to 60000. Default 1000. */
  leaseMs?: number
  /** Default: bucketed. */
  directoryScheme?: DirectoryScheme
  /** Default ''. `/` becomes `-` in file names. */
  modelName?: string
  /** Ranks and sizes of the parallel groups. Defaults: rank 0 of 1. */
  tpRank?: number
  tpSize?: number
  ppRank?: number
  ppSize?: number
  cpRank?: number
  cpSize?: number
  /** Multi-head latent attention: pages are the same on all tensor-parallel ranks, and only rank 0 writes. Default false. */
  isMlaModel?: boolean
  /** Goes into every page's identity: other weights, dtype or page size under the same name are then a miss, not a wrong page. Default ''. */
  fingerprint?: string
  /** Who moves the bytes: native code of this package, or an agent of NIXL's own library. Default: auto, which is `embedded` unless a plugin is asked for that only NIXL can have. */
  agent?: 'auto' | 'embedded' | 'nixl'
  /** Engine of the POSIX plugin, and of host memory with GDS and GDS_MT; wins over the configuration's use_uring, use_aio, use_posix_aio. Default: theirs. */
  engine?: 'auto' | 'io_uring' | 'aio' | 'posix_aio'
  /** Worker threads, 1 to 64. Default: 2, or 1 on a machine with one core. */
  workers?: number
  /** Native threads per directory, of all workers together, 1 to 64, for work that blocks in a file system. Default 16. */
  threads?: number
  /** Operations that an engine keeps in the kernel, per worker and directory, 1 to 4096. Default 64. */
  queueDepth?: number
  /** Bytes of the arena, 16 MiB to 4 GiB. Default: 256 MiB, or an eighth of the memory (cgroup's limit included) where that is less. */
  arenaBytes?: number
  /** Payload bytes in flight at once. Default: three quarters of the arena. */
  inFlightBytesMax?: number
  /** What a request does when that limit is reached: wait its turn, or end as `rejected`. Default: wait. */
  whenFull?: 'wait' | 'reject'
  /** Deadline of a call that gives none, in milliseconds. Default 30000. */
  timeoutMs?: number
  /** Do files without a checksum (the Python connector's) count? They are answered with `verified: false`. Default true. */
  acceptUnverified?: boolean
  /** Reads into a GPU's memory by GDS or GDS_MT go by way of this host's memory, so that their bytes are compared with their checksum. Default false. */
  verifyVram?: boolean
  /** Stands before every stored key in the name of its object (plugin obj): a path of at most 512 bytes, with a / at its end where one is meant. Default ''. */
  objectPrefix?: string
  /** The proxy on the way to the object store: its URL, without credentials; `environment`: as http_proxy and its kin say; null: none. Default null. */
  objectProxy?: string | null
  /** Sign the SHA-256 of every page that is uploaded, for servers that insist on it. Default false: pages have a checksum of their own. */
  objectSignPayload?: boolean
  /** O_DIRECT where the file system can; 3FS moves pages by its own interface. Default true. */
  useDirectIo?: boolean
  /** Default: silent. */
  logger?: Logger
  /** Environment variables to read. Default: process.env. */
  env?: NodeJS.ProcessEnv
  /** Abandons the opening. */
  signal?: AbortSignal
}

const KNOWN: readonly (keyof OpenOptions)[] = [
  'config', 'plugin', 'storageDir', 'storageLayout', 'capacity', 'evictionPolicy', 'fsync', 'segmentBytes', 'leaseMs', 'directoryScheme', 'modelName', 'tpRank', 'tpSize', 'ppRank', 'ppSize', 'cpRank', 'cpSize',
  'isMlaModel', 'fingerprint', 'agent', 'engine', 'workers', 'threads', 'queueDepth', 'arenaBytes', 'inFlightBytesMax', 'whenFull', 'timeoutMs',
  'acceptUnverified', 'verifyVram', 'objectPrefix', 'objectProxy', 'objectSignPayload', 'useDirectIo', 'logger', 'env', 'signal'
]
const ENGINES: readonly unknown[] = [undefined, 'auto', 'io_uring', 'aio', 'posix_aio']

/** Checks what no other part checks: names, and the options that have no key in the configuration. */
export function checkOpenOptions(options: unknown): asserts options is OpenOptions {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) throw new HiCacheError('ERR_ARGUMENT', `open() takes an object of options; got ${describe(options)}.`)
  for (const name of Object.keys(options)) {
    if ((KNOWN as readonly string[]).includes(name)) continue
    const likely = closest(name, KNOWN)
    throw new HiCacheError('ERR_ARGUMENT', `open() has no option ${JSON.stringify(name)}${likely === undefined ? '' : `; did you mean ${likely}?`}`)
  }
  const { engine, logger, signal } = options as OpenOptions
  if (!ENGINES.includes(engine)) throw new HiCacheError('ERR_ARGUMENT', `engine is auto, io_uring, aio or posix_aio; got ${describe(engine)}.`)
  if (logger !== undefined) {
    for (const level of ['debug', 'info', 'warn', 'error'] as const) {
      if (typeof (logger as Partial<Logger> | null)?.[level] !== 'function') throw new HiCacheError('ERR_ARGUMENT', `logger needs the functions debug, info, warn and error; ${level} is missing.`)
    }
  }
  checkSignal(signal)
}
