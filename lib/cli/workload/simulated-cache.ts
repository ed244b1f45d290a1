import { ClairvoyantPolicy } from '../../storage/policies/clairvoyant.js'
import type { EvictionPolicy } from '../../storage/policies/eviction-policy.js'
import type { TraceTable } from './trace-table.js'

const always = (): boolean => true

/**
 * A cache of page numbers without any bytes: what a policy would hit, in seconds instead of minutes. A request's leading run of
 * pages that are there are its hits; all its other pages are written.
 */
export class SimulatedCache {
  hits = 0
  evicted = 0
  /** Entry of each page, -1 when it is not there; and the other way round. Entries are used again, as a page index uses its rows. */
  private readonly entries: Int32Array
  private readonly pageOf: number[] = []
  private readonly free: number[] = []
  private stored = 0

  /** `capacityPages`: Infinity for a cache that keeps everything. `mayGo`: whether an entry may be given up. Default: every one. */
  constructor(
    private readonly policy: EvictionPolicy, private readonly capacityPages: number, private readonly trace: TraceTable,
    private readonly mayGo: (entry: number) => boolean = always,
  ) {
    this.entries = new Int32Array(trace.distinctPages).fill(-1)
  }

  /** Plays the whole trace. `onRequest` is called before every request. */
  play(onRequest: () => void = always): void {
    const { trace } = this
    const clairvoyant = this.policy instanceof ClairvoyantPolicy ? this.policy : null
    const nextUses = clairvoyant === null ? null : trace.nextUses()
    for (let request = 0; request < trace.requests; request++) {
      onRequest()
      let missed = false
      let parent = -1
      let before = -1
      for (let at = trace.starts[request]!; at < trace.starts[request + 1]!; at++) {
        const page = trace.pages[at]!
        // Storing this page may have let the one before it go: its entry is then another page's.
        if (parent >= 0 && this.pageOf[parent] !== before) parent = -1
        if (clairvoyant !== null) clairvoyant.nextUse = nextUses![at]!
        let entry = this.entries[page]!
        if (entry >= 0) {
          if (!missed) this.hits++
          this.policy.touch(entry, parent)
        } else {
          missed = true
          entry = this.store(page, parent)
        }
        parent = entry
        before = page
      }
    }
  }

  /** Stores a page, and lets another one go where there is no room. Answers its entry, -1 when it has none. */
  private store(page: number, parent: number): number {
    if (this.capacityPages < 1) return -1
    if (this.stored >= this.capacityPages) {
      const victim = this.policy.victim(this.mayGo)
      if (victim < 0) return -1
      this.policy.remove(victim)
      this.entries[this.pageOf[victim]!] = -1
      this.pageOf[victim] = -1
      this.free.push(victim)
      this.stored--
      this.evicted++
    }
    const entry = this.free.pop() ?? this.pageOf.length
    this.pageOf[entry] = page
    this.entries[page] = entry
    this.stored++
    this.policy.insert(entry, this.pageOf[parent] === -1 ? -1 : parent, identityOf(page))
    return entry
  }
}

/** 32 bits that look like those of a digest, never 0. */
function identityOf(page: number): number {
  let word = page + 1 | 0
  word = Math.imul(word ^ word >>> 16, 0x85ebca6b)
  word = Math.imul(word ^ word >>> 13, 0xc2b2ae35)
  return (word ^ word >>> 16) >>> 0
}
