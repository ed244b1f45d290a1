/** The native addon as TypeScript sees it: the contract of addon/addon.cc. All promises resolve on the calling thread's event loop. */

/** An engine moves bytes between registered memory and open files. */
export type EngineName = 'aio' | 'io_uring' | 'posix_aio'

export type AgentOptions = PosixAgentOptions | ObjectAgentOptions | NixlAgentOptions

interface AnyAgentOptions {
  /** The completion words: an Int32Array on shared memory, the same for all agents of a cache. */
  readonly words: Int32Array
  /** How long destroy() and the environment's clean-up wait for the kernel before they leave the rest to a reaper thread. Default 2000. */
  readonly drainMs?: number
}
/** Pages in an object store: pageWrite, pageRead, pageCheck and pageDelete; a descriptor's name is the object's key, and there is one directory. */
export interface ObjectAgentOptions extends AnyAgentOptions {
  readonly plugin: 'OBJ'
  /** Construction throws with `code: 'ERR_PLUGIN_UNAVAILABLE'` where there is no libcurl. */
  readonly objects: ObjectEndpoint
}
/**
 * Pages as objects that NIXL moves: pageWrite, pageRead and pageCheck, which answers `unverified` for an object that is there (with Flag.force: what it is). Construction throws with
 * `code: 'ERR_PLUGIN_UNAVAILABLE'`.
 */
export interface NixlAgentOptions extends AnyAgentOptions {
  readonly plugin: 'NIXL'
  readonly nixl: { readonly plugin: string; readonly parameters: Readonly<Record<string, string>> }
  /** Where the same objects can be had without NIXL: pageDelete, and pageCheck with Flag.force, go there. Without it a delete fails with ENOTSUP. */
  readonly objects?: ObjectEndpoint
}
/** Where objects are, and how this process talks to them. */
export interface ObjectEndpoint {
  /** `scheme://host[:port]`, without a path. */
  readonly endpoint: string
  /** What requests are signed for; never empty. */
  readonly region: string
  readonly bucket: string
  /** The bucket is a part of the host name (not where the host is an address, or the name has a dot and the scheme is https). */
  readonly virtualAddressing: boolean
  /** Id from objects.setCredentials(). 0: requests are not signed. */
  readonly credentials: number
  /** File of the authorities that are trusted, PEM. Default: the system's. */
  readonly caBundle?: string
  /** URL of a proxy; '' = none, whatever the environment says. Default ''. */
  readonly proxy?: string
  /** Sign the SHA-256 of every page that is written, which costs as much again as all the rest. Default false: UNSIGNED-PAYLOAD. */
  readonly signPayload?: boolean
  /** Send the payload's CRC-64/NVME for the server to check. Default false. */
  readonly sendChecksum?: boolean
  /** Ask for the checksum that the server keeps, and compare the bytes with it. Default false. */
  readonly askChecksum?: boolean
  /** Pages from this size on are written in parts and read in ranges, over several connections at once. Default: 32 MiB. Parts have at least 5 MiB. */
  readonly multipartBytes?: number
  /** Threads that talk to the server. Default 4. */
  readonly threads?: number
  /** Connections of this agent, all threads together. Default 16. */
  readonly connections?: number
}

export interface PosixAgentOptions extends AnyAgentOptions {
  /** The embedded plugin that moves the data. */
  readonly plugin: 'POSIX'
  /** The one engine to use; construction throws with `code: 'ERR_PLUGIN_UNAVAILABLE'` when the system lacks it. With a dataPath: its name, for people. */
  readonly engine: EngineName | DataPathName
  /** Another system that moves the bytes of all files of these directories, new ones too, with O_DIRECT or without. */
  readonly dataPath?: DataPath
  /** What moves bytes from files to the memory of GPUs. Without it such memory is refused. */
  readonly devicePath?: DevicePath
  readonly directories: readonly AgentDirectory[]
  /** Operations that an engine keeps in the kernel at once, per directory. Default 64. */
  readonly queueDepth?: number
  /** Threads per directory for work that can block in a file system. Default 8. */
  readonly threads?: number
}
export type DataPathName = 'usrbio' | 'nixl'
export type DataPath = UsrbioPath | NixlPath
/** 3FS: a ring for reads and one for writes. */
export interface UsrbioPath {
  readonly kind: 'usrbio'
  /** Any directory of the mount. */
  readonly mountPoint: string
  /** `dram`: all memory is staged. Else what lies in memory of usrbio.allocate() goes as it is. */
  readonly memConfig: 'dram' | 'dram_zc' | 'auto'
  /** Staging slots, of 1 MiB at most each, for both directions together. */
  readonly iopoolSize: number
}
/** An agent of NIXL's own library, with one of its plugins for files. */
export interface NixlPath {
  readonly kind: 'nixl'
  readonly plugin: string
  readonly parameters: Readonly<Record<string, string>>
}
/** cuFile, by its blocking calls on threads of our own (GDS_MT) or by its batches (GDS). */
export type DevicePath =
  | { readonly kind: 'gds_mt'; readonly threadCount: number }
  | { readonly kind: 'gds'; readonly batchPoolSize: number; readonly batchLimit: number; readonly maxRequestSize: number }

