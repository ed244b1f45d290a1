import { randomFillSync } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { HiCacheError } from '../../error.js'
import { checkKey } from '../../keys/index.js'
import type { Target } from '../../memory/tensor.js'
import { ioError } from '../../transfer/batcher.js'
import type { CallOptions, CallScope } from '../../transfer/call-scope.js'
import type { DirectoryReport, NativeAddon } from '../../transfer/native-binding.js'
import { BLOCK_BYTES, Flag, Op, Status } from '../../transfer/protocol.js'
import { TransferRequest, type RequestResult } from '../../transfer/transfer-request.js'
import { FileLayout, type PageMeta } from '../file-layout.js'
import type { MissReason, ReadOutcome, WriteOutcome } from '../outcome.js'
import type { PageInfo } from '../page-info.js'
import type { GcReport, PageStore, PageToRead, PageToWrite, VerifyOptions, VerifyReport } from '../page-store.js'
import { TIMEOUT_MS_MAX, hit, keyOf, misfit, missReason, throwIfAborted, unavailableError, type StoreParts } from '../store-parts.js'
import { DeleteHold } from './delete-hold.js'
import { PageDigest } from './page-digest.js'
import { ReadHold } from './read-hold.js'
import { SegmentDirectory, type OpenedSegments } from './segment-directory.js'
import type { Landed } from './landed.js'
import type { Segment } from './segment.js'
import { RECORD_BYTES, SlotRecord } from './slot-record.js'
import { StoreCall } from './store-call.js'
import { WriteHold, type PageKind } from './write-hold.js'

/** A read without a target that finds another length than expected tries again with that one; a page that keeps changing is given up. */
const LENGTH_TRIES_MAX = 4
/** The largest extent. */
const PAGE_BYTES_MAX = 2 ** 30
/** Looks at what others have changed before a page counts as absent. In one look its old copy can be seen to go, and the new one come a moment after its folder was read. */
const POLLS_MAX = 2
const PAGE_HASH_DIGITS = 64
/** How long a write waits for the tombstone of the page that it replaces. */
const REPLACED_MS_MAX = 2000
/** Keys that are looked up together. */
const LOOKUP_ROUND = 128
/** Lookups that ended at a page that is not there: the page before it, which tells what a later write of it builds on. */
const CHAIN_HINTS_MAX = 4096
/** Pages that verify() reads at once. */
const VERIFY_PAGES = 8
const CLEAR_PAGES = 128
const NO_META = new Uint8Array(0)

type WriteCall = StoreCall<PageToWrite, (index: number, outcome: WriteOutcome) => void>
type ReadCall = StoreCall<PageToRead, (index: number, outcome: ReadOutcome<Target>, length: number) => void>
type AnyCall = WriteCall | ReadCall

/**
 * Pages as extents of large files that are written over and over (block merging). Where a page lies is in memory, so a lookup never touches the disk; what is on
 * the disk is told by 512-byte records, written after the data, which is how a store is opened again and how processes that share it see each other's pages.
 * docs/architecture.md and docs/formats.md have the rules.
 */
export class SegmentStore implements PageStore {
  readonly name = 'segment'
  readonly #o: StoreParts
  readonly #layout: FileLayout
  readonly #digest: PageDigest
  readonly #directories: readonly SegmentDirectory[]
  readonly #sync: boolean
  readonly #readFlags: number
  /** Decoded metas, by the index's own copy of their bytes. */
  readonly #metas = new WeakMap<Uint8Array, PageMeta>()
  readonly #chainHints = new Map<string, string>()
  readonly #writing = new Set<WriteCall>()
  readonly #scratch = new Uint32Array(4)
  #kind: PageKind | null = null
  readonly #roundDigests = new Uint32Array(4 * LOOKUP_ROUND)
  readonly #roundEntries = new Int32Array(LOOKUP_ROUND)

