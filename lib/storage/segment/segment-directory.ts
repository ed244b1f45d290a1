import type { Logger } from '../../observe/logger.js'
import type { Metrics } from '../../observe/metrics.js'
import type { Batcher } from '../../transfer/batcher.js'
import type { CallScope } from '../../transfer/call-scope.js'
import { LOADED_STRIDE, type LoadedFolder, type NativeSegments, type PolledFolder } from '../../transfer/native-binding.js'
import { Op, Status, TOMBSTONES_MAX } from '../../transfer/protocol.js'
import { TransferRequest } from '../../transfer/transfer-request.js'
import { bytesOf } from '../../keys/utf8.js'
import { makePolicy } from '../policies/policies.js'
import type { StoreSettings } from '../store-parts.js'
import { PageIndex } from './page-index.js'
import { Segment } from './segment.js'
import { SegmentSpace } from './segment-space.js'
import { TombstonesHold, type Tombstone } from './tombstones-hold.js'

/** How often the other writers' changes are read: their pages are seen within 50 ms. */
const POLL_EVERY_MS = 40
/** How often it is looked whether there are other writers, while none is known. A read that misses looks too. */
const LOOK_EVERY_MS = 400
/** A page of another writer that was asked for and is there still is asked for again after so long, so often. */
const ASK_AGAIN_MS = 200
const ASK_TRIES_MAX = 20
/** How long a read waits for a look at what the others have changed. */
const POLL_MS_MAX = 100
/** How often dead writers' folders are taken over, at most. */
const ADOPT_EVERY_MS = 1000

/** How far the clocks of processes on one machine may be apart: each is the system's at its start, and runs by itself from there. */
const CLOCK_SLACK_US = 1_000_000

const NO_META = new Uint8Array(0)
const NO_MEMORY = { kind: 'none' } as const

/** A storage directory whose segments this process has opened. */
export interface OpenedSegments {
  readonly native: NativeSegments
  readonly directory: number
  readonly path: string
  readonly direct: boolean
  /** Segments are written once before use; not where the file system does not gain by it. */
  readonly prefill: boolean
  readonly totalBytes: number
  /** This writer's folder; '' when the directory cannot be written: pages of others are read, and none are stored. */
  readonly folder: string
  /** The locked descriptor; -1 without a folder. */
  readonly ownerFd: number
  readonly usedBytes: number
  /** This process's secret for digests. */
  readonly seed: Uint32Array
  /** What the own folder holds. */
  readonly own: LoadedFolder
}

export interface SegmentDirectoryOptions {
  readonly opened: OpenedSegments
  readonly settings: StoreSettings
  readonly batcher: Batcher
  readonly metrics: Metrics
  readonly logger: Logger
  /** A scope for requests of the store's own. */
  readonly scope: () => CallScope
  /** As SegmentSpaceOptions has it. */
  readonly tellPolicies: () => boolean
}

/** A page of another writer that was deleted or replaced here. */
interface Asked { readonly segment: number; readonly slot: number; readonly generation: number; readonly again: number; readonly tries: number }
interface Asking { readonly pages: Asked[]; readonly told: (() => void)[] }

interface Followed { sequence: number; readonly segments: Map<number, Segment> }

/** The segments of one storage directory: the pages of this writer, which it places and gives up, and those of the others, which it follows. */
export class SegmentDirectory {
  readonly opened: OpenedSegments
  /** The name of its own folder below the storage directory. */
  readonly folderBytes: Uint8Array
  readonly index = new PageIndex()
  readonly space: SegmentSpace
  readonly #o: SegmentDirectoryOptions
  readonly #own = new Map<number, Segment>()
  readonly #followed = new Map<string, Followed>()
  #others: readonly PolledFolder[] = []
  #timer: NodeJS.Timeout | null = null
  #polling: Promise<void> | null = null
  /** The other writers have been looked for, and what they hold has been read. */
  #looked = false
  #asked: Asked[] = []
  /** Those that are asked for in this turn, and who waits for it. */
  #asking: Asking | null = null
  #polledAt = -Infinity
  #adoptAt = 0
  #writtenAt = 0
  #stopped = false
  /** Those that go in this turn. */
  #tombstones: TombstonesHold | null = null

