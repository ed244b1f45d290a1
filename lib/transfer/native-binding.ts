/** The native addon as TypeScript sees it: the contract of addon/addon.cc. All promises resolve on the calling thread's event loop. */

/** An engine moves bytes between registered memory and open files. */
export type EngineName = 'aio' | 'io_uring' | 'posix_aio'

export interface AgentOptions {
  /** The embedded plugin that moves the data. */
  readonly plugin: 'POSIX'
  /** The one engine to use; construction throws with `code: 'ERR_PLUGIN_UNAVAILABLE'` when the system lacks it. */
  readonly engine: EngineName
  readonly directories: readonly AgentDirectory[]
  /** The completion words: an Int32Array on shared memory, the same for all agents of a cache. */
  readonly words: Int32Array
  /** Operations that an engine keeps in the kernel at once, per directory. Default 64. */
  readonly queueDepth?: number
  /** Threads per directory for work that can block in a file system. Default 8. */
  readonly threads?: number
  /** How long destroy() and the environment's clean-up wait for the kernel before they leave the rest to a reaper thread. Default 2000. */
  readonly drainMs?: number
}
export interface AgentDirectory {
  readonly path: string
  /** From probeDirectory().direct, and not switched off by the configuration. */
  readonly direct: boolean
  /** From probeDirectory().engine: false = all I/O of this directory goes to its thread pool (tmpfs, FUSE, network file systems, no O_DIRECT). */
  readonly engine: boolean
}

export interface BatchResult {
  /** RESULT_STRIDE doubles a descriptor. */
  readonly results: Float64Array
  /** META_BYTES_MAX bytes a descriptor (zero-filled); empty when the batch asked for no metas. */
  readonly metas: Uint8Array
}

/** One file of a folder listing. */
export interface ListedFile {
  readonly name: string
  /** Bytes of the file, and bytes it takes on the disk. */
  readonly size: number
  readonly allocated: number
  /** Milliseconds since the epoch. */
  readonly accessedAt: number
  readonly modifiedAt: number
  /** With `records`: the state of its record block ('none' = a file without one), and the opaque parts when it is whole. */
  readonly record?: 'whole' | 'none' | 'corrupt'
  readonly payloadLength?: number
  readonly identity?: Uint8Array
  readonly meta?: Uint8Array
}

export interface NativeAgent {
  readonly engine: EngineName
  /** Starts every descriptor; resolves when each has its result. Never rejects because of a descriptor. Throws on malformed arguments. */
  submit(descriptors: Float64Array, blob: Uint8Array, wantMetas: boolean): Promise<BatchResult>
  /** Regular files in `folder` (relative; '' = the directory itself). A folder that is not there is empty. Runs on the directory's pool. */
  list(directory: number, folder: string, options: { records: boolean }): Promise<ListedFile[]>
  /** Leftover temporaries of dead writers in `folder` (writers keep theirs in `.hicache-nixl-tmp`): those whose lock can be taken are removed. Answers how many. */
  sweep(directory: number, folder: string): Promise<number>
  /** Operations that have been submitted and are not done. */
  readonly inFlight: number
  /** Cancels what has not started, waits up to drainMs for the rest, hands what is left to a reaper thread. Idempotent. Answers what was left. */
  destroy(): Promise<number>
}

export interface DirectoryReport {
  readonly path: string
  /** The path after links are resolved. */
  readonly realPath: string
  readonly fileSystem: string
  /** A real O_DIRECT write and read of one block succeeded. */
  readonly direct: boolean
  /** Why not, when not. */
  readonly directReason: string
  readonly engine: boolean
  readonly engineReason: string
  /** O_TMPFILE works here (else named temporaries). */
  readonly tmpfile: boolean
  readonly freeBytes: number
  readonly totalBytes: number
  readonly ownerUid: number
  readonly mode: number
  readonly writable: boolean
}

export interface MadeDirectory {
  /** The path after links are resolved. */
  readonly realPath: string
  /** Is it one? */
  readonly directory: boolean
  readonly ownerUid: number
  /** The owner of the path itself, which may be a link. */
  readonly linkUid: number
}

export interface EngineReport { readonly name: EngineName; readonly usable: boolean; readonly reason: string; readonly remedy: string }