export interface AgentDirectory {
  readonly path: string
  /** From probeDirectory().direct, and not switched off by the configuration. */
  readonly direct: boolean
  /** From probeDirectory().engine: false = all I/O of this directory goes to its thread pool (tmpfs, FUSE, network file systems, no O_DIRECT). */
  readonly engine: boolean
  /**
   * Descriptor of the lock that says that a writer lives (`owner` in its folder). The agent keeps a duplicate of its own, and io_uring a registered one, so that the lock
   * stays taken until the kernel has let go of everything, also after a kill and after the original was closed. Construction fails when it cannot be registered.
   */
  readonly holdFd?: number
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
  /** `libcurl` for objects. */
  readonly engine: EngineName | DataPathName | 'libcurl'
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
  /** It holds pages of the file layout already: in bucket folders, or flat ones that are named as HiCache names pages or end in a record block. */
  readonly pageFiles: boolean
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

/** Records of one folder as they were read, in rows that a typed array can walk. */
export interface LoadedFolder {
  /** The folder's ring of changes had come to this when reading began: poll() goes on from here. */
  readonly sequence: number
  /** `dataBytes` is never more than the data file has. */
  readonly segments: readonly { readonly id: number; readonly dataBytes: number; readonly extentBytes: number; readonly slots: number }[]
  /** LOADED_STRIDE bytes a row, little-endian; LoadedRow names the fields. Pages and tombstones; nothing for slots that were never used. */
  readonly rows: Uint8Array
  /** What rows name by index: the metas (FileLayout.encodeMeta) and namespaces (16 bytes) that occur. */
  readonly metas: readonly Uint8Array[]
  readonly namespaces: readonly Uint8Array[]
  /** Records and files that were skipped because they do not hold. */
  readonly damaged: number
}
export const LOADED_STRIDE = 80
/** Byte offsets in a row of LoadedFolder.rows. */
export const LoadedRow = {
  /** 4 u32. */
  digest: 0,
  /** u32. */
  segment: 16,
  slot: 20,
  /** f64. `writtenAt` in microseconds since the epoch. */
  generation: 24,
  writtenAt: 32,
  fileOffset: 40,
  length: 48,
  /** u32, the low half first. */
  checksumLow: 56,
  checksumHigh: 60,
  /** u32, an index into `metas`. */
  meta: 64,
  /** u32: 1 page, 2 tombstone (of which only segment, slot, generation and writtenAt count). */
  state: 68,
  /** u32, an index into `namespaces`. */
  namespace: 72
} as const

/** What has changed in a folder since `sequence` of the last look. */
export interface FolderChanges {
  readonly folder: string
  /** To be given to the next poll(). */
  readonly sequence: number
  /** More has changed than the ring remembers, or the ring was made anew: load() the folder again. */
  readonly lapped: boolean
  /** The folder is not there any more (its segments may be in another by now). */
  readonly gone: boolean
  /** The records that changed; null when none did. Its `sequence` is the one above. */
  readonly loaded: LoadedFolder | null
  /**
   * Segments that changed as a whole: forget every page of them, then take the rows of `loaded`. Those that are not among `loaded.segments` are gone.
   */
  readonly whole: readonly number[]
  /** Other folders' pages, segment id, slot and generation of each in turn: this folder's writer asks their owner to give them up, if they are there still. */
  readonly asked: readonly number[]
}

export interface PolledFolder {
  readonly name: string
  /** Its writer lives (asked at most every half a second per folder). */
  readonly live: boolean
  /** Its writer has no space and asks the others to give some back. */
  readonly wants: boolean
  readonly machine: 'this' | 'other'
}

export interface GrantOptions {
  /** What is asked for; shortened to what fits when at least a quarter of it (and one extent) does. */
  readonly dataBytes: number
  /** A multiple of 4096. */
  readonly extentBytes: number
  /** Bytes that everything below `segments` may take on the disk; 0 = no limit. */
  readonly capacity: number
  /** Bytes of the file system that stay free. */
  readonly keepFreeBytes: number
  /** The zeros are written with O_DIRECT. */
  readonly direct: boolean
  /** Zeros are written at all. Default true: extents that were never written cost a local file system half its speed. */
  readonly prefill?: boolean
}
export interface Granted {
  readonly id: number
  /** Why there is none; '' = granted. */
  readonly refused: '' | 'capacity' | 'disk'
  readonly dataBytes: number
  readonly slots: number
  /** Of everything below `segments` / free to us on the file system, after the grant. */
  readonly usedBytes: number
  readonly freeBytes: number
}

/**
 * The segment layout's blocking work, each call on a native thread of its own. `directory` is the storage directory, `folder` the name of a writer's
 * folder below `<directory>/segments`. Rejects with an Error carrying `code` (errno name): EBUSY when others held the directory's lock for 5 s.
 * What is damaged is skipped and counted, never an error. A call that hangs does not keep the process from ending.
 */
export interface NativeSegments {
  /**
   * Makes a writer's folder ours: that of a dead writer of this machine if there is one (further ones are merged into it), else a new one. The lock is held until
   * closeWriter(), or until the calling thread's environment ends. Also while an io_uring has `ownerFd` registered (AgentDirectory.holdFd).
   * Rejects with EPROTONOSUPPORT when `segments` is of a newer version (nothing was touched), EBADMSG when its FORMAT is none.
   */
  open(directory: string): Promise<{
    readonly folder: string
    readonly ownerFd: number
    /** Folders of dead writers: taken over, or merged and gone. */
    readonly adopted: readonly string[]
    readonly usedBytes: number
  }>
  /** Every record of a folder (or of the segments `ids`). A folder that is not there has none. `seed`: 4 words, this process's secret for digests. */
  load(directory: string, folder: string, seed: Uint32Array, ids: readonly number[] | null): Promise<LoadedFolder>
  /** The other writers' folders, and what changed in those that are followed since `sequence`. `ownFolder` may be ''. */
  poll(directory: string, ownFolder: string, followed: readonly { readonly folder: string; readonly sequence: number }[], seed: Uint32Array): Promise<{
    readonly folders: readonly PolledFolder[]
    readonly changes: readonly FolderChanges[]
  }>
  /** A new segment for our folder: reserved under the directory's lock, then written once with zeros. Rejects with ECANCELED after closeWriter(). */
  grant(directory: string, folder: string, options: GrantOptions): Promise<Granted>
  /** Gives an empty segment of ours another extent size (all its pages have been evicted, nothing is in flight). Its data may become shorter by what its index grows. */
  reassign(directory: string, folder: string, id: number, extentBytes: number): Promise<{ readonly slots: number; readonly dataBytes: number }>
  /** Gives an empty segment of ours back to the file system. */
  release(directory: string, folder: string, id: number): Promise<void>
  /** Merges the folders of writers that have died meanwhile into ours. Answers the ids of their segments: load() them. */
  adopt(directory: string, folder: string): Promise<number[]>
  /** Asks the owners of these pages (segment id, slot and generation, from 1 on, of each in turn), which are in other folders, to give them up. */
  ask(directory: string, folder: string, pages: readonly number[]): Promise<void>
  /** Asks the others to give space back, or no longer. */
  wants(directory: string, folder: string, wanted: boolean): Promise<void>
  /** The page records of a segment, 512 bytes each. */
  records(directory: string, folder: string, id: number): Promise<Uint8Array>
  /** Bytes on the disk of everything below `segments`, and how many living writers there are. A directory without segments has none. */
  usage(directory: string): Promise<{ readonly usedBytes: number; readonly writers: number }>
  /** Ends grants under way (ECANCELED) and gives the folder's lock back; a folder without segments is removed. */
  closeWriter(directory: string, folder: string, ownerFd: number): Promise<void>
}

export interface ObjectCredentials { readonly accessKey: string; readonly secretKey: string; readonly sessionToken: string }
export interface ObjectRequest {
  readonly method: 'GET' | 'HEAD' | 'PUT' | 'POST' | 'DELETE'
  /** Object key; '' = the bucket itself. */
  readonly key: string
  /** Query parameters, not encoded; '' as a value: the name alone (`uploads`). */
  readonly query?: Readonly<Record<string, string>>
  /** Beside host, date, authorization and the like. */
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Uint8Array
  /** All tries together. */
  readonly timeoutMs: number
  /** Default 3. */
  readonly retries?: number
}
export interface ObjectResponse {
  readonly status: number
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array
}
/**
 * Requests apart from pages: listings, deletes of many, probes. Never blocks the thread. A promise rejects when no answer came: with `code` ECURL, `curl` (CURLcode) and
 * libcurl's message; or ETIMEDOUT, ECANCELED (closed).
 */
export interface ObjectClient {
  request(request: ObjectRequest): Promise<ObjectResponse>
  /** Ends what is under way. Idempotent. */
  close(): void
}
export interface NativeObjects {
  /** Loads libcurl on first use. `path`: what was loaded; `version`: its own words. */
  curl(): { readonly usable: boolean; readonly path: string; readonly version: string; readonly reason: string; readonly remedy: string }
  /** Keys for endpoints, out of JavaScript's reach from then on. Without an id they get a new one; with one they replace the former. */
  setCredentials(credentials: ObjectCredentials, id?: number): number
  releaseCredentials(id: number): boolean
  readonly Client: new (endpoint: ObjectEndpoint) => ObjectClient
  /** Signature version 4, for the specs. `date` is `yyyymmddThhmmssZ`; `url` absolute, its path and query encoded already; `payloadHash` hex or UNSIGNED-PAYLOAD. */
  sign(request: {
    method: string; url: string; headers: Readonly<Record<string, string>>; payloadHash: string; region: string; service: string; date: string
    credentials: ObjectCredentials
    /** Each path segment is encoded once more (all services but S3). Default false. */
    doubleEncode?: boolean
  }): { readonly authorization: string; readonly canonicalRequest: string; readonly stringToSign: string }
}

/** What was found out about a library and what is behind it. `library`: the file that was loaded, '' = none; `version`: '' where it does not say. */
export interface LibraryReport { readonly usable: boolean; readonly library: string; readonly version: string; readonly reason: string; readonly remedy: string }

/** 3FS's client library. */
export interface NativeUsrbio {
  /** Writes and reads a block of a temporary file in the directory through a ring, on a native thread. `mountPoint` '' = whichever the directory lies on. */
  probe(directory: string, mountPoint: string): Promise<LibraryReport & { readonly mountPoint: string }>
  /** Memory that 3FS's side sees too, registered. Rejects with `code: 'ERR_PLUGIN_UNAVAILABLE'`. */
  allocate(mountPoint: string, bytes: number): Promise<{ readonly buffer: ArrayBuffer; readonly region: number }>
  /** Ends it: detaches the buffer, and forgets the region. */
  release(buffer: ArrayBuffer, region: number): void
}

/** NIXL's own library. */
export interface NativeNixl {
  /** Makes an agent with the plugin and ends it, on a native thread. `plugins`: all that the library lists. */
  probe(plugin: string, parameters: Readonly<Record<string, string>>): Promise<LibraryReport & {
    /** What the plugin moves; `files` where it can do both, or nothing is known of it. */
    readonly moves: 'files' | 'objects'
    readonly plugins: readonly { readonly name: string; readonly usable: boolean; readonly memories: readonly string[]; readonly reason: string }[]
  }>
}

/** cuFile. */
export interface NativeCufile {
  /** May hang for ever in the driver: for child processes alone. `modules`: what to read in place of /proc/modules. `mode`: whether data go from the disk to the GPU directly, or through memory of this host. */
  probe(modules?: string): LibraryReport & { readonly mode: 'gds' | 'compat' | 'unavailable' }
  /** Opens the driver, where a child process has found that it opens. False: it does not. */
  open(): Promise<boolean>
  /** What it said last, in any thread, of a transfer that it could not do, with what to do about it; empty when there was nothing. */
  latestFailure(): string
}

/** CUDA's driver. Addresses are those of a GPU's memory. What fails rejects with `code: 'ERR_DEVICE'`, and the driver's own name of the error in its message. */
export interface NativeCuda {
  /** Loads libcuda on a native thread. */
  probe(): Promise<LibraryReport & { readonly devices: number }>
  /** Memory of a GPU of our own, registered. */
  allocate(device: number, bytes: number): Promise<DeviceRegion>
  /** Memory of another process's, by the 64-byte handle of its allocation; `offset` bytes into that. */
  openHandle(handle: Uint8Array, device: number, offset: number, bytes: number): Promise<DeviceRegion>
  /** Memory that somebody else in this process has allocated, and keeps for as long as it is registered. */
  adopt(device: number, address: bigint, bytes: number): Promise<DeviceRegion>
  /** The handle of the allocation that a region lies in, and where it begins in that. */
  exportHandle(region: number): Promise<{ readonly handle: Uint8Array; readonly offset: number }>
  /** Nothing may be in flight. What was allocated or opened ends. */
  release(region: number): Promise<void>
  /** Between device memory and registered host memory, on a native thread; five numbers a copy: device region, offset in it, host region, offset in it, bytes. */
  copy(copies: Float64Array, toHost: boolean): Promise<void>
  /** Locks registered host memory for copies at full speed, until unpin(). False: the driver refuses, and copies are slower. */
  pin(hostRegion: number): Promise<boolean>
  unpin(hostRegion: number): Promise<boolean>
}
export interface DeviceRegion { readonly region: number; readonly address: bigint; readonly device: number }

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
  /** How often each fault has struck so far. */
  faultsStruck(): number[]
  /** Lets everything that hangs go on, and forgets all faults. Answers how often each fault struck. */
  clearFaults(): number[]
  /** For the trials of the specs; see addon/util/recorder.h. */
  readonly recorder: NativeRecorder
  /** The segment layout's folders. */
  readonly segments: NativeSegments
  /** Object stores. */
  readonly objects: NativeObjects
  readonly usrbio: NativeUsrbio
  readonly nixl: NativeNixl
  readonly cufile: NativeCufile
  readonly cuda: NativeCuda
  bench: NativeBench
}