  /**
   * Opens the segments of each directory, or makes them; what dead writers of this machine left is taken over. `prefill`: new segments are written once before use, which local file
   * systems want.
   * @throws {HiCacheError} ERR_CONFIG: of a newer version, or no such store; ERR_IO.
   */
  static async openDirectories(directories: readonly DirectoryReport[], addon: NativeAddon, { prefill = true }: { prefill?: boolean } = {}): Promise<OpenedSegments[]> {
    const seed = randomFillSync(new Uint32Array(4))
    const opened: OpenedSegments[] = []
    try {
      for (const [directory, report] of directories.entries()) opened.push(await openDirectory(addon, report, directory, seed, prefill))
    } catch (error) {
      await SegmentStore.closeDirectories(opened)
      throw error
    }
    return opened
  }

  /** Gives opened directories back that no store was made of. */
  static async closeDirectories(opened: readonly OpenedSegments[]): Promise<void> {
    for (const { native, path, folder, ownerFd } of opened) if (ownerFd >= 0) await native.closeWriter(path, folder, ownerFd)
  }

  constructor(parts: StoreParts, layout: FileLayout, opened: readonly OpenedSegments[]) {
    this.#o = parts
    this.#layout = layout
    this.#digest = new PageDigest(opened[0]!.seed, layout.namespaceDigest)
    this.#sync = parts.settings.fsync === 'batch'
    this.#readFlags = parts.uncheckedReads ? Flag.skipChecksum : 0
    this.#directories = opened.map(one => new SegmentDirectory({
      opened: one, settings: parts.settings, batcher: parts.batcher, metrics: parts.metrics, logger: parts.logger, scope: () => parts.scope(),
      tellPolicies: () => this.#tellPolicies()
    }))
  }

  async start(): Promise<void> { await Promise.all(this.#directories.map(directory => directory.start())) }
  async stop(): Promise<void> { await Promise.all(this.#directories.map(directory => directory.stop())) }
  async close(): Promise<void> { await Promise.all(this.#directories.map(directory => directory.close())) }

  gauges(): Readonly<Record<string, number>> {
    const sum = (of: (directory: SegmentDirectory) => number): number => this.#directories.reduce((total, directory) => total + of(directory), 0)
    return {
      segment_pages: sum(({ index, foreignPages }) => index.size - foreignPages),
      segment_pages_foreign: sum(({ foreignPages }) => foreignPages),
      segments: sum(({ space }) => space.segmentCount),
      segment_bytes: sum(({ space }) => space.ownBytes),
      segment_slots: sum(({ space }) => space.slots),
      segment_slots_free: sum(({ space }) => space.freeSlots),
      segment_writers_live: sum(({ liveWriters }) => liveWriters)
    }
  }

  write(scope: CallScope, pages: readonly PageToWrite[], stride: number, end: (index: number, outcome: WriteOutcome) => void): void {
    if (pages.length === 0) return
    const call: WriteCall = new StoreCall(pages, stride, end)
    this.#writing.add(call)
    for (let i = 0; i < pages.length; i++) this.#writePage(scope, call, i)
  }

  read(scope: CallScope, pages: readonly PageToRead[], stride: number, end: (index: number, outcome: ReadOutcome<Target>, length: number) => void): void {
    const call: ReadCall = new StoreCall(pages, stride, end)
    for (let i = 0; i < pages.length; i++) {
      const page = pages[i]!
      this.#digest.ofStored(page.storedKey, call.digests, call.digestAt(i))
      if (this.#o.unavailable(page.directory)) this.#missed(call, i, 'unavailable')
      else this.#readPage(scope, call, i, { tries: 0, polls: 0 })
    }
  }

  leading(keys: readonly string[], tails: readonly string[], scope: CallScope): number {
    if (scope.aborted) {
      for (const key of keys) checkKey(key, tails[tails.length - 1])
      return 0
    }
    let there = keys.length
    for (const tail of tails) there = this.#leading(keys, tail, there)
    this.#o.metrics.lookups(there, there < keys.length ? there + 1 : there)
    // Those that nobody has looked at.
    for (let i = there; i < keys.length; i++) checkKey(keys[i], tails[tails.length - 1])
    const missing = keys[there]
    if (missing !== undefined && there > 0) for (const tail of tails) this.#hint(missing + tail, keys[there - 1]! + tail)
    return there
  }

  /** How many of the first `count` keys are there with this tail. Round by round: the digests of some keys, then their entries, so that the memory's latencies overlap. */
  #leading(keys: readonly string[], tail: string, count: number): number {
    const { batcher } = this.#o
    const now = performance.now()
    const down = this.#directories.map((_, number) => this.#o.unavailable(number))
    const digests = this.#roundDigests
    const entries = this.#roundEntries
    for (let at = 0; at < count; at += LOOKUP_ROUND) {
      const round = Math.min(LOOKUP_ROUND, count - at)
      for (let i = 0; i < round; i++) {
        const key = keys[at + i]!
        // A page hash is a good key, and that it is one shows while it is hashed.
        if (typeof key !== 'string' || key.length !== PAGE_HASH_DIGITS) checkKey(key, tail)
        if (!this.#digest.of(key, tail, digests, 4 * i)) checkKey(key, tail)
      }
      if (this.#directories.length === 1) this.#directories[0]!.index.findMany(digests, round, entries)
      else for (let i = 0; i < round; i++) entries[i] = this.#directories[this.#layout.directoryOf(keys[at + i]! + tail)]!.index.find(digests, 4 * i)
      for (let i = 0; i < round; i++) {
        const entry = entries[i]!
        const number = this.#directories.length === 1 ? 0 : this.#layout.directoryOf(keys[at + i]! + tail)
        // What is on its way counts as done: the last call wins.
        const underWay = batcher.unsettled > 0 ? batcher.underWay(keys[at + i]! + tail) : null
        if (underWay === 'delete' || (entry < 0 && underWay === null) || down[number] === true) return at + i
        if (entry >= 0) this.#directories[number]!.lease(entry, now)
      }
    }
    return count
  }

  async remove(storedKeys: readonly string[], scope: CallScope): Promise<boolean> {
    const began = performance.now()
    const pending = storedKeys.map(storedKey => new Promise<boolean>(resolve => {
      const number = this.#layout.directoryOf(storedKey)
      const storage = new DeleteHold(this.#directories[number]!, this.#digestOf(storedKey))
      this.#o.batcher.submit(new TransferRequest({
        op: Op.tombstones, role: 'delete', flags: 0, directory: number, storedKey, memory: { kind: 'none' }, length: 0, meta: NO_META, scope, storage,
        onResult: result => {
          const written = result.failure === null && result.status === Status.ok
          const outcome = written ? (storage.found ? 'deleted' : 'absent') : result.failure ?? missReason(result.status) ?? 'failed'
          this.#o.metrics.page('delete', outcome, 0, (performance.now() - began) / 1000)
          resolve(outcome === 'deleted')
        }
      }))
    }))
    scope.watch(this.#o.batcher.cancel)
    return (await Promise.all(pending)).some(Boolean)
  }

  async clear(options?: CallOptions): Promise<{ deleted: number }> {
    let deleted = 0
    const keys: string[] = []
    const flush = async (): Promise<void> => {
      const removed = await Promise.all(keys.splice(0).map(storedKey => this.remove([storedKey], this.#o.scope(options))))
      deleted += removed.filter(Boolean).length
    }
    for await (const { record } of this.#records(options)) {
      if (keys.push(record.key) >= CLEAR_PAGES) await flush()
    }
    await flush()
    return { deleted }
  }

  async * entries(): AsyncGenerator<PageInfo, void, undefined> {
    for await (const { record, directory } of this.#records()) yield this.#pageInfo(record, directory)
  }

  async stat(storedKey: string, scope: CallScope): Promise<PageInfo | null> {
    if (scope.aborted) return null
    const directory = this.#directories[this.#layout.directoryOf(storedKey)]!
    const entry = directory.index.find(this.#digestOf(storedKey))
    if (entry < 0) return null
    const segment = directory.index.segment(entry)
    const slot = directory.index.slot(entry)
    for (const record of await this.#recordsOf(directory, segment)) {
      if (record.slot === slot && record.key === storedKey && this.#isOurs(record)) return this.#pageInfo(record, directory)
    }
    return null
  }

  async verify({ bytesPerSecond = Infinity, onProgress, signal }: VerifyOptions): Promise<VerifyReport> {
    const report: VerifyReport = { pages: 0, bytes: 0, ok: 0, corrupt: 0, unverified: 0, missing: 0 }
    const began = performance.now()
    const check = async (directory: SegmentDirectory, { key, length }: SlotRecord): Promise<void> => {
      const scope = this.#o.scope({ ...(signal ? { signal } : {}), priority: 'background' })
      const pending = new Promise<RequestResult>(resolve => {
        const storage = new ReadHold(directory, this.#digestOf(key))
        storage.request = new TransferRequest({
          op: Op.segmentRead, flags: 0, directory: directory.opened.directory, storedKey: key, memory: { kind: 'arena' }, length, meta: NO_META, scope, storage,
          fromStorage: true, onResult: resolve
        })
        this.#o.batcher.submit(storage.request)
      })
      scope.watch(this.#o.batcher.cancel)
      const result = await pending
      report.pages++
      report.bytes += length
      if (result.failure !== null) {
        // Out of time or out of room says nothing about the page: better no report than a wrong one.
        if (result.failure !== 'failed') throw result.error
        report.corrupt++
      } else if (result.status === Status.ok) report.ok++
      else if (result.status === Status.corrupt || result.status === Status.error) report.corrupt++
      else report.missing++
      onProgress?.({ pages: report.pages, bytes: report.bytes })
    }
    const round: Promise<void>[] = []
    const settle = async (): Promise<void> => {
      await Promise.all(round.splice(0))
      const ahead = report.bytes / bytesPerSecond * 1000 - (performance.now() - began)
      if (ahead > 1) await delay(Math.min(ahead, TIMEOUT_MS_MAX), undefined, signal ? { signal } : {}).catch(() => {})
      throwIfAborted(signal)
    }
    for await (const { record, directory } of this.#records(signal ? { signal } : {})) {
      round.push(check(directory, record))
      if (round.length >= VERIFY_PAGES) await settle()
    }
    await settle()
    return report
  }

  async gc(): Promise<GcReport> {
    let leftovers = 0
    for (const directory of this.#directories) {
      await directory.poll()
      leftovers += await directory.adopt()
      directory.space.askAgain()
    }
    return { leftovers, evictedPages: 0, evictedBytes: 0 }
  }

  #writePage(scope: CallScope, call: WriteCall, i: number): void {
    const page = call.pages[i]!
    const { key, storedKey, length, memory } = page
    if (this.#o.unavailable(page.directory)) return this.#endWrite(call, i, { ok: false, status: 'rejected', key, error: unavailableError(this.#o, page.directory, key) })
    if (length > PAGE_BYTES_MAX) {
      return this.#endWrite(call, i, {
        ok: false, status: 'rejected', key, error: new HiCacheError('ERR_REJECTED', `A page of the segment layout has at most 1 GiB; this one has ${length} bytes.`, { key })
      })
    }
    const kind = this.#kindOf(this.#digest.ofStoredWithScope(storedKey, call.digests, call.digestAt(i)), this.#layout.metaOf(page.dtype, page.shape))
    const storage = new WriteHold(this.#directories[page.directory]!, kind, call.digests, call.digestAt(i), Math.ceil(length / BLOCK_BYTES) * BLOCK_BYTES, this.#sync)
    storage.request = new TransferRequest({
      op: Op.segmentWrite, flags: 0, directory: page.directory, storedKey, key, memory, length, meta: kind.meta, scope, storage,
      onResult: result => { this.#wrote(call, i, storage, result) }
    })
    this.#o.batcher.submit(storage.request)
  }

  #wrote(call: WriteCall, i: number, storage: WriteHold, result: RequestResult): void {
    const { key, length } = call.pages[i]!
    if (result.failure !== null) {
      storage.abandon()
      return this.#endWrite(call, i, { ok: false, status: result.failure, key, error: result.error })
    }
    if (result.status === Status.ok && storage.checksummed) {
      const { older } = storage
      if (older >= 0) {
        if (!this.#directories[call.pages[i]!.directory]!.staysBefore(older, storage.writtenAt)) return this.#replace(call, i, storage, older)
        // Two wrote it at once, and the other one was the last: stored, and written over.
        storage.abandon()
        return this.#endWrite(call, i, { ok: true, status: 'stored', key, byteLength: length })
      }
      storage.commit()
      call.landed[i] = storage
      return this.#endWrite(call, i, { ok: true, status: 'stored', key, byteLength: length })
    }
    if (result.status === Status.alreadyThere) {
      if (storage.entry >= 0) call.landed[i] = storage
      return this.#endWrite(call, i, { ok: true, status: 'already-there', key, byteLength: length })
    }
    storage.abandon()
    this.#endWrite(call, i, { ok: false, status: 'failed', key, error: ioError(result.errno, key, 'Writing') })
  }

  /** The caller is told when the older copy's tombstone is written: a delete that follows could else leave that copy to be found after a crash. */
  #replace(call: WriteCall, i: number, storage: WriteHold, older: number): void {
    const { key, length } = call.pages[i]!
    let [landed, written, told]: [boolean, boolean, boolean] = [false, false, false]
    let late: NodeJS.Timeout | null = null
    const tell = (): void => {
      if (!landed || !written || told) return
      told = true
      if (late) clearTimeout(late)
      this.#endWrite(call, i, { ok: true, status: 'stored', key, byteLength: length })
    }
    const onWritten = (): void => {
      written = true
      tell()
    }
    // The page is stored all the same: a disk that hangs from now on keeps nobody waiting for the older copy's end.
    late = setTimeout(onWritten, REPLACED_MS_MAX)
    this.#directories[call.pages[i]!.directory]!.replace(older, storage.writtenAt, onWritten)
    storage.commit()
    call.landed[i] = storage
    landed = true
    tell()
  }

  #endWrite(call: WriteCall, i: number, outcome: WriteOutcome): void {
    if (--call.left === 0) {
      // Before the last answer: what the caller asks for next meets a policy that knows these pages.
      this.#writing.delete(call)
      this.#chain(call)
    }
    call.end(i, outcome)
  }

  /** `tried`: reads of the page so far, and looks at what others have changed. */
  #readPage(scope: CallScope, call: ReadCall, i: number, tried: { tries: number; polls: number }, length = this.#expectedLength(call, i)): void {
    const page = call.pages[i]!
    tried.tries++
    const storage = new ReadHold(this.#directories[page.directory]!, call.digests, call.digestAt(i))
    storage.request = new TransferRequest({
      op: Op.segmentRead, flags: page.unchecked ? Flag.skipChecksum : this.#readFlags, directory: page.directory, storedKey: page.storedKey, key: page.key, memory: page.memory, length, meta: NO_META, scope, storage,
      onResult: result => { this.#didRead(scope, call, i, tried, storage, result) }
    })
    this.#o.batcher.submit(storage.request)
  }

  /** Unknown pages may be on their way to storage: the write says their length. */
  #expectedLength(call: ReadCall, i: number): number {
    const { exactLength, directory } = call.pages[i]!
    if (exactLength !== null) return exactLength
    const { index } = this.#directories[directory]!
    const entry = index.find(call.digests, call.digestAt(i))
    return entry >= 0 ? index.length(entry) : 1
  }

  #didRead(scope: CallScope, call: ReadCall, i: number, tried: { tries: number; polls: number }, storage: ReadHold, result: RequestResult): void {
    const page = call.pages[i]!
    const { key } = page
    const { length } = storage.request!
    if (result.failure !== null) return this.#endRead(call, i, { ok: false, status: result.failure, key, error: result.error }, 0)
    if (result.status === Status.length) {
      if (page.exactLength !== null || result.length === 0 || result.length === length || tried.tries >= LENGTH_TRIES_MAX) return this.#missed(call, i, 'length')
      return this.#readPage(scope, call, i, tried, result.length)
    }
    const reason = missReason(result.status)
    if (reason === 'stale') this.#o.metrics.count('segment_overtaken_reads')
    const directory = this.#directories[page.directory]!
    if ((reason === 'absent' || reason === 'stale') && tried.polls < POLLS_MAX && directory.maybeBehind) {
      // Another process may have written it a moment ago: what it has changed is read now, rather than at the next turn.
      tried.polls++
      void directory.pollSoon().then(() => {
        if (this.#o.stage() !== 'open') return this.#missed(call, i, reason)
        this.#readPage(scope, call, i, tried)
        scope.watch(this.#o.batcher.cancel)
      })
      return
    }
    if (reason) {
      if (reason === 'corrupt') this.#o.metrics.count('segment_corrupt_pages')
      return this.#missed(call, i, reason)
    }
    if (result.status === Status.error) return this.#endRead(call, i, { ok: false, status: 'failed', key, error: ioError(result.errno, key, 'Reading') }, 0)
    const meta = result.meta && result.meta.length > 0 ? this.#decoded(result.meta) : null
    if (!meta) return this.#missed(call, i, 'corrupt')
    const unfit = misfit(page, meta, length)
    if (unfit) return this.#missed(call, i, unfit)
    if (storage.current) call.landed[i] = storage
    this.#endRead(call, i, hit(page, result, meta, this.#o.arena, this.#readFlags === 0 && !page.unchecked), length)
  }

  #missed(call: ReadCall, i: number, reason: MissReason): void { this.#endRead(call, i, { ok: false, status: 'miss', key: call.pages[i]!.key, reason }, 0) }

  #endRead(call: ReadCall, i: number, outcome: ReadOutcome<Target>, length: number): void {
    if (--call.left === 0) this.#chain(call)
    call.end(i, outcome, length)
  }

  /** Tells the policies what was written and read, in the order of the call: what comes before a page is what it builds on. */
  #chain(call: AnyCall): boolean {
    const { pages, landed } = call
    let any = false
    for (let i = 0; i < pages.length; i++) {
      const mine = landed[i]
      if (!mine) continue
      landed[i] = null
      any = true
      const { entry, segment } = mine
      const directory = this.#directories[pages[i]!.directory]!
      if (segment?.own !== true || !directory.holds(entry, segment, mine.slot, mine.generation)) continue
      const parent = this.#parentOf(call, i, directory, mine)
      const { policy } = directory.space.classOf(segment.extentBytes)
      if (mine.written) policy.insert(entry, parent, call.digests[call.digestAt(i) + 3])
      else policy.touch(entry, parent)
    }
    return any
  }

  /** A call may write more than fits, and the last of its pages then waits for the first to go. */
  #tellPolicies(): boolean {
    let any = false
    for (const call of this.#writing) if (this.#chain(call)) any = true
    return any
  }

  /** The entry of the nearest page before this one in its chain that lies in the same directory and is of the same size; -1 = none, or unknown. */
  #parentOf(call: AnyCall, i: number, directory: SegmentDirectory, mine: Landed): number {
    const { pages, stride } = call
    const number = pages[i]!.directory
    let before = i - stride
    while (before >= 0 && pages[before]!.directory !== number) before -= stride
    let entry: number
    if (before >= 0) {
      entry = directory.index.find(call.digests, call.digestAt(before))
    } else {
      const hint = this.#chainHints.size > 0 ? this.#chainHints.get(pages[i]!.storedKey) : undefined
      if (hint === undefined) return -1
      this.#chainHints.delete(pages[i]!.storedKey)
      this.#digest.ofStored(hint, this.#scratch)
      entry = directory.index.find(this.#scratch)
    }
    if (entry < 0 || entry === mine.entry) return -1
    const segment = directory.index.segment(entry)
    return segment.own && segment.extentBytes === mine.segment!.extentBytes ? entry : -1
  }

  #hint(storedKey: string, before: string): void {
    this.#chainHints.delete(storedKey)
    this.#chainHints.set(storedKey, before)
    if (this.#chainHints.size <= CHAIN_HINTS_MAX) return
    for (const oldest of this.#chainHints.keys()) {
      this.#chainHints.delete(oldest)
      return
    }
  }

  /** One object for all pages that are alike. */
  #kindOf(scope: Uint8Array, meta: Uint8Array): PageKind {
    if (this.#kind?.scope !== scope || this.#kind.meta !== meta) this.#kind = { namespaceDigest: this.#layout.namespaceDigest, scope, meta }
    return this.#kind
  }

  #digestOf(storedKey: string): Uint32Array {
    const digest = new Uint32Array(4)
    this.#digest.ofStored(storedKey, digest)
    return digest
  }

  #decoded(bytes: Uint8Array): PageMeta | null {
    const known = this.#metas.get(bytes)
    if (known) return known
    const meta = FileLayout.decodeMeta(bytes)
    if (meta) this.#metas.set(bytes, meta)
    return meta
  }

  #isOurs(record: SlotRecord): boolean { return record.namespaceDigest.every((byte, i) => byte === this.#layout.namespaceDigest[i]) }

  /** The records of this namespace's pages that the index knows, segment by segment. */
  async * #records(options?: CallOptions): AsyncGenerator<{ record: SlotRecord; directory: SegmentDirectory }, void, undefined> {
    for (const directory of this.#directories) {
      for (const segment of [...directory.index.segments()]) {
        if (this.#o.stage() === 'closed') return
        if (segment.number < 0) continue
        for (const record of await this.#o.within(this.#recordsOf(directory, segment), options)) {
          const entry = segment.number >= 0 ? segment.entries[record.slot] ?? -1 : -1
          if (entry >= 0 && segment.generations[record.slot] === record.generation && !directory.index.isHidden(entry) && this.#isOurs(record)) yield { record, directory }
        }
      }
    }
  }

  async #recordsOf({ opened: { native, path } }: SegmentDirectory, segment: Segment): Promise<SlotRecord[]> {
    const bytes = await native.records(path, segment.folder, segment.id).catch(() => NO_META)
    const records: SlotRecord[] = []
    for (let at = 0; at + RECORD_BYTES <= bytes.length; at += RECORD_BYTES) {
      const record = SlotRecord.decode(bytes, at)
      if (record) records.push(record)
    }
    return records
  }

  #pageInfo(record: SlotRecord, directory: SegmentDirectory): PageInfo {
    const meta = FileLayout.decodeMeta(record.meta)
    const writtenAt = new Date(record.writtenAt / 1000)
    return {
      key: keyOf(record.key, this.#o.names.suffix),
      storedKey: record.key,
      bytes: record.length,
      dtype: meta?.dtype ?? null,
      shape: meta?.shape ?? null,
      writtenAt,
      accessedAt: writtenAt,
      verified: true,
      allocatedBytes: Math.ceil(record.length / BLOCK_BYTES) * BLOCK_BYTES,
      directory: this.#o.directories[directory.opened.directory]!.path
    }
  }
}

async function openDirectory(addon: NativeAddon, report: DirectoryReport, directory: number, seed: Uint32Array, prefill: boolean): Promise<OpenedSegments> {
  const native = addon.segments
  const path = report.realPath
  const common = { native, directory, path, direct: report.direct, prefill, totalBytes: report.totalBytes, seed }
  if (!report.writable) {
    return { ...common, folder: '', ownerFd: -1, usedBytes: 0, own: { sequence: 0, segments: [], rows: new Uint8Array(0), metas: [], namespaces: [], damaged: 0 } }
  }
  try {
    const { folder, ownerFd, usedBytes } = await native.open(path)
    try {
      return { ...common, folder, ownerFd, usedBytes, own: await native.load(path, folder, seed, null) }
    } catch (error) {
      await native.closeWriter(path, folder, ownerFd)
      throw error
    }
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException
    if (code === 'EPROTONOSUPPORT') {
      throw new HiCacheError('ERR_CONFIG', `The segments in ${path} were written by a newer version of this package. They are left alone: upgrade, or take another directory.`, { cause })
    }
    if (code === 'EBADMSG') {
      throw new HiCacheError('ERR_CONFIG', `${path}/segments is no store of this package (its FORMAT says something else). It is left alone: take another directory.`, { cause })
    }
    throw new HiCacheError('ERR_IO', `The segments in ${path} could not be opened: ${message}.`, { cause, ...(code === undefined ? {} : { errno: code }) })
  }
}