/** A planned failure for the specs; see addon/util/fault.h for the points. */
export interface Fault {
  /** `open`, `pwritev`, `preadv`, `link`, `rename`, `unlink`, `mkdir`, `stat`, `ring.enter`, `ring.complete`, `aio.submit`, `aio.complete`, `paio.submit`, `paio.complete`, ... */
  readonly point: string
  /** Matches when the file's name contains it. Default: every file. */
  readonly match?: string
  /** Let this many pass first. Default 0. */
  readonly after?: number
  /** Strike this many times. Default 1; 0 = until cleared. */
  readonly times?: number
  /** Fail with this errno name; or transfer only `short` bytes; or `hang` until released. */
  readonly errno?: string
  readonly short?: number
  readonly hang?: boolean
}

export interface NativeAddon {
  readonly protocol: Readonly<Record<string, Readonly<Record<string, number>> | number>>
  readonly Agent: new (options: AgentOptions) => NativeAgent
  /** Makes memory known to all agents of the process. The caller keeps the view reachable until it is unregistered. */
  registerMemory(view: Uint8Array): number
  /** Waits for nothing: the caller makes sure that no operation uses the region. False when the id is not known. */
  unregisterMemory(region: number): boolean
  addressOf(view: NodeJS.ArrayBufferView): bigint
  /** Advises huge pages and touches every page on a native thread. Answers the bytes backed by huge pages (from /proc/self/smaps), -1 if unknown. */
  populate(view: Uint8Array): Promise<number>
  /** CRC-64/NVME of the bytes, continuing from `seed` (the CRC of what came before; default 0n). */
  crc64(view: NodeJS.ArrayBufferView, seed?: bigint): bigint
  /** The instruction set that crc64 runs on: `vpclmulqdq`, `pclmulqdq` or `table`. */
  readonly crc64Kernel: string
  /** Tries the directory (which must exist) with real I/O, on a native thread. Rejects with an Error carrying `code` (errno name). */
  probeDirectory(path: string): Promise<DirectoryReport>
  /** Makes the directory (0700), and those above it, where they are not there; on a native thread, as nothing else of Node may block on a mount that hangs. */
  makeDirectory(path: string): Promise<MadeDirectory>
  /** statfs, on a native thread. */
  usageOf(path: string): Promise<{ readonly usedBytes: number; readonly availableBytes: number }>
  /** Really sets up and tears down each engine, on a native thread. */
  probeEngines(): Promise<EngineReport[]>
  /** A non-blocking exclusive flock on a file (created 0600). The descriptor, or -1 when somebody else holds it. Throws with `code` on failure. */
  tryLock(path: string): number
  unlock(descriptor: number): void
  /** tryLock() and unlock() on a native thread, for directories that may hang. */
  lockFile(path: string): Promise<number>
  unlockFile(descriptor: number): Promise<void>
  /** Every live agent looks for words that are `cancelled` (their queued operations end now) or `cancelling` (the kernel is asked to let go). Any thread. */
  cancel(): void
  setFaults(faults: readonly Fault[]): void
  /** Lets everything that hangs go on, and forgets all faults. Answers how often each fault struck. */
  clearFaults(): number[]
  bench: NativeBench
}

export interface BenchResult { readonly bytes: number; readonly seconds: number; readonly cpuSeconds: number; readonly latencyUs: Float64Array }
export interface NativeBench {
  /**
   * The device's own limit: one native ring (or AIO where the ring is forbidden), O_DIRECT, extents written before, huge-page buffers,
   * sequential pages over `bytes` of one file at `directory`. The file is kept between calls under `.hicache-nixl-bench` and removed by `cleanup`.
   */
  deviceLimit(options: { directory: string; op: 'read' | 'write'; pageBytes: number; bytes: number; queueDepth: number }): Promise<BenchResult>
  /** A C++ loop over files as the file layout writes them (same trailer, temporary, link, threads), or reads of those files. */
  fileLoop(options: { directory: string; op: 'read' | 'write'; pageBytes: number; pages: number; threads: number; direct: boolean; replace: boolean }): Promise<BenchResult>
  cleanup(directory: string): Promise<void>
}