/** A log of what is written, synchronised and named below one directory (an absolute path without links), and when. One at a time. */
export interface NativeRecorder {
  start(log: string, directory: string): void
  /** Words of the caller's, in their place in the log. */
  mark(text: string): void
  stop(): void
}

export interface BenchResult { readonly bytes: number; readonly seconds: number; readonly cpuSeconds: number; readonly latencyUs: Float64Array }
/** `latencyUs` are those of the reads, as long as all the writes were in flight. */
export interface MixResult extends BenchResult { readonly readBytes: number; readonly writeBytes: number; readonly writeLatencyUs: Float64Array }
export interface NativeBench {
  /**
   * The device's own limit: one native ring (or AIO where the ring is forbidden), O_DIRECT, extents written before, huge-page buffers,
   * sequential pages over `bytes` of one file at `directory`. The file is kept between calls under `.hicache-nixl-bench` and removed by `cleanup`.
   */
  deviceLimit(options: { directory: string; op: 'read' | 'write'; pageBytes: number; bytes: number; queueDepth: number }): Promise<BenchResult>
  /** A C++ loop over files as the file layout writes them (same trailer, temporary, link, threads), or reads of those files. */
  fileLoop(options: { directory: string; op: 'read' | 'write'; pageBytes: number; pages: number; threads: number; direct: boolean; replace: boolean }): Promise<BenchResult>
  /**
   * One native ring that reads and writes pages of the same file as deviceLimit, so many of each in flight all the time: writes one after the other, reads anywhere.
   * It ends when `bytes` are written; with no write in flight, when `bytes` are read.
   */
  mixLoop(options: { directory: string; pageBytes: number; bytes: number; writesInFlight: number; readsInFlight: number }): Promise<MixResult>
  cleanup(directory: string): Promise<void>
  /**
   * A plain C++ loop over an object store: one thread and one libcurl multi handle with `concurrency` requests under way, connections that are kept, requests signed as
   * the plugin signs them (signPayload), nothing above them: no metadata, no condition, no retry, no page checksum.
   *
   * put: objects PREFIX0 to PREFIX(pages - 1) of `pageBytes` each, every request from one of `concurrency` buffers. Bytes 0 to 7 of an object are its number,
   * little-endian; the rest is whatever the buffer was filled with before the clock started. get: the same objects into such buffers, each into its place as it
   * comes; status, length and number are compared. Buffers are filled and touched, and connections are opened, before the clock starts. The objects stay.
   *
   * `cpuSeconds` is the whole process's (as process.cpuUsage() counts it), `latencyUs` has one entry an object. Rejects with an Error whose message has the
   * HTTP status and the server's code, or libcurl's message, at the first request that fails; `code` is EIO.
   */
  curlLoop(options: { endpoint: ObjectEndpoint; op: 'put' | 'get'; pageBytes: number; pages: number; concurrency: number; prefix: string }): Promise<BenchResult>
}
