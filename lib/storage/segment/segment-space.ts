import type { Logger } from '../../observe/logger.js'
import type { Metrics } from '../../observe/metrics.js'
import type { NativeSegments } from '../../transfer/native-binding.js'
import type { EvictionPolicy } from '../policies/eviction-policy.js'
import type { PageIndex } from './page-index.js'
import { Segment } from './segment.js'
import { SizeClass, type TakenSlot } from './size-class.js'
import type { Tombstone } from './tombstones-hold.js'

const MIB = 2 ** 20
const GIB = 2 ** 30
/** Segments are this large at least and at most, unless segment_bytes says otherwise; in between, a 64th of the store. */
const SEGMENT_BYTES_MIN = 64 * MIB
const SEGMENT_BYTES_MAX = GIB
/** A store of a given capacity has this many segments or more, so that giving one up costs little of it. */
const SEGMENTS_MIN = 16
/** Without a capacity, this share of the file system stays free. */
const FREE_SHARE = 0.1
/**
 * Slots that are emptied before anybody asks for them, so that writes need not wait for tombstones: this share of a class, at most so many. When half of them are used up, as
 * many are emptied at once: what goes together often lay together, and so does what comes next, which the device likes.
 */
const READY_SHARE = 1 / 32
const READY_SLOTS_MAX = 256
/** Pages that are given up at once when there is no slot at all: a 16th of the class, at most this many. */
const EVICT_AT_ONCE = 64
/** After it was told that there is no room, the directory is asked again this much later, then after twice as long, up to the second one. */
const ASK_AGAIN_MS = 1000
const ASK_AGAIN_MS_MAX = 30_000
/** Who waits for space of the others asks this often, and they give a segment back this often. */
const SHARE_EVERY_MS = 250
/** When all pages are leased or being read, it is tried again this much later. */
const PINNED_AGAIN_MS = 20
/** How often it is considered whether another size's segment would serve this one's pages better: evictions in between. */
const REBALANCE_EVERY = 64

export interface SegmentSpaceOptions {
  readonly native: NativeSegments
  /** Index and path of the storage directory, and this writer's folder in it. */
  readonly directory: number
  readonly path: string
  readonly folder: string
  readonly direct: boolean
  readonly prefill: boolean
  readonly totalBytes: number
  /** Bytes on the disk; null: until less than a tenth of the file system is free. */
  readonly capacity: number | null
  readonly segmentBytes: number | null
  readonly leaseMs: number
  readonly policy: () => EvictionPolicy
  readonly index: PageIndex
  readonly metrics: Metrics
  readonly logger: Logger
  /** Writes a tombstone of the slot's next generation, and says when it is through. */
  readonly entomb: (tombstone: Tombstone) => void
  /** There may be room now. */
  readonly wake: () => void
  /** Do other writers live that could give space back? */
  readonly othersLive: () => boolean
  /** Tells the policies of pages that have been written by calls which go on: a policy does not give up what it has not heard of. False: there were none. */
  readonly tellPolicies: () => boolean
}

/** A copy that cannot be found any more, while its record may say that it is there. */
export interface DyingCopy { readonly segment: Segment; readonly slot: number; readonly unpin: () => void }
interface Buried { readonly digest: Uint32Array; readonly segment: Segment; readonly slot: number; pins: number; written: boolean }
interface ClassState { readonly cls: SizeClass; busy: boolean; dying: number; evictions: number }

/**
 * The own segments of one storage directory: who gets which slot, when the store grows, which pages go when it cannot.
 *
 * A slot is free, or taken by a write, or holds a page, or is on its way back: its tombstone is written, then (once nobody reads it any more) it is free
 * again. Everything here runs on the main thread and waits for nothing; what takes time (a new segment, a tombstone) calls wake() when it is done.
 */
export class SegmentSpace {
  readonly #o: SegmentSpaceOptions
  readonly #classes = new Map<number, ClassState>()
  #lastClass: SizeClass | null = null
  /** Segments that are to be empty, and what then. */
  readonly #leaving = new Map<Segment, () => void>()
  /** Pages that cannot be found any more, and whose tombstones are not written. */
  readonly #dying = new Set<number>()
  /** The same for writes that ended nobody knows how. */
  readonly #buried = new Set<Buried>()
  /** Tombstones that could not be written; they are tried again. */
  #unburied: (() => void)[] = []
  #retryTimer: NodeJS.Timeout | null = null
  /** The last request for a segment was refused; it is repeated now and then, from #askAt on, and pages are given up meanwhile. */
  #full = false
  /** While #full: the least data that was refused. Something smaller may fit all the same. */
  #refusedBytes = 0
  /** What was left to take when it was refused. */
  #left = 0
  #askAt = 0
  #refusal = ''
  #growing = false
  /** Segments on their way back to the file system. */
  #releasing = 0
  #shareAt = 0
  #closed = false
  #askMs = ASK_AGAIN_MS
  usedBytes = 0

