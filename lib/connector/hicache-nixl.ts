import { inspect } from 'node:util'
import { availableParallelism } from 'node:os'
import { HiCacheError, describe } from '../error.js'
import { NixlBackendConfig, type NixlBackendConfigInput } from '../config/nixl-backend-config.js'
import { KeyNames, checkKey } from '../keys/index.js'
import { Arena, type ArenaBacking } from '../memory/arena.js'
import { SlotTensor, type ArenaTensor } from '../memory/arena-tensor.js'
import { DTYPES, elementsOf, isDType, type DType } from '../memory/dtype.js'
import { defaultArenaBytes } from '../memory/memory-limit.js'
import { NixlRegistration, isShared, type NixlTuple, type Registrable } from '../memory/nixl-registration.js'
import { DeviceMemory, deviceError } from '../memory/device-memory.js'
import type { Pinnable } from '../memory/pinnable.js'
import { hostMemory, isDeviceBuffer, quote, type DeviceBuffer, type Source, type Target, type Tensor } from '../memory/tensor.js'
import { isTraced, traceTransfer, type TransferContext } from '../observe/channels.js'
import { Health, type HealthReport } from '../observe/health.js'
import { silentLogger, type Logger } from '../observe/logger.js'
import { Metrics, type Gauges } from '../observe/metrics.js'
import { nixlParameters, nixlPluginName } from '../selection/nixl-probe.js'
import { NixlBackendSelection } from '../selection/nixl-backend-selection.js'
import { FileLayout } from '../storage/file-layout.js'
import { chooseLayout } from '../storage/default-layout.js'
import { FileStore } from '../storage/file-store.js'
import { NixlPlace } from '../storage/object/nixl-place.js'
import { ObjectBucket } from '../storage/object/object-bucket.js'
import { ObjectLayout } from '../storage/object/object-layout.js'
import type { ObjectPlace } from '../storage/object/object-place.js'
import { ObjectStore } from '../storage/object/object-store.js'
import { SegmentStore } from '../storage/segment/segment-store.js'
import type { OpenedSegments } from '../storage/segment/segment-directory.js'
import type { Failure, ReadOutcome, WriteOutcome } from '../storage/outcome.js'
import type { PageInfo } from '../storage/page-info.js'
import type { GcReport, PageStore, PageToRead, PageToWrite, VerifyOptions, VerifyReport } from '../storage/page-store.js'
import { TIMEOUT_MS_MAX, throwIfAborted, type StoreParts } from '../storage/store-parts.js'
import { Batcher } from '../transfer/batcher.js'
import { CallScope, type CallOptions } from '../transfer/call-scope.js'
import { CompletionWords } from '../transfer/completion-words.js'
import { loadAddon } from '../transfer/load-addon.js'
import type { AgentOptions, DataPath, DevicePath, DeviceRegion, DirectoryReport, EngineName, NativeAddon, NixlAgentOptions, ObjectAgentOptions } from '../transfer/native-binding.js'
import { BLOCK_BYTES } from '../transfer/protocol.js'
import type { RequestMemory } from '../transfer/transfer-request.js'
import { WorkerPool } from '../transfer/worker-pool.js'
import { checkBytes, checkCallOptions, checkKeys, checkObject, checkPage, checkPages, checkPairs, checkSignal, isTarget } from './arguments.js'
import { DeviceTransfers, closed, type DevicePlace } from './device-transfers.js'
import { DirectoryWatch } from './directory-watch.js'
import { checkOpenOptions, type OpenOptions } from './open-options.js'
import { openStorageDirectory } from './storage-directory.js'
import { UNCHECKED_READS, type UncheckedReads } from './unchecked-reads.js'

const WORDS = 16_384
const GRACE_MS_DEFAULT = 5000
/** How long opening waits until the pages of other processes are known. */
const START_MS_MAX = 1000
/** How long an agent's end waits for the kernel; close() has waited before, so this is for workers that die. */
const DRAIN_MS = 250

/** What registerMemPoolHost() takes: `pageCount` pages of `pageBytes` each, one after the other. */
export interface MemPoolHost {
  /** Host memory; or device memory of this cache, or a part of that. */
  readonly buffer: SharedArrayBuffer | ArenaTensor | DeviceBuffer
  /** Bytes of one page, all its parts together. Multiples of 4096 a part go without a copy. */
  readonly pageBytes: number
  readonly pageCount: number
  /** 2: the first half of a page is its keys, the second its values, stored as `_k` and `_v`. 1: one part. Default 1. */
  readonly parts?: 1 | 2
}

interface MemPool { readonly registration: NixlRegistration; readonly part: (at: number, bytes: number) => Uint8Array | DeviceBuffer; readonly pageBytes: number; readonly pageCount: number; readonly parts: 1 | 2 }

interface Parts {
  readonly addon: NativeAddon; readonly config: NixlBackendConfig; readonly selection: NixlBackendSelection
  readonly directories: readonly DirectoryReport[]; readonly names: KeyNames; readonly options: OpenOptions; readonly logger: Logger
  /** Where pages go: files, segments, or objects of a bucket. */
  readonly segments: readonly OpenedSegments[] | null
  readonly place: ObjectBucket | NixlPlace | null
  readonly workers: number
  /** Memory for the arena that 3FS's side sees too; null: it makes its own. */
  readonly shared: ArenaBacking | null
}

/**
 * A cache of KV pages on storage. Open one per process and model rank with {@link HiCacheNixl.open}; it may be used from any async context of the thread that
 * opened it.
 *
 * Booleans and nulls tell the fate of pages: a page that cannot be stored or read is `false` or `null`, and write() and read() say why, a page at a time.
 * Only arguments (ERR_ARGUMENT, ERR_KEY), configuration (ERR_CONFIG, ERR_PLUGIN_UNAVAILABLE, ERR_ADDON) and a closed cache (ERR_CLOSED) throw.
 */
export class HiCacheNixl implements AsyncDisposable {
  readonly config: NixlBackendConfig
  readonly selection: {
    readonly plugin: string; readonly engine: string; readonly agent: string; readonly agentReason: string; readonly source: string
    readonly plugins: readonly { readonly name: string; readonly usable: boolean; readonly reason: string; readonly remedy: string }[]
  }
  /** None where pages are objects. */
  readonly directories: readonly DirectoryReport[]
  readonly storageLayout: 'file' | 'segment' | 'object'
  readonly #addon: NativeAddon
  readonly #names: KeyNames
  readonly #layout: FileLayout | ObjectLayout
  readonly #store: PageStore
  readonly #objects: ObjectPlace | null
  readonly #started: Promise<void>
  readonly #arena: Arena
  readonly #words: CompletionWords
  readonly #wordsRegion: number
  readonly #pool: WorkerPool
  readonly #batcher: Batcher
  readonly #metrics: Metrics
  readonly #health = new Health()
  readonly #watch: DirectoryWatch
  readonly #logger: Logger
  readonly #inFlightBytesMax: number
  readonly #timeoutMs: number
  readonly #registrations = new Set<NixlRegistration>()
  readonly #deviceMemory = new Set<DeviceMemory>()
  readonly #devices: DeviceTransfers
  /** Reads go to GPUs directly, past this host's memory. */
  readonly #directToDevice: boolean
  /** Device memory that is on its end. */
  readonly #ending = new Set<Promise<void>>()
  #memPool: MemPool | null = null
  #stage: 'open' | 'closing' | 'closed' = 'open'
  #closed: Promise<void> | null = null

