import type { EvictionPolicy } from '../policies/eviction-policy.js'
import { Leases } from './leases.js'
import type { PageIndex } from './page-index.js'
import type { Segment, SegmentTally } from './segment.js'

export interface SizeClassOptions {
  /** Bytes of an extent; all segments of the class have it. */
  readonly extentBytes: number
  readonly policy: EvictionPolicy
  readonly index: PageIndex
  /** How long what a lookup answered stays, in milliseconds; 0 = not at all. Default 1000. */
  readonly leaseMs?: number
}

/** A slot of a segment, taken by whoever holds this. */
export interface TakenSlot { readonly segment: Segment; readonly slot: number }

/** Segments with room that are looked at when the one in use is full: the emptiest of them is taken. A bound, as there can be thousands. */
const LOOK_AT = 16

/** The own segments of one extent size in one storage directory, with what decides which of their pages go first. */
export class SizeClass {
  readonly extentBytes: number
  readonly policy: EvictionPolicy
  /** Leases of the pages of this size: at most half of them at once. */
  readonly leases: Leases
  readonly #segments = new Set<Segment>()
  /** Those with a free slot, but for the one in use; each at most once. */
  readonly #roomy: Segment[] = []
  readonly #isRoomy = new Set<Segment>()
  #current: Segment | null = null
  readonly #tally: SegmentTally = { pages: 0, freeSlots: 0 }
  #slots = 0

  constructor(options: SizeClassOptions) {
    this.extentBytes = options.extentBytes
    this.policy = options.policy
    this.leases = new Leases({ index: options.index, pages: () => this.#tally.pages, ...(options.leaseMs === undefined ? {} : { leaseMs: options.leaseMs }) })
  }

  get segments(): ReadonlySet<Segment> { return this.#segments }
  /** Slots in all, and free ones. */
  get slots(): number { return this.#slots }
  get freeSlots(): number { return this.#tally.freeSlots }

  /** Pages of the index that are in segments of this class. */
  get pages(): number { return this.#tally.pages }

  /** Adds an own segment; taken slots of it stay so. Adding one that is there does nothing. */
  add(segment: Segment): void {
    if (this.#segments.has(segment)) return
    this.#segments.add(segment)
    this.#slots += segment.slots
    segment.countInto(this.#tally)
    this.#noteRoom(segment)
  }

  /** Takes a segment out, for reassigning or releasing it: none of its slots is handed out any more. False when it is not here. */
  remove(segment: Segment): boolean {
    if (!this.#segments.delete(segment)) return false
    this.#slots -= segment.slots
    segment.countInto(null)
    if (this.#current === segment) this.#current = null
    if (this.#isRoomy.delete(segment)) this.#roomy.splice(this.#roomy.indexOf(segment), 1)
    return true
  }

  /**
   * Takes a free slot: the next one in the segment used last while it has any, else in the emptiest of a few that have; null when there is none.
   * @param now for Segment.lastUse.
   */
  takeSlot(now = 0): TakenSlot | null {
    let segment = this.#current
    if (segment === null || segment.freeSlots === 0) {
      segment = this.#nextSegment()
      this.#current = segment
      if (segment === null) return null
    }
    const slot = segment.takeSlot()
    segment.lastUse = now
    return { segment, slot }
  }

  /** Makes a slot free again. Of a segment that is no longer here, the slot is freed and not handed out. */
  giveBack(segment: Segment, slot: number): void {
    if (!segment.giveBack(slot) || !this.#segments.has(segment)) return
    this.#noteRoom(segment)
  }

  /** The segment whose last use is longest ago among those that `may` be given up (default all); null when there is none. */
  leastUsed(may?: (segment: Segment) => boolean): Segment | null {
    let least: Segment | null = null
    for (const segment of this.#segments) {
      if ((least === null || segment.lastUse < least.lastUse) && (may === undefined || may(segment))) least = segment
    }
    return least
  }

  #noteRoom(segment: Segment): void {
    if (segment.freeSlots === 0 || segment === this.#current || this.#isRoomy.has(segment)) return
    this.#isRoomy.add(segment)
    this.#roomy.push(segment)
  }

  #nextSegment(): Segment | null {
    const roomy = this.#roomy
    let best = -1
    while (roomy.length > 0 && roomy[roomy.length - 1]!.freeSlots === 0) this.#isRoomy.delete(roomy.pop()!)
    for (let i = roomy.length - 1; i >= 0 && i >= roomy.length - LOOK_AT; i--) {
      if (best < 0 || roomy[i]!.freeSlots > roomy[best]!.freeSlots) best = i
    }
    if (best < 0) return null
    const segment = roomy[best]!
    roomy[best] = roomy[roomy.length - 1]!
    roomy.pop()
    this.#isRoomy.delete(segment)
    return segment
  }
}