  constructor(options: SegmentSpaceOptions) { this.#o = options }

  get ownBytes(): number { return this.#sum(segment => segment.dataBytes) }
  get segmentCount(): number { return this.#sum(() => 1) }
  get freeSlots(): number { return [...this.#classes.values()].reduce((sum, { cls }) => sum + cls.freeSlots, 0) }
  get slots(): number { return [...this.#classes.values()].reduce((sum, { cls }) => sum + cls.slots, 0) }

  classOf(extentBytes: number): SizeClass {
    // Almost always there is one size, and lookups ask for each page.
    if (this.#lastClass?.extentBytes !== extentBytes) this.#lastClass = this.#stateOf(extentBytes).cls
    return this.#lastClass
  }

  /** An own segment that was there before, or was taken over from a dead writer. */
  add(segment: Segment): void {
    this.#stateOf(segment.extentBytes).cls.add(segment)
  }

  /** A slot for a page; 'wait' until wake(). */
  take(extentBytes: number): TakenSlot | 'wait' | { readonly refused: string } {
    const state = this.#stateOf(extentBytes)
    const taken = state.cls.takeSlot(performance.now())
    if (taken) {
      this.#prepare(state)
      return taken
    }
    return this.#makeRoom(state)
  }

  /** The slot is free: no page is in it, and its record says so (or says nothing that holds). */
  giveBack(segment: Segment, slot: number): void {
    if (this.#leaving.has(segment)) {
      segment.giveBack(slot)
      this.#leave(segment)
    } else {
      this.#stateOf(segment.extentBytes).cls.giveBack(segment, slot)
    }
    this.#o.wake()
  }

  /** A page of ours goes: evicted, replaced, damaged. Its slot is free once its tombstone is written and nobody reads it. */
  drop(entry: number, written?: (ok: boolean) => void): void {
    this.begin(entry)
    this.entomb(entry, written)
  }

  /** The page cannot be found any more. What has begun so ends with entombed(), or goes on with entomb(). */
  begin(entry: number): void {
    const { index } = this.#o
    this.#stateOf(index.segment(entry).extentBytes).cls.policy.remove(entry)
    index.hide(entry)
    this.#dying.add(entry)
  }

  /**
   * Copies of a page that are gone from the index, while the disk may still call them the page. Pinned: their slots are in nobody else's use until unpin(), whatever becomes of
   * their own tombstones, so another tombstone of theirs does no harm.
   */
  pinDying(digest: Uint32Array): DyingCopy[] {
    const { index } = this.#o
    const found: DyingCopy[] = []
    const isIts = (words: Uint32Array): boolean => words.every((word, i) => word === digest[i])
    const its = new Uint32Array(4)
    for (const entry of this.#dying) {
      index.digestOf(entry, its)
      if (isIts(its) && index.pin(entry)) found.push({ segment: index.segment(entry), slot: index.slot(entry), unpin: () => { this.unpin(entry) } })
    }
    for (const buried of this.#buried) {
      if (!isIts(buried.digest)) continue
      const { segment, slot } = buried
      buried.pins++
      found.push({
        segment, slot, unpin: () => {
          buried.pins--
          this.#exhume(buried)
        }
      })
    }
    return found
  }

  /** Writes the tombstone of a page that begin() hid. */
  entomb(entry: number, written?: (ok: boolean) => void): void {
    const { index } = this.#o
    const segment = index.segment(entry)
    this.#dying.add(entry)
    this.#entomb(this.#stateOf(segment.extentBytes), segment, index.slot(entry), () => { this.entombed(entry) }, written)
  }

  /** The tombstone of a page that begin() hid is written. */
  entombed(entry: number): void {
    const { index } = this.#o
    this.#dying.delete(entry)
    index.setFlags(entry, ENTOMBED)
    if (index.pins(entry) === 0) this.#free(entry)
  }

  /** A slot whose record may say anything: a write that ended nobody knows how (`digest`: of its page), or an older copy of a page of which another writer has the newer one. */
  bury(segment: Segment, slot: number, digest?: Uint32Array): void {
    const state = this.#stateOf(segment.extentBytes)
    if (!digest) return this.#entomb(state, segment, slot, () => { this.giveBack(segment, slot) })
    const buried: Buried = { digest, segment, slot, pins: 0, written: false }
    this.#buried.add(buried)
    this.#entomb(state, segment, slot, () => {
      buried.written = true
      this.#exhume(buried)
    })
  }

  /** A read of the page is over. */
  unpin(entry: number): void {
    const { index } = this.#o
    if (index.unpin(entry) === 0 && index.isHidden(entry) && index.flags(entry) === ENTOMBED) this.#free(entry)
  }

  /** Is a page that has just been written to a segment that is being emptied? It goes at once then. */
  isLeaving(segment: Segment): boolean { return this.#leaving.has(segment) }

  /** Others ask for space: gives the segment up that was used longest ago, if we have more than our share. */
  share(liveWriters: number): void {
    const own = this.ownBytes
    const now = performance.now()
    // One at a time: who asks takes a moment to notice, and all that is given back meanwhile would lie idle.
    if (now < this.#shareAt || this.#leaving.size > 0 || this.segmentCount < 2 || own * (liveWriters + 1) <= this.usedBytes) return
    const segment = this.#leastUsed(() => true)
    if (!segment) return
    this.#shareAt = now + SHARE_EVERY_MS
    this.#o.logger.info('A segment is given back, because another process has none.', { bytes: segment.dataBytes })
    this.#release(segment)
  }

  /** A capacity that is less than what the store takes: segments are given up until it holds. */
  shrink(): void {
    const { capacity } = this.#o
    if (capacity === null) return
    while (this.usedBytes > capacity && this.segmentCount > 0) {
      const segment = this.#leastUsed(() => true)!
      this.usedBytes -= segment.dataBytes
      this.#release(segment)
    }
  }

  /** Whether growth was refused may have changed. */
  askAgain(): void { this.#askAt = 0 }

  close(): void {
    this.#closed = true
    if (this.#retryTimer) clearTimeout(this.#retryTimer)
  }

  /** Keeps slots ready: grows while that is allowed, else gives pages up. */
  #prepare(state: ClassState): void {
    const { cls } = state
    if (!this.#isFull(state)) {
      if (2 * cls.freeSlots * cls.extentBytes < this.#segmentBytes(cls.extentBytes)) this.#grow(state)
      return
    }
    if (performance.now() >= this.#askAt) this.#grow(state)
    const ready = cls.freeSlots + state.dying
    const wanted = Math.min(READY_SLOTS_MAX, Math.ceil(cls.slots * READY_SHARE))
    if (2 * ready <= wanted) this.#evict(state, wanted - ready)
  }

  #makeRoom(state: ClassState): 'wait' | { readonly refused: string } {
    const { extentBytes } = state.cls
    if (this.#closed) return { refused: 'the store is closed' }
    if (state.dying > 0) return 'wait'
    const full = this.#isFull(state)
    if (!full || performance.now() >= this.#askAt) this.#grow(state)
    if (!full) return 'wait'
    const wanted = Math.max(1, Math.min(EVICT_AT_ONCE, state.cls.slots >> 4))
    if (this.#evict(state, wanted) > 0 || state.busy) return 'wait'
    if (state.cls.slots > 0) {
      if (this.#o.tellPolicies() && this.#evict(state, wanted) > 0) return 'wait'
      return this.#later(PINNED_AGAIN_MS)
    }
    // What is on its way may be room enough.
    if (this.#growing || this.#leaving.size > 0 || this.#releasing > 0) return this.#later(PINNED_AGAIN_MS)
    // Not one slot of this size, and no room for more: another size has to give a segment up.
    const donor = this.#leastUsed(segment => segment.extentBytes !== extentBytes && segment.dataBytes >= extentBytes)
    if (donor) {
      this.#reassign(donor, state)
      return 'wait'
    }
    // Nothing is given up for a page that would not fit if everything were.
    const small = this.#left + this.ownBytes >= extentBytes ? this.#leastUsed(segment => segment.extentBytes !== extentBytes) : null
    if (small) {
      this.#release(small)
      return 'wait'
    }
    if (this.#o.othersLive() && (this.#o.capacity === null || extentBytes < this.#o.capacity)) {
      this.#want(true)
      // What the others give back is not to lie idle.
      this.#askAt = Math.min(this.#askAt, performance.now() + SHARE_EVERY_MS)
      return this.#later(SHARE_EVERY_MS)
    }
    return { refused: `${this.#refusal}, and no page of it can make room for one of ${extentBytes} bytes` }
  }

  /** No segment for pages of this size can be had, as far as is known. */
  #isFull({ cls: { extentBytes } }: ClassState): boolean { return this.#full && this.#leastBytes(extentBytes) >= this.#refusedBytes }

  /** With less data than this no segment is granted. */
  #leastBytes(extentBytes: number): number { return Math.max(extentBytes, this.#segmentBytes(extentBytes) / 4) }

  #later(ms: number): 'wait' {
    this.#retryTimer ??= setTimeout(() => {
      this.#retryTimer = null
      const again = this.#unburied
      this.#unburied = []
      void this.#buryAgain(again)
      this.#o.wake()
    }, ms).unref()
    return 'wait'
  }

  /** In a turn each, which is a request each: what cannot be written for one page must not keep those of others from being written, for ever. */
  async #buryAgain(again: readonly (() => void)[]): Promise<void> {
    for (const bury of again) {
      if (this.#closed) return
      bury()
      await Promise.resolve()
    }
  }

  #evict(state: ClassState, wanted: number): number {
    const { cls } = state
    const now = performance.now()
    const may = (entry: number): boolean => cls.leases.mayEvict(entry, now)
    let evicted = 0
    for (; evicted < wanted; evicted++) {
      const victim = cls.policy.victim(may)
      if (victim < 0) break
      this.#o.metrics.count('segment_evicted_pages')
      this.drop(victim)
    }
    state.evictions += evicted
    if (state.evictions >= REBALANCE_EVERY && this.#classes.size > 1) {
      state.evictions = 0
      this.#rebalance(state)
    }
    return evicted
  }

  /** A size whose pages nobody has used for much longer than this one's own oldest gives a segment to it. */
  #rebalance(state: ClassState): void {
    if (this.#leaving.size > 0) return
    const now = performance.now()
    const ours = state.cls.leastUsed()
    const donor = this.#leastUsed(segment => segment.extentBytes !== state.cls.extentBytes && segment.dataBytes >= state.cls.extentBytes)
    if (!ours || !donor || now - donor.lastUse < 2 * (now - ours.lastUse) + ASK_AGAIN_MS) return
    this.#reassign(donor, state)
  }

  /** `through`: its record says that no page is there. */
  #entomb(state: ClassState, segment: Segment, slot: number, through: () => void, written?: (ok: boolean) => void): void {
    state.dying++
    this.#o.entomb({
      segment, slot, ended: ok => {
        state.dying--
        written?.(ok)
        if (ok) {
          through()
        } else if (!this.#closed) {
          // The slot stays out of use: what is on the disk may still call it a page.
          this.#unburied.push(() => { this.#entomb(state, segment, slot, through) })
          this.#later(ASK_AGAIN_MS)
        }
        this.#o.wake()
      }
    })
  }

  #exhume(buried: Buried): void {
    if (!buried.written || buried.pins > 0) return
    this.#buried.delete(buried)
    this.giveBack(buried.segment, buried.slot)
  }

  #free(entry: number): void {
    const { index } = this.#o
    const segment = index.segment(entry)
    const slot = index.slot(entry)
    index.remove(entry)
    this.giveBack(segment, slot)
  }

  /** One at a time: each takes the device for a while, and the store is at its limit sooner than it seems. */
  #grow(state: ClassState): void {
    if (this.#growing || this.#closed) return
    const { native, path, folder, capacity, totalBytes, direct, prefill, index, directory, logger } = this.#o
    const { extentBytes } = state.cls
    const keepFreeBytes = capacity === null ? Math.floor(totalBytes * FREE_SHARE) : 0
    const leastBytes = this.#leastBytes(extentBytes)
    this.#growing = true
    native.grant(path, folder, { dataBytes: this.#segmentBytes(extentBytes), extentBytes, capacity: capacity ?? 0, keepFreeBytes, direct, prefill }).then(granted => {
      this.usedBytes = granted.usedBytes
      if (this.#closed) return
      if (granted.refused !== '') {
        this.#refuse(leastBytes)
        this.#left = granted.refused === 'capacity' ? capacity! - granted.usedBytes : granted.freeBytes - keepFreeBytes
        this.#refusal = granted.refused === 'capacity'
          ? `the capacity of ${capacity} bytes in ${path} is taken (${granted.usedBytes} bytes)`
          : `the file system of ${path} is full (${granted.freeBytes} bytes are free, of which a tenth of all stays free unless \`capacity\` is set)`
        return
      }
      this.#full = false
      this.#askMs = ASK_AGAIN_MS
      const segment = new Segment({ directory, folder, id: granted.id, dataBytes: granted.dataBytes, extentBytes, own: true })
      segment.lastUse = performance.now()
      index.addSegment(segment)
      state.cls.add(segment)
      this.#want(false)
    }).catch((error: unknown) => {
      this.#refuse(0)
      this.#refusal = `no segment could be made in ${path}: ${(error as Error).message}`
      if (!this.#closed) logger.warn('A segment could not be made.', { path, error: String(error) })
    }).finally(() => {
      this.#growing = false
      this.#o.wake()
    })
  }

  #refuse(leastBytes: number): void {
    this.#refusedBytes = this.#full ? Math.min(this.#refusedBytes, leastBytes) : leastBytes
    this.#full = true
    this.#askAt = performance.now() + this.#askMs
    this.#askMs = Math.min(ASK_AGAIN_MS_MAX, this.#askMs * 2)
  }

  #segmentBytes(extentBytes: number): number {
    const { capacity, segmentBytes, totalBytes } = this.#o
    const grown = Math.min(SEGMENT_BYTES_MAX, Math.max(SEGMENT_BYTES_MIN, 2 ** Math.floor(Math.log2(Math.max(1, this.usedBytes / 64)))))
    const wanted = segmentBytes ?? Math.min(grown, Math.floor((capacity ?? totalBytes * (1 - FREE_SHARE)) / SEGMENTS_MIN))
    return Math.max(1, Math.floor(wanted / extentBytes)) * extentBytes
  }

  #reassign(donor: Segment, to: ClassState): void {
    const { native, path, folder, index, directory, logger } = this.#o
    const { extentBytes } = to.cls
    to.busy = true
    this.#empty(donor, () => {
      index.removeSegment(donor)
      native.reassign(path, folder, donor.id, extentBytes).then(({ dataBytes }) => {
        const segment = new Segment({ directory, folder, id: donor.id, dataBytes, extentBytes, own: true })
        segment.lastUse = performance.now()
        index.addSegment(segment)
        to.cls.add(segment)
        this.#o.metrics.count('segments_reassigned')
      }).catch((error: unknown) => {
        // It is of no use any more; the next opening takes it over as it is.
        logger.warn('A segment could not be given another page size.', { path, error: String(error) })
        this.#askAt = 0
      }).finally(() => {
        to.busy = false
        this.#o.wake()
      })
    })
  }

  #release(segment: Segment): void {
    const { native, path, folder, index, logger } = this.#o
    this.#empty(segment, () => {
      index.removeSegment(segment)
      this.#releasing++
      native.release(path, folder, segment.id).catch((error: unknown) => {
        logger.warn('A segment could not be given back.', { path, error: String(error) })
      }).finally(() => {
        this.#releasing--
        this.#o.metrics.count('segments_released')
        this.#askAt = 0
        this.#o.wake()
      })
    })
  }