  constructor(options: SegmentDirectoryOptions) {
    this.#o = options
    this.opened = options.opened
    const { opened, settings, metrics, logger, batcher } = options
    const { native, directory, path, folder, direct, prefill, totalBytes } = opened
    this.folderBytes = new Uint8Array(bytesOf(`segments/${folder}`))
    this.space = new SegmentSpace({
      native, directory, path, folder, direct, prefill, totalBytes, capacity: settings.capacity, segmentBytes: settings.segmentBytes, leaseMs: settings.leaseMs,
      policy: () => makePolicy(settings.evictionPolicy), index: this.index, metrics, logger,
      entomb: tombstone => { this.#entomb(tombstone) },
      wake: () => { batcher.pumpSoon() },
      // Until they have been looked for nobody knows.
      othersLive: () => !this.#looked || this.#others.some(({ live }) => live),
      tellPolicies: options.tellPolicies
    })
    this.space.usedBytes = opened.usedBytes
    this.#takeOver(opened.own)
  }

  get writable(): boolean { return this.opened.folder !== '' }
  /** Has anybody else pages here, as far as is known? Until somebody has looked, nobody knows. */
  get shared(): boolean { return !this.#looked || this.#others.length > 0 }
  /** Can another process have written what is not known here? Not where none was there a moment ago. */
  get maybeBehind(): boolean { return this.shared || performance.now() - this.#polledAt >= POLL_EVERY_MS }
  get liveWriters(): number { return this.#others.reduce((sum, { live }) => sum + (live ? 1 : 0), 0) }
  get foreignPages(): number {
    let pages = 0
    for (const { segments } of this.#followed.values()) for (const segment of segments.values()) pages += segment.pages
    return pages
  }

  /** Resolves when the other writers' pages are known, as far as they are at this moment. */
  async start(): Promise<void> {
    this.space.shrink()
    this.#timer = setInterval(() => {
      if (this.shared || performance.now() - this.#polledAt >= LOOK_EVERY_MS) void this.poll()
    }, POLL_EVERY_MS).unref()
    await this.poll()
  }

  async stop(): Promise<void> {
    this.#stopped = true
    if (this.#timer) clearInterval(this.#timer)
    await this.#polling
  }

  /** Ends grants that are under way, and gives the folder back. */
  async close(): Promise<void> {
    const { native, path, folder, ownerFd } = this.opened
    this.space.close()
    if (ownerFd >= 0) await native.closeWriter(path, folder, ownerFd)
  }

  /** Microseconds since the epoch, never the same twice. */
  now(): number {
    this.#writtenAt = Math.max(this.#writtenAt + 1, clock())
    return this.#writtenAt
  }

  /** The entry is this page still: not given up, and not another's by now. */
  holds(entry: number, segment: Segment, slot: number, generation: number): boolean {
    return segment.number >= 0 && segment.entries[slot] === entry && segment.generations[slot] === generation && !this.index.isHidden(entry)
  }

  /** What a lookup answered stays for a while. Another writer's pages are not ours to keep. */
  lease(entry: number, now: number): void {
    const segment = this.index.segment(entry)
    if (segment.own) this.space.classOf(segment.extentBytes).leases.lease(entry, now)
  }

  /** A page that cannot be read: of ours it goes with a tombstone; another writer's is forgotten here, and stays there. */
  drop(entry: number): void {
    if (this.index.segment(entry).own) this.space.drop(entry)
    else this.index.remove(entry)
  }

  /**
   * Does another writer's copy, which began after ours of `writtenAt` and is there already, stay in its stead? The newest copy wins everywhere, so that all processes end with the same one. A time that
   * is still to come is the clock of another machine, and decides nothing: what was written here is what is read here.
   */
  staysBefore(entry: number, writtenAt: number): boolean {
    const its = this.index.writtenAt(entry)
    return !this.index.segment(entry).own && its > writtenAt && its <= clock() + CLOCK_SLACK_US
  }

  /** A copy of ours that was written at `writtenAt` takes the page's place. `written`: of ours, its tombstone is (or is not, and will be tried again); of another writer's, it has been asked for. */
  replace(entry: number, writtenAt: number, written: () => void): void {
    if (this.index.segment(entry).own) return this.space.drop(entry, written)
    // Its owner passes ours over by its time, and would be left with none.
    if (this.index.writtenAt(entry) < writtenAt) return this.ask(entry, written)
    this.index.remove(entry)
    written()
  }

  /** Another writer's page shall go: forgotten here at once, and by all when its owner hears of it, within 50 ms of following us. `told`: the request is in the ring, or could not be put there. */
  ask(entry: number, told?: () => void): void {
    const segment = this.index.segment(entry)
    const slot = this.index.slot(entry)
    const generation = segment.generations[slot]!
    this.index.remove(entry)
    // No writer of ours counts so far: damage that happens to hold, and nothing to ask for.
    if (generation < 1 || !Number.isSafeInteger(generation)) {
      told?.()
      return
    }
    const page = { segment: segment.id, slot, generation, again: performance.now() + ASK_AGAIN_MS, tries: 0 }
    this.#asked.push(page)
    this.#ask([page], told)
  }

  /** All of one turn are one call: a batch of writes may replace hundreds. */
  #ask(pages: readonly Asked[], told?: () => void): void {
    const { native, path, folder } = this.opened
    let asking = this.#asking
    if (!asking) {
      const fresh: Asking = asking = this.#asking = { pages: [], told: [] }
      queueMicrotask(() => {
        this.#asking = null
        native.ask(path, folder, fresh.pages.flatMap(({ segment, slot, generation }) => [segment, slot, generation])).catch((error: unknown) => {
          if (!this.#stopped) this.#o.logger.warn('Pages of another process could not be deleted.', { path, pages: fresh.pages.length, error: String(error) })
        }).finally(() => { for (const one of fresh.told) one() })
      })
    }
    asking.pages.push(...pages)
    if (told) asking.told.push(told)
  }

  /** An owner that had not followed us yet when it was asked never hears of it: what is there still, as far as its changes have been read, is asked for once more. */
  #askAgain(): void {
    if (this.#asked.length === 0) return
    const now = performance.now()
    const segments = new Map<number, Segment>()
    for (const segment of this.index.segments()) segments.set(segment.id, segment)
    const left: Asked[] = []
    const due: Asked[] = []
    const ours: number[] = []
    for (const one of this.#asked) {
      const segment = segments.get(one.segment)
      // Its owner has died, and it is ours by now: nobody else will.
      if (segment?.own === true) ours.push(one.segment, one.slot, one.generation)
      else if (now < one.again) left.push(one)
      // A segment that is not known may be on its way from one folder to another, and have the page still.
      else if ((segment === undefined || segment.generations[one.slot] === one.generation) && one.tries < ASK_TRIES_MAX) {
        const again = { ...one, again: now + ASK_AGAIN_MS, tries: one.tries + 1 }
        left.push(again)
        if (segment !== undefined) due.push(again)
      }
    }
    this.#asked = left
    this.#giveUp(ours)
    if (due.length > 0 && !this.#stopped) this.#ask(due)
  }

  /** Reads what the others have changed. */
  async poll(): Promise<void> {
    if (!this.#polling) this.#polledAt = performance.now()
    this.#polling ??= this.#poll().catch((error: unknown) => {
      if (!this.#stopped) this.#o.logger.debug('The other writers could not be followed.', { path: this.opened.path, error: String(error) })
    }).finally(() => { this.#polling = null })
    await this.#polling
  }

  /** poll(), for a request that waits for it: not for longer than a healthy disk takes. */
  async pollSoon(): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    // One that is under way may have read before the page was written.
    const polled = (this.#polling ?? Promise.resolve()).then(() => this.poll())
    await Promise.race([polled, new Promise(resolve => { timer = setTimeout(resolve, POLL_MS_MAX) })])
    clearTimeout(timer)
  }

  /** Takes over what dead writers of this machine left. Answers how many segments that were. */
  async adopt(): Promise<number> {
    const { native, path, folder, seed } = this.opened
    if (!this.writable || this.#stopped) return 0
    const ids = await native.adopt(path, folder)
    if (ids.length === 0) return 0
    const loaded = await native.load(path, folder, seed, ids)
    // They were another's until now.
    for (const followed of this.#followed.values()) for (const id of ids) this.#forget(followed, id)
    this.#takeOver(loaded)
    this.#askAgain()
    this.#o.metrics.count('segments_adopted', ids.length)
    this.#o.logger.info('Segments of a writer that has died were taken over.', { path, segments: ids.length })
    return ids.length
  }

  async #poll(): Promise<void> {
    const { native, path, folder, seed } = this.opened
    const { folders, changes } = await native.poll(path, folder, [...this.#followed].map(([name, { sequence }]) => ({ folder: name, sequence })), seed)
    if (this.#stopped) return
    this.#others = folders
    for (const change of changes) {
      const followed = this.#followed.get(change.folder)
      if (!followed) continue
      if (change.gone || change.lapped) {
        for (const id of [...followed.segments.keys()]) this.#forget(followed, id)
        this.#followed.delete(change.folder)
        continue
      }
      followed.sequence = change.sequence
      for (const id of change.whole) this.#forget(followed, id)
      this.#giveUp(change.asked)
      if (change.loaded) this.#follow(change.folder, followed, change.loaded)
    }
    for (const { name } of folders) {
      if (this.#followed.has(name)) continue
      const loaded = await native.load(path, name, seed, null)
      if (this.#stopped) return
      const followed: Followed = { sequence: loaded.sequence, segments: new Map() }
      this.#followed.set(name, followed)
      this.#follow(name, followed, loaded)
    }
    this.#looked = true
    this.#askAgain()
    if (folders.some(({ wants, live }) => wants && live)) this.space.share(this.liveWriters)
    if (folders.some(({ live, machine }) => !live && machine === 'this') && performance.now() >= this.#adoptAt) {
      this.#adoptAt = performance.now() + ADOPT_EVERY_MS
      await this.adopt()
    }
  }

  /** Another process has deleted or replaced pages of ours: segment id, slot and generation of each in turn. What has come into a slot since was not meant. */
  #giveUp(pages: readonly number[]): void {
    if (pages.length === 0) return
    const own = new Map<number, Segment>()
    for (const segment of this.index.segments()) if (segment.own) own.set(segment.id, segment)
    for (let i = 0; i < pages.length; i += 3) {
      const segment = own.get(pages[i]!)
      const slot = pages[i + 1]!
      const entry = segment?.entries[slot] ?? -1
      if (segment && entry >= 0 && segment.generations[slot] === pages[i + 2] && !this.index.isHidden(entry)) this.space.drop(entry)
    }
  }

  #follow(folder: string, followed: Followed, loaded: LoadedFolder): void {
    for (const { id, dataBytes, extentBytes, slots } of loaded.segments) {
      if (slots < 1 || (this.#own.has(id))) continue
      const known = followed.segments.get(id)
      if (known && known.extentBytes === extentBytes && known.dataBytes === dataBytes) continue
      this.#forget(followed, id)
      const segment = new Segment({ directory: this.opened.directory, folder, id, dataBytes, extentBytes, own: false })
      this.index.addSegment(segment)
      followed.segments.set(id, segment)
    }
    const { superseded, pinned } = this.index.load(loaded, id => followed.segments.get(id), { leave: (entry, segment) => { this.#forgetPolicy(entry, segment) } })
    this.#replaced(superseded, pinned)
  }

  /** Pages of ours in whose stead a newer copy came in: given up, those that are being read once the last read is over. */
  #replaced(superseded: readonly number[], pinned: readonly number[]): void {
    for (const entry of pinned) this.space.entomb(entry)
    for (let i = 0; i < superseded.length; i += 2) this.space.bury(this.index.segmentOf(superseded[i]!), superseded[i + 1]!)
  }

  #forget(followed: Followed, id: number): void {
    const segment = followed.segments.get(id)
    if (!segment) return
    followed.segments.delete(id)
    this.index.removeSegment(segment)
  }

  /** Segments that are ours: found at the opening, or adopted. */
  #takeOver(loaded: LoadedFolder): void {
    const { directory, folder } = this.opened
    for (const { id, dataBytes, extentBytes, slots } of loaded.segments) {
      if (slots < 1 || this.#own.has(id)) continue
      const segment = new Segment({ directory, folder, id, dataBytes, extentBytes, own: true })
      this.index.addSegment(segment)
      this.#own.set(id, segment)
    }
    // An array of a million that grows is copied many times over.
    const entered = new Int32Array(Math.floor(loaded.rows.byteLength / LOADED_STRIDE))
    let count = 0
    const { superseded, pinned } = this.index.load(loaded, id => this.#own.get(id), {
      enter: entry => { entered[count++] = entry },
      leave: (entry, segment) => { this.#forgetPolicy(entry, segment) }
    })
    for (const { id } of loaded.segments) {
      const segment = this.#own.get(id)
      if (segment) this.space.add(segment)
    }
    // The policy meets them in the order in which they were written, which is all that is known of their use.
    const sorted = this.index.sortByAge(entered.subarray(0, count))
    for (let i = 0; i < sorted.length; i++) {
      const entry = sorted[i]!
      if (!this.index.has(entry) || this.index.isHidden(entry)) continue
      this.space.classOf(this.index.segment(entry).extentBytes).policy.insert(entry, -1, this.index.identityOf(entry))
    }
    if (loaded.damaged > 0) this.#o.metrics.count('segment_records_damaged', loaded.damaged)
    this.#replaced(superseded, pinned)
  }

  #forgetPolicy(entry: number, segment: Segment): void {
    if (segment.own) this.space.classOf(segment.extentBytes).policy.remove(entry)
  }

  /** All of one turn go together: a request each would cost more than the records. */
  #entomb(tombstone: Tombstone): void {
    let hold = this.#tombstones
    if (!hold) {
      const fresh = hold = this.#tombstones = new TombstonesHold(this.folderBytes, this)
      queueMicrotask(() => {
        if (this.#tombstones === fresh) this.#bury()
      })
    }
    hold.add(tombstone)
    if (hold.size === TOMBSTONES_MAX) this.#bury()
  }

  #bury(): void {
    const storage = this.#tombstones!
    this.#tombstones = null
    const scope = this.#o.scope()
    this.#o.batcher.submit(new TransferRequest({
      op: Op.tombstones, flags: 0, directory: this.opened.directory, storedKey: 'tombstones', memory: NO_MEMORY, length: 0, meta: NO_META, scope, storage, onResult: result => {
        if (result.failure === null && result.status !== Status.ok) this.#o.metrics.count('tombstones_failed', storage.size)
      }
    }))
    scope.watch(this.#o.batcher.cancel)
  }
}

/** Microseconds since the epoch. */
function clock(): number { return Math.floor((performance.timeOrigin + performance.now()) * 1000) }