  /**
   * Opens a cache. The directories are made if need be, tried with real I/O, and swept of what dead writers left. With plugin obj there are none: the bucket is asked for once, and one that
   * does not answer is a warning.
   *
   * @throws {HiCacheError} ERR_ARGUMENT, ERR_CONFIG, ERR_PLUGIN_UNAVAILABLE, ERR_ADDON, ERR_IO (a directory that cannot be used), ERR_CANCELLED.
   */
  static async open(options: OpenOptions = {}): Promise<HiCacheNixl> {
    checkOpenOptions(options)
    const names = new KeyNames(options)
    const { plugin, env } = options
    const input: NixlBackendConfigInput = {
      config: options.config, env, plugin, engine: options.engine,
      overrides: {
        storageDir: options.storageDir, storageLayout: options.storageLayout, directoryScheme: options.directoryScheme, modelName: options.modelName,
        capacity: options.capacity, evictionPolicy: options.evictionPolicy, fsync: options.fsync, segmentBytes: options.segmentBytes, leaseMs: options.leaseMs,
        fingerprint: options.fingerprint, agent: options.agent, workers: options.workers, threads: options.threads, queueDepth: options.queueDepth,
        arenaBytes: options.arenaBytes, inFlightBytesMax: options.inFlightBytesMax, whenFull: options.whenFull, timeoutMs: options.timeoutMs,
        acceptUnverified: options.acceptUnverified, verifyVram: options.verifyVram, useDirectIo: options.useDirectIo, objectPrefix: options.objectPrefix, objectProxy: options.objectProxy, objectSignPayload: options.objectSignPayload
      }
    }
    // As they are written: a mount that hangs must not hold this thread up. Where they lead is asked once all have answered.
    const config = NixlBackendConfig.load({ ...input, realPath: path => path })
    const addon = loadAddon()
    const selection = await NixlBackendSelection.select(config, addon)
    const logger = options.logger ?? silentLogger
    const scheme = config.options.modelName === '' || options.modelName !== undefined ? names : new KeyNames({ ...options, modelName: config.options.modelName })
    if (selection.objects) return await HiCacheNixl.#openObjects({ addon, config, selection, names: scheme, options, logger })
    const probed = await Promise.all(config.storageDirs.map(path => openStorageDirectory(path, addon, options.signal)))
    const directories = selection.plugin === '3fs' ? probed.map(withoutDirectIo) : probed
    checkDistinct(config, directories, input)
    throwIfAborted(options.signal)
    const { layout, reason } = chooseLayout({ configured: config.options.storageLayout, storageDirVariable: config.storageDirVariable, directories })
    logger.debug(`Pages are stored in the ${layout} layout: ${reason}`)
    const segments = layout === 'segment' ? await SegmentStore.openDirectories(directories, addon, { prefill: selection.plugin !== '3fs' }) : null
    let shared: Parts['shared'] = null
    try {
      throwIfAborted(options.signal)
      const workers = config.options.workers ?? Math.min(2, availableParallelism())
      shared = await sharedMemoryOf(config, selection, addon)
      const cache = new HiCacheNixl({ addon, config, selection, directories, names: scheme, options, logger, segments, place: null, workers, shared })
      // Its own from here on.
      shared = null
      await settledWithin(cache.#started, START_MS_MAX)
      return cache
    } catch (error) {
      shared?.release()
      if (segments) await SegmentStore.closeDirectories(segments)
      throw error
    }
  }

  static async #openObjects(parts: Omit<Parts, 'directories' | 'segments' | 'place' | 'workers' | 'shared'>): Promise<HiCacheNixl> {
    const { config, addon, selection, logger, options } = parts
    // One event loop and one agent carry more than a network: the agent has threads of its own.
    const workers = config.options.workers ?? 1
    if (config.options.storageLayout !== null) logger.warn(`storage_layout has no effect with plugin ${selection.plugin}: a page is an object.`)
    if (config.storageDirSource === 'option' || config.storageDirSource === 'config') logger.warn(`storage_dir has no effect with plugin ${selection.plugin}: pages are objects.`)
    const place = selection.agent === 'nixl' ? await nixlPlace(parts, workers) : await ObjectBucket.open(config, addon.objects, { agents: workers, logger })
    if ('reason' in place) throw new HiCacheError('ERR_PLUGIN_UNAVAILABLE', `Plugin obj cannot be used: ${place.reason} (${place.remedy}).`)
    try {
      throwIfAborted(options.signal)
      return new HiCacheNixl({ ...parts, directories: [], segments: null, place, workers, shared: null })
    } catch (error) {
      place.close()
      throw error
    }
  }