  /** Gives all pages of a segment up, and calls back when nothing is in it and nobody reads or writes it any more. */
  #empty(segment: Segment, then: () => void): void {
    const { index } = this.#o
    this.#stateOf(segment.extentBytes).cls.remove(segment)
    this.#leaving.set(segment, then)
    const entries: number[] = []
    index.forEachIn(segment, entry => { if (!index.isHidden(entry)) entries.push(entry) })
    for (const entry of entries) this.drop(entry)
    this.#leave(segment)
  }

  #leave(segment: Segment): void {
    const then = this.#leaving.get(segment)
    if (!then || segment.freeSlots < segment.slots) return
    this.#leaving.delete(segment)
    then()
  }

  #leastUsed(may: (segment: Segment) => boolean): Segment | null {
    let least: Segment | null = null
    for (const { cls } of this.#classes.values()) {
      const segment = cls.leastUsed(may)
      if (segment && (!least || segment.lastUse < least.lastUse)) least = segment
    }
    return least
  }

  #wanted = false
  #want(wanted: boolean): void {
    if (wanted === this.#wanted) return
    this.#wanted = wanted
    this.#o.native.wants(this.#o.path, this.#o.folder, wanted).catch((error: unknown) => { this.#o.logger.debug('Asking for space failed.', { error: String(error) }) })
  }

  #stateOf(extentBytes: number): ClassState {
    let state = this.#classes.get(extentBytes)
    if (!state) {
      const { index, leaseMs, policy } = this.#o
      state = { cls: new SizeClass({ extentBytes, policy: policy(), index, leaseMs }), busy: false, dying: 0, evictions: 0 }
      this.#classes.set(extentBytes, state)
    }
    return state
  }

  #sum(of: (segment: Segment) => number): number {
    let sum = 0
    for (const { cls } of this.#classes.values()) for (const segment of cls.segments) sum += of(segment)
    return sum
  }
}

/** A flag of an entry that is hidden: its tombstone is written. */
const ENTOMBED = 1