  private constructor(parts: Parts) {
    const { addon, config, selection, directories, names, logger, segments, place, workers, shared } = parts
    const settings = config.options
    const engine = selection.engine
    this.config = config
    this.directories = directories
    this.#addon = addon
    this.#names = names
    this.#objects = place
    this.#logger = logger
    this.#timeoutMs = settings.timeoutMs
    this.storageLayout = place ? 'object' : segments ? 'segment' : 'file'
    this.selection = Object.freeze({
      plugin: selection.plugin, engine, agent: selection.agent, agentReason: selection.agentReason, source: selection.source, plugins: Object.freeze([...selection.plugins])
    })
    for (const warning of selection.warnings) logger.warn(warning)

    this.#arena = new Arena(settings.arenaBytes ?? defaultArenaBytes(), addon, shared)
    this.#inFlightBytesMax = settings.inFlightBytesMax ?? Math.floor(this.#arena.bytes / 4) * 3
    this.#words = new CompletionWords(WORDS)
    // Registered, so that a thread that reaps for a dead worker asks first whether they are still there.
    this.#wordsRegion = addon.registerMemory(new Uint8Array(this.#words.shared.buffer))
    const namespace = { suffix: names.suffix, fingerprint: settings.fingerprint }
    const files = new FileLayout(namespace, directories.length, settings.directoryScheme)
    const objects = place ? new ObjectLayout(namespace, settings.objectPrefix) : null
    this.#layout = objects ?? files
    this.#metrics = new Metrics({ plugin: selection.plugin, engine, layout: this.storageLayout }, () => this.#gauges(), () => this.#store.gauges())
    const agent: AgentOptions = place ? { ...objectAgentOf(config, selection, place), words: this.#words.shared, drainMs: DRAIN_MS } : {
      plugin: 'POSIX',
      engine: engine as EngineName,
      ...dataPathOf(config, selection, workers),
      directories: directories.map(({ realPath, direct, engine: engineFits }, i) => ({
        path: realPath, direct: direct && settings.useDirectIo, engine: direct && settings.useDirectIo && engineFits,
        ...(segments && segments[i]!.ownerFd >= 0 ? { holdFd: segments[i]!.ownerFd } : {})
      })),
      words: this.#words.shared,
      queueDepth: settings.queueDepth,
      threads: Math.max(1, Math.ceil(settings.threads / workers)),
      drainMs: DRAIN_MS
    }
    this.#pool = new WorkerPool(workers, agent, error => this.#onWorkerDeath(error), () => this.#health.clear('workers'))
    this.#watch = place ? new DirectoryWatch([place.name], this.#health, 'endpoint') : new DirectoryWatch(directories.map(({ realPath }) => realPath), this.#health)
    this.#batcher = new Batcher({
      arena: this.#arena, words: this.#words, pool: this.#pool, addon, layout: this.#layout, metrics: this.#metrics,
      inFlightBytesMax: this.#inFlightBytesMax, whenFull: settings.whenFull, onDirectory: this.#watch.hear
    }, place ? 1 : directories.length)
    const store: StoreParts = {
      uncheckedReads: (parts.options as UncheckedReads)[UNCHECKED_READS] === true,
      addon, directories, settings, names, arena: this.#arena, batcher: this.#batcher, pool: this.#pool, metrics: this.#metrics, health: this.#health, logger,
      unavailable: directory => this.#watch.unavailable(directory),
      unavailableReason: directory => this.#watch.reason(directory),
      scope: options => this.#scope(options),
      within: (work, options) => this.#within(work, options),
      stage: () => this.#stage
    }
    this.#store = place && objects ? new ObjectStore(store, objects, place) : segments ? new SegmentStore(store, files, segments) : new FileStore(store, files)
    for (const { path, writable, direct, directReason } of directories) {
      if (!writable) this.#health.raise(`read-only:${path}`, `The storage directory ${path} cannot be written: pages are read, and every write fails.`)
      if (settings.useDirectIo && !direct) logger.info(`No O_DIRECT in ${path}: ${directReason}. Pages go through the page cache there.`)
    }
    this.#devices = new DeviceTransfers({
      arena: this.#arena, cuda: addon.cuda,
      write: (scope, pages, end) => {
        this.#store.write(scope, pages, 1, end)
        this.#watchScope(scope)
      },
      read: (scope, pages, end) => {
        this.#store.read(scope, pages, 1, end)
        this.#watchScope(scope)
      }
    })
    // Bytes that go past this host cannot be compared with their checksum.
    this.#directToDevice = agent.plugin === 'POSIX' && agent.devicePath !== undefined && !settings.verifyVram && settings.acceptUnverified
    // So that device memory is known to cuFile from the first on.
    if (this.#directToDevice) void addon.cufile.open().catch(() => false)
    // Not waited for: pages can move before every huge page is touched.
    void this.#arena.populate().catch((error: unknown) => logger.debug('The arena could not be populated.', { error: String(error) }))
    this.#started = this.#store.start()
  }

  // Pages ------------------------------------------------------------------------------------------------------------------------------

  /** Stores a page; a page of the same key is replaced as a whole. False: it is not stored (write() says why). */
  async set(key: string, source: Source, options?: CallOptions): Promise<boolean> {
    return (await this.#write([[key, source]], options))[0]!.ok
  }

  /**
   * Reads a page: into `target` (host memory of the page's exact length, which is then the answer), or without one into ordinary memory of its own, which
   * nobody has to release. null: it is not there, or not to be had (read() says why).
   */
  get(key: string, options?: CallOptions): Promise<Tensor | null>
  get<T extends Target>(key: string, target: T, options?: CallOptions): Promise<T | null>
  async get(key: string, second?: Target | CallOptions, third?: CallOptions): Promise<unknown> {
    const [outcome] = isTarget(second) ? await this.#read([[key, second]], third, 'fresh') : await this.#read([[key, undefined]], second, 'fresh')
    return outcome!.ok ? outcome!.value : null
  }

  /** Reads a page into arena memory, without a copy. Release the tensor when done with it. */
  async getInArena(key: string, options?: CallOptions): Promise<ArenaTensor | null> {
    const [outcome] = await this.#read([[key, undefined]], options, 'arena')
    return outcome!.ok ? outcome!.value as ArenaTensor : null
  }

  /** As set(), for pages `keys[i]` and `sources[i]`. Of two with one key the later wins. */
  async batchSet(keys: readonly string[], sources: readonly Source[], options?: CallOptions): Promise<boolean[]> {
    checkPairs(keys, sources, 'sources')
    return (await this.#write(keys.map((key, i) => [key, sources[i]!] as const), options)).map(outcome => outcome.ok)
  }

  /** As get(), an answer a key. */
  batchGet(keys: readonly string[], options?: CallOptions): Promise<(Tensor | null)[]>
  batchGet<T extends Target>(keys: readonly string[], targets: readonly T[], options?: CallOptions): Promise<(T | null)[]>
  async batchGet(keys: readonly string[], second?: readonly Target[] | CallOptions, third?: CallOptions): Promise<unknown[]> {
    checkKeys(keys)
    const targets = Array.isArray(second) ? second as readonly Target[] : null
    if (targets) checkPairs(keys, targets, 'targets')
    const pages = keys.map((key, i) => [key, targets?.[i]] as const)
    const outcomes = await this.#read(pages, targets ? third : second as CallOptions | undefined, 'fresh')
    return outcomes.map(outcome => outcome.ok ? outcome.value : null)
  }

  /** Stores pages; an outcome a page, in their order. Never rejects because of a page. */
  write(pages: Iterable<readonly [string, Source]>, options?: CallOptions): Promise<WriteOutcome[]> {
    return this.#write(pages, options)
  }

  /** Reads pages, each into its target or, without one, into memory of its own; an outcome a page, in their order. Never rejects because of a page. */
  read<T extends Target = Tensor>(pages: Iterable<string | readonly [string, T]>, options?: CallOptions): Promise<ReadOutcome<T>[]> {
    return this.#read(pages, options, 'fresh') as Promise<ReadOutcome<T>[]>
  }

  /** Is the page there, under this cache's identity? Its record is read and checked, its payload is not. False also when it cannot be told. */
  async exists(key: string, options?: CallOptions): Promise<boolean> {
    return await this.batchExists([key], options) === 1
  }

  /** Length of the leading run of keys that are there. With a memory pool registered, keys are its pages (all their parts). */
  async batchExists(keys: readonly string[], options?: CallOptions): Promise<number> {
    checkKeys(keys)
    this.#checkOpen()
    const scope = this.#scope(options)
    const heard = this.#heardOf(keys, scope)
    if (heard && !await heard) return 0
    return await this.#store.leading(keys, this.#tails(), scope)
  }

  /** Removes a page. False: it was not there, or is not this cache's. */
  async delete(key: string, options?: CallOptions): Promise<boolean> {
    this.#checkOpen()
    const storedKeys = this.#pageNames(key)
    const scope = this.#scope(options)
    const heard = this.#heardOf([key], scope)
    if (heard && !await heard) return false
    return await this.#store.remove(storedKeys, scope)
  }

  /** Removes the pages of this cache's own namespace, told by the identity in their records: never another model's, never a file without a record. */
  async clear(options?: CallOptions): Promise<{ deleted: number }> {
    this.#checkOpen()
    checkCallOptions(options)
    return await this.#store.clear(options)
  }

  // Memory -----------------------------------------------------------------------------------------------------------------------------

  /** Arena memory: zero copy as source and as target. Zeroed at first use only. Throws ERR_REJECTED when callers hold two thirds of the arena already. */
  allocate(spec: { dtype: DType; shape: readonly number[] }): ArenaTensor {
    this.#checkOpen()
    checkObject(spec, 'allocate() takes { dtype, shape }')
    const { dtype, shape } = spec
    if (!isDType(dtype)) throw new HiCacheError('ERR_ARGUMENT', `allocate() takes a dtype of ${Object.keys(DTYPES).join(', ')}; got ${describe(dtype)}.`)
    const bytes = elementsOf(shape) * DTYPES[dtype].bytes
    if (bytes === 0) throw new HiCacheError('ERR_ARGUMENT', `allocate() takes a shape with at least one element; got [${shape.join(', ')}].`)
    const slot = this.#arena.mayHold(bytes) ? this.#arena.allocate(bytes) : null
    if (!slot) {
      throw new HiCacheError('ERR_REJECTED',
        `The arena has no ${bytes} bytes for a caller: ${this.#arena.heldBytes} of at most ${this.#arena.heldBytesMax} are held. Release arena tensors, or raise arenaBytes.`)
    }
    return new SlotTensor(slot, this.#arena.buffer, dtype, shape)
  }

  /** Registers shared host memory (DRAM), so that transfers use it without a copy. Release it when done. */
  registerBuffers(buffers: readonly Registrable[]): NixlRegistration {
    this.#checkOpen()
    const registration = NixlRegistration.ofBuffers(buffers, this.#addon, () => { this.#registrations.delete(registration) }, this.#arena)
    this.#registrations.add(registration)
    return registration
  }

  /** Describes files by NIXL tuples (NixlFileManager.filesToNixlTuples()). */
  registerFiles(tuples: readonly NixlTuple[]): NixlRegistration {
    this.#checkOpen()
    return NixlRegistration.ofFiles(tuples)
  }

  /**
   * Memory of a GPU of this machine, for pages that go to it or come from it. Release it when done.
   * @throws {HiCacheError} ERR_ARGUMENT; ERR_IO: there is no GPU, or it has no such memory left.
   */
  async allocDeviceBuffer(spec: { length: number; deviceId?: number }): Promise<DeviceMemory> {
    checkObject(spec, 'allocDeviceBuffer() takes { length, deviceId }')
    const { length, deviceId = 0 } = spec
    return await this.#makeDeviceMemory(length, `GPU ${deviceId} gives no ${length} bytes of memory`, async () => await this.#addon.cuda.allocate(deviceId, length))
  }

  /**
   * Memory of a GPU that another process of this machine has allocated and shared by CUDA IPC, such as the KV pool of an inference server. `handle`: the 64 bytes that cuIpcGetMemHandle gave there;
   * they stand for the whole allocation, so `offset` (default 0) says where in it the memory begins. Release it when done; it must not be used after the other process has freed it.
   * @throws {HiCacheError} ERR_ARGUMENT; ERR_IO: the driver does not open it.
   */
  async openDeviceBuffer(spec: { handle: Uint8Array; length: number; offset?: number; deviceId?: number }): Promise<DeviceMemory> {
    checkObject(spec, 'openDeviceBuffer() takes { handle, length, offset, deviceId }')
    const { handle, length, offset = 0, deviceId = 0 } = spec
    return await this.#makeDeviceMemory(length, 'The memory of the other process cannot be opened', async () => await this.#addon.cuda.openHandle(handle, deviceId, offset, length))
  }

  /**
   * Memory of a GPU that something else in this process has allocated, and keeps until it is released here. The driver is asked whether it is what it is said to be.
   * @throws {HiCacheError} ERR_ARGUMENT; ERR_IO: it is not memory of that GPU.
   */
  async registerDeviceBuffer(spec: { address: bigint; length: number; deviceId?: number }): Promise<DeviceMemory> {
    checkObject(spec, 'registerDeviceBuffer() takes { address, length, deviceId }')
    const { address, length, deviceId = 0 } = spec
    if (typeof address !== 'bigint') throw new HiCacheError('ERR_ARGUMENT', `address is a bigint; got ${describe(address)}.`)
    return await this.#makeDeviceMemory(length, `0x${address.toString(16)} cannot be registered`, async () => await this.#addon.cuda.adopt(deviceId, address, length))
  }

  /** Registers the host pool that batchSetV1() and batchGetV1() move pages of. One at a time. */
  registerMemPoolHost(pool: MemPoolHost): NixlRegistration {
    this.#checkOpen()
    checkObject(pool, 'registerMemPoolHost() takes { buffer, pageBytes, pageCount, parts }')
    const { buffer, pageBytes, pageCount, parts = 1 } = pool
    if (this.#memPool) throw new HiCacheError('ERR_ARGUMENT', 'A memory pool is registered already: release its registration first.')
    for (const [name, value] of [['pageBytes', pageBytes], ['pageCount', pageCount]] as const) {
      if (!Number.isSafeInteger(value) || value < 1) throw new HiCacheError('ERR_ARGUMENT', `${name} is a whole number from 1; got ${describe(value)}.`)
    }
    if (parts !== 1 && parts !== 2) throw new HiCacheError('ERR_ARGUMENT', `parts is 1 or 2; got ${describe(parts)}.`)
    if (pageBytes % parts !== 0) throw new HiCacheError('ERR_ARGUMENT', `pageBytes of ${pageBytes} cannot be halved into 2 parts.`)
    const enough = (bytes: number): void => {
      if (bytes < pageBytes * pageCount) throw new HiCacheError('ERR_ARGUMENT', `The pool's buffer has ${bytes} bytes; ${pageCount} pages of ${pageBytes} take ${pageBytes * pageCount}.`)
    }
    if (isDeviceBuffer(buffer)) {
      const { memory } = this.#devicePlace(buffer, 'source', 'the memory pool')
      try {
        enough(buffer.length)
        const { address, deviceId } = buffer
        const registration = NixlRegistration.ofDevice(memory, buffer, () => {
          this.#registrations.delete(registration)
          if (this.#memPool?.registration === registration) this.#memPool = null
        })
        this.#registrations.add(registration)
        this.#memPool = { registration, part: (at, length) => ({ type: 'VRAM', deviceId, address: address + BigInt(at), length }), pageBytes, pageCount, parts }
        return registration
      } finally {
        memory.unpin()
      }
    }
    const view = isShared(buffer) ? new Uint8Array(buffer) : hostMemory(buffer, 'source', 'the memory pool').bytes
    enough(view.byteLength)
    const owner = isShared(buffer) ? null : this.#arenaSlot(view, null)
    owner?.pin()
    const registration = NixlRegistration.ofBuffers([view], this.#addon, () => {
      this.#registrations.delete(registration)
      if (this.#memPool?.registration === registration) this.#memPool = null
      owner?.unpin()
    }, this.#arena)
    this.#registrations.add(registration)
    this.#memPool = { registration, part: (at, bytes) => view.subarray(at, at + bytes), pageBytes, pageCount, parts }
    return registration
  }

  /** Stores pages of the registered pool: page `pageIndices[i]` under the page hash `keys[i]`. True when all parts of the page are stored. */
  async batchSetV1(keys: readonly string[], pageIndices: readonly number[], options?: CallOptions): Promise<boolean[]> {
    return await this.#moveV1(keys, pageIndices, async pages => (await this.#write(pages, options, true, this.#memPool?.parts)).map(outcome => outcome.ok))
  }

  /** Reads pages into the registered pool. A page's bytes are defined only when its answer is true. */
  async batchGetV1(keys: readonly string[], pageIndices: readonly number[], options?: CallOptions): Promise<boolean[]> {
    return await this.#moveV1(keys, pageIndices, async pages => (await this.#read(pages, options, 'fresh', true, this.#memPool?.parts)).map(outcome => outcome.ok))
  }

  // State ------------------------------------------------------------------------------------------------------------------------------

  health(): HealthReport { return this.#health.report() }
  /** Counters and gauges as flat numbers; docs/observability.md lists the names. */
  stats(): Readonly<Record<string, number>> { return this.#metrics.stats() }
  /** The same as Prometheus text. */
  metrics(): string { return this.#metrics.text() }

  /** Would a transfer of `bytes` go now, without waiting? */
  ready(bytes: number): boolean {
    checkBytes(bytes)
    return this.#stage === 'open' && bytes <= this.#inFlightBytesMax && this.#batcher.hasRoom(bytes)
  }

  /** Resolves when ready(bytes) holds. Rejects with ERR_REJECTED for more than can ever be in flight, ERR_TIMEOUT, ERR_CANCELLED, ERR_CLOSED. */
  async whenReady(bytes: number, options?: CallOptions): Promise<void> {
    checkBytes(bytes)
    this.#checkOpen()
    if (bytes > this.#inFlightBytesMax) {
      throw new HiCacheError('ERR_REJECTED', `${bytes} bytes are more than the limit of ${this.#inFlightBytesMax} bytes in flight (inFlightBytesMax).`)
    }
    await this.#within(this.#batcher.room(bytes), options)
    this.#checkOpen()
  }

  /** Resolves when everything that was asked for so far has settled. */
  async flush(options?: CallOptions): Promise<void> {
    this.#checkOpen()
    await this.#within(Promise.all([this.#batcher.idle(), this.#devices.idle()]), options)
  }

  /**
   * Closes the cache: new calls throw ERR_CLOSED, what is under way gets `graceMs` (default 5000) to end and is cancelled then. Resolves within the grace and
   * the time that ending the threads takes (a quarter of a second more where the kernel does not let go). Idempotent.
   */
  close(options: { graceMs?: number } = {}): Promise<void> {
    checkObject(options, 'close() takes { graceMs }')
    const { graceMs = GRACE_MS_DEFAULT } = options
    if (!Number.isFinite(graceMs) || graceMs < 0) throw new HiCacheError('ERR_ARGUMENT', `graceMs is a number from 0; got ${describe(graceMs)}.`)
    this.#closed ??= this.#close(Math.min(graceMs, TIMEOUT_MS_MAX))
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> { return this.close() }

  [inspect.custom](): string {
    return `HiCacheNixl { plugin: '${this.selection.plugin}', engine: '${this.selection.engine}', layout: '${this.storageLayout}', ` +
      `${this.#objects ? `bucket: ${this.#objects.name}` : `directories: [${this.directories.map(({ path }) => path).join(', ')}]`}, status: '${this.health().status}' }`
  }

  // Housekeeping -----------------------------------------------------------------------------------------------------------------------

  /** The pages of this cache's namespace, folder by folder. Pages written or removed meanwhile may or may not be among them. */
  async * entries(): AsyncGenerator<PageInfo, void, undefined> {
    this.#checkOpen()
    yield * this.#store.entries()
  }

  /** What is stored under a key, without reading its payload; null when there is nothing of this cache's. */
  async stat(key: string, options?: CallOptions): Promise<PageInfo | null> {
    this.#checkOpen()
    return await this.#store.stat(this.#storedKey(key), this.#scope(options))
  }

  /**
   * Reads every page of this namespace and checks it. Corrupt ones are removed when `drop` is true (default: false: only reported).
   * `bytesPerSecond` limits the reading.
   */
  async verify(options: VerifyOptions = {}): Promise<VerifyReport> {
    this.#checkOpen()
    checkObject(options, 'verify() takes { bytesPerSecond, drop, onProgress, signal }')
    const { bytesPerSecond = Infinity, signal } = options
    if (!(bytesPerSecond > 0)) throw new HiCacheError('ERR_ARGUMENT', `bytesPerSecond is a number above 0; got ${describe(bytesPerSecond)}.`)
    checkSignal(signal)
    return await this.#store.verify(options)
  }

  /** Removes what dead writers left, and lets the l3 cleaner pass once where it is configured. */
  async gc(): Promise<GcReport> {
    this.#checkOpen()
    return await this.#store.gc()
  }

  // Inside -----------------------------------------------------------------------------------------------------------------------------

  /** `named`: the keys are stored keys already. `stride`: see PageStore.write(). Arguments are checked before anything starts; what is wrong with them becomes a rejection. */
  #write(pages: Iterable<readonly [string, Source]>, options?: CallOptions, named = false, stride = 1): Promise<WriteOutcome[]> {
    try {
      this.#checkOpen()
      const scope = this.#scope(options)
      checkPages(pages)
      const taken = taking(pages, page => this.#takeWrite(page, named))
      const run = (): Promise<WriteOutcome[]> => new Promise(resolve => { this.#writeTaken(scope, taken, stride, resolve) })
      if (!isTraced('write')) return run()
      const context: TransferContext = { op: 'write', pages: taken.length, bytes: taken.reduce((sum, { length }) => sum + length, 0) }
      return traceTransfer('write', context, async () => {
        const outcomes = await run()
        context.outcomes = tally(outcomes)
        return outcomes
      })
    } catch (error) {
      return rejected(error)
    }
  }

  #writeTaken(scope: CallScope, taken: readonly Pinned<PageToWrite>[], stride: number, resolve: (outcomes: WriteOutcome[]) => void): void {
    const settled = new Array<WriteOutcome>(taken.length)
    let left = taken.length
    if (left === 0) resolve(settled)
    const end = (i: number, outcome: WriteOutcome): void => {
      const { pinned, length } = taken[i]!
      pinned?.unpin()
      settled[i] = outcome
      this.#metrics.page('write', outcome.status, length, (performance.now() - scope.madeAt) / 1000)
      if (--left === 0) resolve(settled)
    }
    if (this.#names.backupSkip) {
      taken.forEach(({ key, length }, i) => { end(i, { ok: true, status: 'backup-skip', key, byteLength: length }) })
      return
    }
    this.#dispatch(scope, taken, {
      store: (pages, places) => { this.#store.write(scope, pages, stride, places ? (i, outcome) => { end(places[i]!, outcome) } : end) },
      stage: places => { this.#devices.write(scope, places.map(i => taken[i]!), places.map(i => taken[i]!.device!), places, end) },
      fail: end
    })
  }

  #read(pages: Iterable<string | readonly [string, Target | undefined]>, options: CallOptions | undefined, into: 'fresh' | 'arena', named = false, stride = 1): Promise<ReadOutcome<Target>[]> {
    try {
      this.#checkOpen()
      const scope = this.#scope(options)
      checkPages(pages)
      const taken = taking(pages, page => this.#takeRead(page, into, named))
      if (!isTraced('read')) return new Promise(resolve => { this.#readTaken(scope, taken, stride, resolve) })
      const context: TransferContext = { op: 'read', pages: taken.length, bytes: taken.reduce((sum, { host }) => sum + (host?.bytes.byteLength ?? 0), 0) }
      return traceTransfer('read', context, async () => {
        const outcomes = await new Promise<ReadOutcome<Target>[]>(resolve => {
          this.#readTaken(scope, taken, stride, (settled, bytes) => {
            context.bytes = bytes
            resolve(settled)
          })
        })
        context.outcomes = tally(outcomes)
        return outcomes
      })
    } catch (error) {
      return rejected(error)
    }
  }

  /** `resolve` gets the bytes of the pages that were hits, too. */
  #readTaken(scope: CallScope, taken: readonly Pinned<PageToRead>[], stride: number, resolve: (outcomes: ReadOutcome<Target>[], bytes: number) => void): void {
    const settled = new Array<ReadOutcome<Target>>(taken.length)
    let bytes = 0
    let left = taken.length
    if (left === 0) resolve(settled, 0)
    const end = (i: number, outcome: ReadOutcome<Target>, length: number): void => {
      taken[i]!.pinned?.unpin()
      settled[i] = taken[i]!.unchecked && !outcome.ok && outcome.status === 'failed' ? this.#withDeviceCause(outcome) : outcome
      bytes += outcome.ok ? length : 0
      this.#metrics.page('read', outcome.status === 'miss' ? outcome.reason : outcome.status, length, (performance.now() - scope.madeAt) / 1000)
      if (--left === 0) resolve(settled, bytes)
    }
    this.#dispatch(scope, taken, {
      store: (pages, places) => { this.#store.read(scope, pages, stride, places ? (i, outcome, length) => { end(places[i]!, outcome, length) } : end) },
      stage: places => { this.#devices.read(scope, places.map(i => taken[i]!), places.map(i => taken[i]!.device!), places, end) },
      fail: (i, failure) => { end(i, failure, 0) }
    })
  }

  /** Pages in the host's memory go to storage, those in a device's are staged. `places`: where the pages stand in the call; null: all of them, as they are. */
  #dispatch<Page extends Pinned<PageToWrite> | Pinned<PageToRead>>(scope: CallScope, taken: readonly Page[], to: {
    readonly store: (pages: readonly Page[], places: readonly number[] | null) => void
    readonly stage: (places: readonly number[]) => void
    readonly fail: (place: number, failure: Cancelled) => void
  }): void {
    const store = (pages: readonly Page[], places: readonly number[] | null): void => {
      to.store(pages, places)
      this.#watchScope(scope)
    }
    const staged = taken.some(onDevice)
    if (!staged && this.#devices.quiet) return store(taken, null)
    const placesWhere = (device: boolean): number[] => taken.flatMap((page, i) => onDevice(page) === device ? [i] : [])
    const places = staged ? placesWhere(false) : null
    this.#inOrder(places ? places.map(i => taken[i]!) : taken, pages => { store(pages, places) }, (i, failure) => { to.fail(places ? places[i]! : i, failure) })
    if (staged) to.stage(placesWhere(true))
  }

  /** An agent tells an errno; what cuFile has said of it goes into the message. */
  #withDeviceCause(outcome: Failure): Failure {
    const said = outcome.error.code === 'ERR_IO' ? this.#addon.cufile.latestFailure() : ''
    if (said === '') return outcome
    const { message, errno, cause } = outcome.error
    return { ...outcome, error: new HiCacheError('ERR_IO', `${message} What cuFile said last: ${said}.`, { key: outcome.key, ...errno === undefined ? {} : { errno }, ...cause === undefined ? {} : { cause } }) }
  }

  /**
   * Does storage know, within the deadline, of the writes from GPUs that were asked for before for these keys? From there on a page that is being written counts as done. Null: there are none, and
   * the call goes on at once, for a turn's delay would let later calls overtake it.
   */
  #heardOf(keys: readonly string[], scope: CallScope): Promise<boolean> | null {
    if (keys.length === 0 || this.#devices.quiet) return null
    const before = this.#devices.before(keys.flatMap(key => this.#pageNames(key)).map(storedKey => ({ storedKey })))
    return before && settledWithin(before, scope.msLeft).then(heard => {
      if (this.#devices.stopped) throw closed(keys[0]!)
      return heard
    })
  }

  /** Starts at once, or when storage knows of the writes from GPUs that were asked for before for one of these pages. */
  #inOrder<Page extends { readonly key: string; readonly storedKey: string }>(pages: readonly Page[], start: (pages: readonly Page[]) => void, end: (index: number, failure: Cancelled) => void): void {
    const before = this.#devices.before(pages)
    if (!before) return start(pages)
    void before.then(() => {
      if (!this.#devices.stopped) return start(pages)
      pages.forEach(({ key }, i) => { end(i, { ok: false, status: 'cancelled', key, error: closed(key) }) })
    })
  }

  #takeWrite(page: readonly [string, Source], named: boolean): Pinned<PageToWrite> {
    if (!Array.isArray(page)) throw new HiCacheError('ERR_ARGUMENT', `A page to write is [key, source]; got ${describe(page)}.`)
    const [key, source] = page as unknown as readonly [string, Source]
    const storedKey = named ? key : this.#storedKey(key)
    if (isDeviceBuffer(source)) {
      const device = this.#devicePlace(source, 'source', key)
      let meaning: ReturnType<typeof deviceMeaning>
      try {
        meaning = deviceMeaning(source, key)
      } catch (error) {
        device.memory.unpin()
        throw error
      }
      const { dtype, shape } = meaning
      return { key, storedKey, directory: this.#layout.directoryOf(storedKey), dtype, shape, length: source.length, memory: NO_MEMORY, pinned: device.memory, device }
    }
    const { bytes, dtype, shape } = hostMemory(source, 'source', key)
    return this.#place({ key, storedKey, directory: this.#layout.directoryOf(storedKey), dtype, shape, length: bytes.byteLength, memory: NO_MEMORY, pinned: null, device: null }, bytes, 'copy-in')
  }

  #takeRead(page: string | readonly [string, Target | undefined], into: 'fresh' | 'arena', named: boolean): Pinned<PageToRead> {
    const [key, target] = typeof page === 'string' ? [page, undefined] : checkPage(page)
    const storedKey = named ? key : this.#storedKey(key)
    if (isDeviceBuffer(target)) {
      const device = this.#devicePlace(target, 'target', key)
      const { memory, offset } = device
      const common = { key, storedKey, directory: this.#layout.directoryOf(storedKey), target, host: null, exactLength: target.length, pinned: memory }
      if (!this.#directToDevice) return { ...common, unchecked: false, memory: NO_MEMORY, device }
      return { ...common, unchecked: true, memory: { kind: 'direct', region: memory.region, offset, owner: memory }, device: null }
    }
    const host = target === undefined ? null : hostMemory(target, 'target', key)
    const taken: Pinned<PageToRead> = { key, storedKey, directory: this.#layout.directoryOf(storedKey), target, host, exactLength: host?.bytes.byteLength ?? null, unchecked: false, memory: into === 'fresh' ? FRESH : INTO_ARENA, pinned: null, device: null }
    return host ? this.#place(taken, host.bytes, 'copy-out') : taken
  }

  /** Where device memory lies in what is registered. Pins it. */
  #devicePlace(buffer: DeviceBuffer, what: 'source' | 'target', key: string): DevicePlace {
    const { deviceId, address, length } = buffer
    if (!Number.isSafeInteger(deviceId) || typeof address !== 'bigint' || !Number.isSafeInteger(length) || length < 1) {
      throw new HiCacheError('ERR_ARGUMENT', `The ${what} of ${quote(key)} is no device buffer { type: 'VRAM', deviceId, address, length }; got ${describe(buffer)}.`, { key })
    }
    for (const memory of this.#deviceMemory) {
      if (!memory.holds(buffer)) continue
      memory.pin()
      return { memory, offset: Number(address - memory.address) }
    }
    throw new HiCacheError('ERR_ARGUMENT',
      `The ${what} of ${quote(key)}, ${length} bytes at 0x${address.toString(16)} of GPU ${deviceId}, lies in no device memory of this cache (was it released?). ` +
      'Make it known by allocDeviceBuffer(), openDeviceBuffer() or registerDeviceBuffer().', { key })
  }

  async #makeDeviceMemory(length: number, what: string, make: () => Promise<DeviceRegion>): Promise<DeviceMemory> {
    this.#checkOpen()
    if (!Number.isSafeInteger(length) || length < 1) throw new HiCacheError('ERR_ARGUMENT', `length is a number of bytes from 1; got ${describe(length)}.`)
    let made: DeviceRegion
    try {
      made = await make()
    } catch (cause) {
      throw (cause as NodeJS.ErrnoException).code === 'ERR_ARGUMENT' ? new HiCacheError('ERR_ARGUMENT', (cause as Error).message, { cause }) : deviceError(cause, what)
    }
    const memory = new DeviceMemory(made, length, this.#addon.cuda, ended => {
      this.#deviceMemory.delete(memory)
      const settled = ended.catch((error: unknown) => { this.#logger.debug('Device memory did not end in order.', { error: String(error) }) }).then(() => { this.#ending.delete(settled) })
      this.#ending.add(settled)
    })
    // It came too late: nobody would release it.
    if (this.#stage !== 'open') {
      memory.release()
      await Promise.all(this.#ending)
      this.#checkOpen()
    }
    this.#deviceMemory.add(memory)
    return memory
  }

  /**
   * Finds where a page's bytes lie for a transfer: as they are when registered and aligned, else by way of a slot. And pins them: from the call on, not only once its turn comes.
   */
  #place<Page extends PageToWrite | PageToRead>(page: Pinned<Page>, bytes: Uint8Array, copy: 'copy-in' | 'copy-out'): Pinned<Page> {
    const inArena = bytes.buffer === this.#arena.buffer
    if (this.#registrations.size > 0 && (inArena || isShared(bytes.buffer))) {
      // First the registrations: a pool in the arena stays registered when the tensor that it was made of is released.
      for (const registration of this.#registrations) {
        const at = registration.find(bytes)
        if (!at) continue
        const aligned = bytes.byteLength % BLOCK_BYTES === 0 && Number(at.address % BigInt(BLOCK_BYTES)) === 0
        page.memory = aligned ? { kind: 'direct', region: at.region, offset: at.offset, owner: registration, bytes } : { kind: copy, bytes }
        page.pinned = registration
        registration.pin()
        return page
      }
    }
    if (!inArena) {
      page.memory = { kind: copy, bytes }
      return page
    }
    const slot = this.#arenaSlot(bytes, page.key)
    const aligned = bytes.byteOffset % BLOCK_BYTES === 0 && (bytes.byteLength % BLOCK_BYTES === 0 || bytes.byteOffset + bytes.byteLength === slot.offset + slot.bytes)
    page.memory = aligned ? { kind: 'direct', region: this.#arena.region, offset: bytes.byteOffset, owner: slot, bytes } : { kind: copy, bytes }
    page.pinned = slot
    slot.pin()
    return page
  }

  /** `key`: whose memory it is; null: the memory pool's. */
  #arenaSlot(bytes: Uint8Array, key: string | null): Pinnable & { readonly offset: number; readonly bytes: number } {
    const slot = bytes.buffer === this.#arena.buffer ? this.#arena.slotOf(bytes.byteOffset, bytes.byteLength) : null
    if (!slot) throw new HiCacheError('ERR_ARGUMENT', `The memory of ${key === null ? 'the memory pool' : quote(key)} is no arena tensor of this cache that is still held (was it released?).`)
    return slot
  }

  async #moveV1(keys: readonly string[], pageIndices: readonly number[], move: (pages: (readonly [string, Uint8Array | DeviceBuffer])[]) => Promise<boolean[]>): Promise<boolean[]> {
    this.#checkOpen()
    checkPairs(keys, pageIndices, 'pageIndices')
    const pool = this.#memPool
    if (!pool) throw new HiCacheError('ERR_ARGUMENT', 'No memory pool is registered: call registerMemPoolHost() first.')
    const partBytes = pool.pageBytes / pool.parts
    const pages: (readonly [string, Uint8Array | DeviceBuffer])[] = []
    const first: number[] = []
    keys.forEach((key, i) => {
      const index = pageIndices[i]!
      if (!Number.isSafeInteger(index) || index < 0 || index >= pool.pageCount) {
        throw new HiCacheError('ERR_ARGUMENT', `pageIndices[${i}] is a whole number below ${pool.pageCount}; got ${describe(index)}.`)
      }
      first.push(pages.length)
      this.#pageNames(key).forEach((storedKey, part) => {
        const at = index * pool.pageBytes + part * partBytes
        pages.push([storedKey, pool.part(at, partBytes)])
      })
    })
    first.push(pages.length)
    const moved = await move(pages)
    return keys.map((_, i) => moved.slice(first[i], first[i + 1]).every(Boolean))
  }

  /** What follows a key in the stored names of its page: of the registered pool's pages a name a part, else the tensor API's one. */
  #tails(): readonly string[] {
    const parts = this.#memPool?.parts
    const { suffix } = this.#names
    if (parts === undefined || (parts === 1 && !this.#names.scheme.isMlaModel)) return [suffix]
    return parts === 1 ? [`${suffix}_k`] : [`${suffix}_k`, `${suffix}_v`]
  }

  #pageNames(key: string): readonly string[] {
    return this.#tails().map(tail => {
      checkKey(key, tail)
      return key + tail
    })
  }

  #storedKey(key: string): string { return this.#names.storedKey(key) }

  #onWorkerDeath(error: Error | null): void {
    if (this.#stage !== 'open') return
    this.#metrics.count('worker_restarts')
    this.#logger.error('A worker died and is being replaced; its requests failed.', { error: error?.message ?? 'it ended' })
    if (this.#pool.alive === 0) this.#health.raise('workers', 'No worker runs: transfers wait until one can be started again.')
  }

  #gauges(): Gauges {
    return {
      queuedRequests: this.#batcher.queuedRequests, queuedBytes: this.#batcher.queuedBytes,
      inFlightRequests: this.#batcher.inFlightRequests, inFlightBytes: this.#batcher.inFlightBytes, inFlightBytesMax: this.#inFlightBytesMax, writeWindowBytes: this.#batcher.writeWindowBytes,
      arenaBytes: this.#arena.bytes, arenaUsedBytes: this.#arena.usedBytes, arenaHeldBytes: this.#arena.heldBytes, arenaQuarantinedBytes: this.#batcher.quarantinedBytes,
      workers: this.#pool.size, workersAlive: this.#pool.alive
    }
  }

  async #close(graceMs: number): Promise<void> {
    this.#stage = 'closing'
    this.#health.closing()
    const until = performance.now() + graceMs
    await settledWithin(Promise.all([this.#store.stop(), this.#devices.idle(), this.#batcher.idle()]), graceMs)
    this.#devices.stop()
    const left = this.#batcher.pending()
    if (left.length > 0) this.#batcher.cancel(left, new HiCacheError('ERR_CLOSED', 'The cache was closed before the request ended.'))
    await this.#pool.destroy()
    const leaked = this.#batcher.close()
    // Locks are given back on the storage itself, which may hang: the process's end gives them back too.
    await settledWithin(this.#store.close().catch((error: unknown) => { this.#logger.debug('The store did not close in order.', { error: String(error) }) }), Math.max(DRAIN_MS, until - performance.now()))
    for (const registration of this.#registrations) registration.release()
    for (const memory of this.#deviceMemory) memory.abandon()
    // A GPU's driver may hang, as a kernel may.
    const driverEnded = await settledWithin(Promise.all([this.#devices.close(), ...this.#ending]), Math.max(DRAIN_MS, until - performance.now()))
    if (leaked > 0 || !driverEnded) {
      // They may still write there. The memory is kept for ever rather than given to somebody else.
      LEAKED.add(this.#arena.buffer)
      LEAKED.add(this.#words.shared)
      this.#logger.error(driverEnded ? 'The kernel still holds memory of requests that were given up; it is leaked.' : 'The driver of a GPU does not answer; the memory that it may hold is leaked.', { bytes: leaked })
    } else {
      this.#arena.unregister()
      this.#addon.unregisterMemory(this.#wordsRegion)
    }
    this.#stage = 'closed'
    this.#health.closed()
  }

  #scope(options: CallOptions | undefined): CallScope {
    checkCallOptions(options)
    return new CallScope(options ?? {}, this.#timeoutMs)
  }

  /** Starts the clock of a call, after its last request was submitted. */
  #watchScope(scope: CallScope): void {
    scope.watch(this.#batcher.cancel)
  }

  #checkOpen(): void {
    if (this.#stage !== 'open') throw new HiCacheError('ERR_CLOSED', `The cache is ${this.#stage === 'closing' ? 'closing' : 'closed'}.`)
  }

  /** Waits for `work`, with a call's deadline and signal. */
  async #within<T>(work: Promise<T>, options: CallOptions | undefined): Promise<T> {
    checkCallOptions(options)
    const { signal, timeoutMs = this.#timeoutMs } = options ?? {}
    let timer: NodeJS.Timeout | undefined
    let onAbort: (() => void) | undefined
    try {
      return await Promise.race([work, new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new HiCacheError('ERR_TIMEOUT', `It did not end within its deadline of ${timeoutMs} ms.`)), timeoutMs)
        onAbort = () => reject(new HiCacheError('ERR_CANCELLED', 'It was cancelled by its signal.', { cause: signal?.reason }))
        if (signal?.aborted === true) onAbort()
        else signal?.addEventListener('abort', onAbort, { once: true })
      })])
    } finally {
      clearTimeout(timer)
      if (onAbort) signal?.removeEventListener('abort', onAbort)
      work.catch(() => {})
    }
  }
}

/** A page of a call: its memory is pinned until unpin(). */
type Pinned<Page> = { -readonly [Name in keyof Page]: Page[Name] } & { pinned: Pinnable | null; /** It goes by way of this host's memory. */ device: DevicePlace | null }

type Cancelled = { ok: false; status: 'cancelled'; key: string; error: HiCacheError }

/** Does its way lead through staging memory? */
function onDevice({ device }: { readonly device: DevicePlace | null }): boolean { return device !== null }

const NO_MEMORY: RequestMemory = { kind: 'none' }
const FRESH: RequestMemory = { kind: 'fresh' }
const INTO_ARENA: RequestMemory = { kind: 'arena' }

/** What a page of device memory is stored as. */
function deviceMeaning({ dtype = 'uint8', shape, length }: DeviceBuffer, key: string): { dtype: DType; shape: readonly number[] } {
  if (!isDType(dtype)) throw new HiCacheError('ERR_ARGUMENT', `The source of ${quote(key)} has the dtype ${describe(dtype)}; known are ${Object.keys(DTYPES).join(', ')}.`, { key })
  const meant = shape ?? [length / DTYPES[dtype].bytes]
  if (elementsOf(meant) * DTYPES[dtype].bytes !== length) {
    throw new HiCacheError('ERR_ARGUMENT', `The source of ${quote(key)} has ${length} bytes; ${dtype} [${meant.join(', ')}] takes ${elementsOf(meant) * DTYPES[dtype].bytes}.`, { key })
  }
  return { dtype, shape: meant }
}

/** Promises reject with what was thrown, an error or (a caller's iterator may do so) anything else. */
function rejected(error: unknown): Promise<never> {
  // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors
  return Promise.reject(error)
}

/** Takes every page, or, with an error, none: the arguments of a call are checked before anything starts. */
function taking<From, Page extends { readonly pinned: Pinnable | null }>(pages: Iterable<From>, take: (page: From) => Page): Page[] {
  const taken: Page[] = []
  try {
    for (const page of pages) taken.push(take(page))
  } catch (error) {
    for (const { pinned } of taken) pinned?.unpin()
    throw error
  }
  return taken
}

/** What NIXL cannot do with objects our own client does, where it can be had. */
async function nixlPlace({ config, addon, selection, logger }: Pick<Parts, 'config' | 'addon' | 'selection' | 'logger'>, workers: number): Promise<NixlPlace> {
  const { plugin } = selection
  if (plugin !== 'obj') return new NixlPlace(plugin, null, `nobody else here knows the objects of plugin ${plugin}: list and delete them with its own tools, or use plugin obj`)
  const bucket = await ObjectBucket.open(config, addon.objects, { agents: workers, logger })
  if (!('reason' in bucket)) return new NixlPlace(plugin, bucket, '')
  const why = `our own client cannot be used: ${bucket.reason} (${bucket.remedy})`
  logger.warn(`Pages can be neither listed nor deleted: ${why}.`)
  return new NixlPlace(plugin, null, why)
}

/** Who moves objects. */
function objectAgentOf(config: NixlBackendConfig, { plugin }: NixlBackendSelection, place: ObjectBucket | NixlPlace): Omit<ObjectAgentOptions, 'words'> | Omit<NixlAgentOptions, 'words'> {
  if (place instanceof ObjectBucket) return { plugin: 'OBJ', objects: place.endpoint }
  return { plugin: 'NIXL', nixl: { plugin: nixlPluginName(plugin), parameters: nixlParameters(config, plugin) }, ...(place.bucket ? { objects: place.bucket.endpoint } : {}) }
}

/** What moves the bytes, where that is not the kernel alone. */
function dataPathOf(config: NixlBackendConfig, { plugin, agent }: NixlBackendSelection, workers: number): { dataPath?: DataPath; devicePath?: DevicePath } {
  if (agent === 'nixl') return { dataPath: { kind: 'nixl', plugin: nixlPluginName(plugin), parameters: nixlParameters(config, plugin) } }
  switch (plugin) {
    case '3fs': {
      const { mount_point: mountPoint = '', mem_config: memConfig = 'dram', iopool_size: iopoolSize = 64 } = config.section('3fs')
      return { dataPath: { kind: 'usrbio', mountPoint, memConfig, iopoolSize } }
    }
    // Of all workers together, as NIXL counts them for its one agent.
    case 'gds_mt': return { devicePath: { kind: 'gds_mt', threadCount: Math.ceil(config.section('gds_mt').thread_count! / workers) } }
    case 'gds': {
      const { batch_pool_size: batchPoolSize, batch_limit: batchLimit, max_request_size: maxRequestSize } = config.section('gds')
      return { devicePath: { kind: 'gds', batchPoolSize: batchPoolSize!, batchLimit: batchLimit!, maxRequestSize: maxRequestSize! } }
    }
    default: return {}
  }
}

/** A file system with a data path of its own: what goes beside it, goes through the page cache. */
function withoutDirectIo(report: DirectoryReport): DirectoryReport {
  const reason = '3FS moves pages by its own interface'
  return { ...report, direct: false, directReason: reason, engine: false, engineReason: reason }
}

/** With 3FS and zero copy the arena is memory that 3FS's side sees too. */
async function sharedMemoryOf(config: NixlBackendConfig, { plugin, agent }: NixlBackendSelection, addon: NativeAddon): Promise<Parts['shared']> {
  if (plugin !== '3fs' || agent !== 'embedded') return null
  const { mount_point: mountPoint = '', mem_config: memConfig = 'dram' } = config.section('3fs')
  if (memConfig === 'dram') return null
  const { buffer, region } = await addon.usrbio.allocate(mountPoint, config.options.arenaBytes ?? defaultArenaBytes())
  // Node lets nobody transfer an addon's buffer. It must not be marked besides: from Node 24 on a marked one cannot be detached, and Node ends the process when it tries, be it at its exit.
  return { buffer, region, release: () => { addon.usrbio.release(buffer, region) } }
}

/** Memory that the kernel never gave back. */
const LEAKED = new Set<object>()

/** Throws when two directories lead to one place, and says which and where they were named. */
function checkDistinct(config: NixlBackendConfig, directories: readonly DirectoryReport[], input: NixlBackendConfigInput): void {
  const realPaths = new Map(config.storageDirs.map((path, i) => [path, directories[i]!.realPath]))
  if (new Set(realPaths.values()).size < realPaths.size) NixlBackendConfig.load({ ...input, realPath: path => realPaths.get(path) ?? path })
}

function tally(outcomes: readonly (WriteOutcome | ReadOutcome<Target>)[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const outcome of outcomes) {
    const name = outcome.status === 'miss' ? outcome.reason : outcome.status
    counts[name] = (counts[name] ?? 0) + 1
  }
  return counts
}

/** False: it did not settle in that time. */
async function settledWithin(work: Promise<unknown>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const settled = await Promise.race([work.then(() => true), new Promise<boolean>(resolve => { timer = setTimeout(resolve, ms, false) })])
  clearTimeout(timer)
  return settled
}
