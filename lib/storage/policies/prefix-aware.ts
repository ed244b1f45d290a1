import { CANDIDATES_MAX } from './candidates.js'
import { ChainLinks } from './chain-links.js'
import { EntryLists } from './entry-lists.js'
import type { EvictionPolicy } from './eviction-policy.js'
import { GhostTable } from './ghost-table.js'
import { AGE_BINS, ageBin, ReuseStatistics } from './reuse-statistics.js'

/** Buckets of how often a page's chain was taken up: 0, 1, 2, 3-4, 5-8, 9-32, more. */
const TURN_BUCKETS = 7
const COUNT_MAX = 255
/**
 * Buckets of how many new pages came before this one in its run (up to 3, 15, 63, more), or once it was used again, of how long
 * that took (up to 1, 7, 31 slabs, longer).
 */
const DEPTH_BUCKETS = 4
const FRESH = 0
const AGAIN = DEPTH_BUCKETS
const END = 2 * DEPTH_BUCKETS
const CLASSES = TURN_BUCKETS * (END + 1)
/** Classes of one count are alike, whatever else they are; ends of runs are not like the others. */
const CLASS_GROUPS = Array.from({ length: CLASSES }, (_, kind) => kind % TURN_BUCKETS + (kind < TURN_BUCKETS * END ? 0 : TURN_BUCKETS))
/** A slab is the pages used last within a stretch of references: this part of the pages that are there. Ages are told by slabs. */
const SLABS_PER_SIZE = 32
/** Slabs that are told apart; what is older is in one list of its class. */
const SLABS = 256
const LISTS_PER_CLASS = SLABS + 1
const SLAB_REFERENCES_MIN = 32
/** What was learnt counts half after so many references, in multiples of the pages that are there. */
const HALF_LIFE = 8
/** Worths are worked out anew after so many slabs, and not more often than after so many references. */
const LEARN_EVERY = 4
const LEARN_REFERENCES_MIN = 256
/** From this share on of pages without parents that come behind the same page as before, there are chains without parents. */
const REPEATS_WITHOUT_PARENTS = 0.3
/** Pages asked about in one list before the next one has its turn: those of one batch are pinned together. */
const CANDIDATES_PER_LIST = 32
/** Of the candidates, so many are those used longest ago, in case all others are pinned. */
const CANDIDATES_OLDEST = 64
/** Steps towards the end of a chain for one candidate: parents that were given wrong could go round in circles. */
const DESCENT_MAX = 4096

const END_OF_RUN = 1
const USED_AGAIN = 2

/**
 * Gives up what is worth least, by what is learnt from the pages that are used again and from those that are not.
 *
 * - **Classes.** How often a chain was taken up (a page that goes on with a chain takes over its count, one that branches off a
 *   shared beginning starts at none), whether it is the end of its run, and how many new pages came before it in its run or, once it
 *   was used again, how long that took.
 * - **Worth.** For each class and age, ReuseStatistics says how many uses to expect for each reference that a page is kept.
 * - **Ghosts.** Pages given up are remembered for about as long again: their coming back tells what keeping them would have
 *   brought, and they go on with their count.
 * - **Tails first.** A page is worthless without those before it: in a run the end goes first, and where a page with others behind
 *   it is worth least, the end of the chain behind it goes instead.
 *
 * Where chains come without parents, age alone counts; where no identities are, the policy learns from the pages that are there. All
 * operations take constant time, amortised.
 */
export class PrefixAwarePolicy implements EvictionPolicy {
  readonly name = 'prefix-aware'
  /** For each class a ring of lists, one for each slab, and one for what is older than all of these. */
  private readonly lists = new EntryLists(CLASSES * LISTS_PER_CLASS)
  private readonly chains = new ChainLinks()
  private readonly ghosts = new GhostTable()
  private readonly statistics = new ReuseStatistics(CLASS_GROUPS)
  /** Lifetimes that go on, of pages and of ghosts, for each list. */
  private readonly alive = new Int32Array(CLASSES * LISTS_PER_CLASS)
  private readonly aliveByAge = new Float64Array(CLASSES * AGE_BINS)
  private readonly slabStarts = new Float64Array(SLABS)

  private identities = new Uint32Array(this.lists.room)
  private runs = new Uint32Array(this.lists.room)
  private turns = new Uint8Array(this.lists.room)
  private depths = new Uint8Array(this.lists.room)
  private branches = new Uint8Array(this.lists.room)
  private flags = new Uint8Array(this.lists.room)
  /** The page that came right before this one when it was used last. */
  private forerunners = new Int32Array(this.lists.room)

  private size = 0
  /** References so far. */
  private clock = 0
  private slab = SLABS
  private slabEnd = SLAB_REFERENCES_MIN
  private fadedAt = 0
  private learnt = false
  private run = 1
  /** Runs and references of late: older ones count less, as all that was learnt. */
  private recentRuns = 0
  private recentReferences = 0
  /** Pages used again without a parent of late, and those of them that came right behind the same page as before. */
  private parentless = 0
  private repeats = 0
  private latest = -1
  /** Lists with pages in them as orderKey() has them, the one worth least first; how many they are; and the first not used up. */
  private readonly order = new Float64Array(CLASSES * LISTS_PER_CLASS)
  private orderLength = 0
  private orderAt = 0
  private sorted = false
  /** Where the last walk to the end of a chain began, and the page before the one it found: the next walk goes on there. */
  private walkFrom = -1
  private walkedTo = -1
  private readonly ageOfGhost = (value: number): number => this.slab - value & 0xffff

  insert(entry: number, parent: number, identity = 0): void {
    if (this.has(entry)) {
      this.touch(entry, parent)
      return
    }
    this.tick()
    this.beginRun(parent)
    if (entry >= this.identities.length) this.grow(entry)
    this.size++
    let turns = 0
    let depth = 0
    if (this.has(parent)) {
      const fresh = (this.flags[parent]! & USED_AGAIN) === 0
      if (fresh || this.branches[parent]! <= 1) turns = this.turns[parent]!
      if (fresh) depth = Math.min(COUNT_MAX, this.depths[parent]! + 1)
    }
    const ghost = this.ghosts.take(identity)
    if (ghost >= 0) {
      const kind = ghost >>> 16 & 0xff
      const age = this.ageOfGhost(ghost)
      this.alive[this.listOf(kind, age)]!--
      this.statistics.reused(kind, this.referencesOf(age))
      turns = Math.max(turns, Math.min(COUNT_MAX, (ghost >>> 24) + 1))
    }
    this.identities[entry] = identity
    this.turns[entry] = turns
    this.depths[entry] = depth
    this.branches[entry] = 0
    this.flags[entry] = END_OF_RUN
    this.follow(entry, parent)
    this.place(entry)
  }

  touch(entry: number, parent: number): void {
    if (!this.has(entry)) return
    this.tick()
    if (parent < 0 && this.chains.parentOf(entry) < 0) {
      this.parentless++
      if (this.latest >= 0 && this.forerunners[entry] === this.latest) this.repeats++
    }
    this.beginRun(parent)
    const list = this.lists.listOf(entry)
    const age = this.ageOfList(list)
    // A lookup and the read after it are one use: what happens within a slab is not told apart.
    if (age > 0) {
      this.statistics.reused(list / LISTS_PER_CLASS | 0, this.referencesOf(age))
      this.turns[entry] = Math.min(COUNT_MAX, this.turns[entry]! + 1)
      this.depths[entry] = age < 2 ? 0 : age < 8 ? 1 : age < 32 ? 2 : 3
      this.flags[entry] = END_OF_RUN | USED_AGAIN
      this.follow(entry, parent)
      this.unplace(entry)
      this.place(entry)
    } else {
      this.follow(entry, parent)
    }
  }

  remove(entry: number): void {
    if (!this.has(entry)) return
    const list = this.lists.listOf(entry)
    const kind = list / LISTS_PER_CLASS | 0
    const age = this.ageOfList(list)
    this.chains.remove(entry)
    this.lists.remove(entry)
    this.size--
    if (entry === this.latest) this.latest = -1
    if (entry === this.walkFrom || entry === this.walkedTo) this.walkFrom = -1
    const identity = this.identities[entry]!
    if (identity === 0 || age >= 0xffff) {
      this.forget(kind, age)
      return
    }
    const value = (this.turns[entry]! << 24 | kind << 16 | this.slab - age & 0xffff) >>> 0
    const lost = this.ghosts.add(identity, value, this.ageOfGhost)
    if (lost >= 0) this.forget(lost >>> 16 & 0xff, this.ageOfGhost(lost))
  }

  victim(may: (entry: number) => boolean): number {
    if (this.size === 0) return -1
    if (!this.sorted) this.sort()
    const found = this.leastWorth(may)
    if (found >= 0) return found
    // Everything is in the slab that is being filled: it ends here.
    if (this.orderAt >= this.orderLength) {
      this.beginSlab()
      this.sort()
      const young = this.leastWorth(may)
      if (young >= 0) return young
    }
    return this.oldest(may)
  }

  private has(entry: number): boolean { return entry >= 0 && this.lists.listOf(entry) >= 0 }

  private tick(): void {
    this.recentReferences++
    if (++this.clock >= this.slabEnd) this.beginSlab()
  }

  private beginRun(parent: number): void {
    if (parent >= 0 && parent === this.latest) return
    this.run = this.run + 1 >>> 0
    this.recentRuns++
  }

  /** The page is in the run now, behind its parent. */
  private follow(entry: number, parent: number): void {
    this.runs[entry] = this.run
    this.forerunners[entry] = this.latest
    this.latest = entry
    if (parent === entry || !this.has(parent)) return
    if (this.chains.parentOf(entry) < 0) {
      this.chains.link(entry, parent)
      if (this.branches[parent]! < COUNT_MAX) this.branches[parent]!++
    }
    if ((this.flags[parent]! & END_OF_RUN) !== 0) {
      this.flags[parent]! &= ~END_OF_RUN
      this.unplace(parent)
      this.place(parent)
    }
  }

  /**
   * Puts a page into the list of its class that is being filled, before those that came earlier: of a run the end goes first, even
   * where nobody said that it is one. All pages of a slab are of one age, so nothing is lost of the order of recency.
   */
  private place(entry: number): void {
    const list = this.listOf(this.classOf(entry), 0)
    this.lists.pushFront(list, entry)
    this.alive[list]!++
  }

  private unplace(entry: number): void {
    this.alive[this.lists.listOf(entry)]!--
    this.lists.remove(entry)
  }

  /** A lifetime is lost sight of. */
  private forget(kind: number, age: number): void {
    this.alive[this.listOf(kind, age)]!--
    this.statistics.lost(kind, this.referencesOf(age))
  }

  private classOf(entry: number): number {
    // Pages that come one after the other again and again are chains, even if nobody says so. A count is of no use then: a new page
    // at the end of a chain that was taken up often would count for nothing, and holes would make what is behind them useless.
    if (this.repeats > this.parentless * REPEATS_WITHOUT_PARENTS) return TURN_BUCKETS * END
    const turns = this.turns[entry]!
    const turnBucket = turns < 3 ? turns : turns < 5 ? 3 : turns < 9 ? 4 : turns < 33 ? 5 : 6
    const depth = this.depths[entry]!
    const flags = this.flags[entry]!
    if ((flags & END_OF_RUN) !== 0) return END * TURN_BUCKETS + turnBucket
    if ((flags & USED_AGAIN) !== 0) return (AGAIN + depth) * TURN_BUCKETS + turnBucket
    return (FRESH + (depth < 4 ? 0 : depth < 16 ? 1 : depth < 64 ? 2 : 3)) * TURN_BUCKETS + turnBucket
  }

  /** The list of a class and an age in slabs. */
  private listOf(kind: number, age: number): number {
    return kind * LISTS_PER_CLASS + (age < SLABS ? (this.slab - age) % SLABS : SLABS)
  }

  /** A list's age in slabs. */
  private ageOfList(list: number): number {
    const place = list % LISTS_PER_CLASS
    return place === SLABS ? SLABS : (this.slab - place) % SLABS
  }

  /** References since the middle of the slab that is so old. */
  private referencesOf(age: number): number {
    const oldest = Math.min(age, SLABS - 1, this.slab - SLABS)
    const start = this.slabStarts[(this.slab - oldest) % SLABS]!
    const end = oldest === 0 ? this.clock : this.slabStarts[(this.slab - oldest + 1) % SLABS]!
    return this.clock - (start + end) / 2
  }

  private beginSlab(): void {
    const next = (this.slab + 1) % SLABS
    for (let kind = 0; kind < CLASSES; kind++) {
      const list = kind * LISTS_PER_CLASS + next
      const older = kind * LISTS_PER_CLASS + SLABS
      this.lists.append(list, older)
      this.alive[older]! += this.alive[list]!
      this.alive[list] = 0
    }
    this.slab++
    this.slabStarts[next] = this.clock
    const width = Math.max(SLAB_REFERENCES_MIN, Math.ceil(this.size / SLABS_PER_SIZE))
    this.slabEnd = this.clock + width
    this.ghosts.grow(this.size)
    this.sorted = false
    if (this.clock - this.fadedAt >= Math.max(LEARN_REFERENCES_MIN, width * LEARN_EVERY)) {
      const share = 0.5 ** ((this.clock - this.fadedAt) / (HALF_LIFE * Math.max(this.size, LEARN_REFERENCES_MIN)))
      this.statistics.fade(share)
      this.recentRuns *= share
      this.recentReferences *= share
      this.parentless *= share
      this.repeats *= share
      this.fadedAt = this.clock
      this.learnt = false
    }
  }

  /** Puts the lists in order once a slab, and only where something has to go: a store that is not full has nothing to learn yet. */
  private sort(): void {
    if (!this.learnt) this.learn()
    this.sortLists()
    this.sorted = true
  }

  private learn(): void {
    this.learnt = true
    const width = Math.max(SLAB_REFERENCES_MIN, Math.ceil(this.size / SLABS_PER_SIZE))
    this.aliveByAge.fill(0)
    for (let age = Math.min(SLABS, this.slab - SLABS); age > 0; age--) {
      const bin = ageBin(this.referencesOf(age))
      for (let kind = 0, list = this.listOf(0, age); kind < CLASSES; kind++, list += LISTS_PER_CLASS) {
        this.aliveByAge[kind * AGE_BINS + bin]! += this.alive[list]!
      }
    }
    this.statistics.learn(this.aliveByAge, width / 2, width * SLABS, this.recentReferences / this.recentRuns)
  }

  private sortLists(): void {
    let length = 0
    for (let age = Math.min(SLABS, this.slab - SLABS); age > 0; age--) {
      const bin = ageBin(this.referencesOf(age))
      for (let kind = 0, list = this.listOf(0, age); kind < CLASSES; kind++, list += LISTS_PER_CLASS) {
        if (this.lists.size(list) > 0) this.order[length++] = orderKey(this.statistics.worth(kind, bin), age, kind)
      }
    }
    this.order.subarray(0, length).sort()
    this.orderLength = length
    this.orderAt = 0
  }

  private listAt(at: number): number {
    const low = this.order[at]! % ORDER_LOW
    return this.listOf(low % ORDER_KINDS, SLABS - Math.floor(low / ORDER_KINDS))
  }

  private leastWorth(may: (entry: number) => boolean): number {
    while (this.orderAt < this.orderLength && this.lists.size(this.listAt(this.orderAt)) === 0) this.orderAt++
    let left = CANDIDATES_MAX - CANDIDATES_OLDEST
    for (let at = this.orderAt; at < this.orderLength && left > 0; at++) {
      let entry = this.lists.front(this.listAt(at))
      for (let asked = 0; entry >= 0 && asked < CANDIDATES_PER_LIST && left > 0; asked++, left--) {
        const last = this.endBehind(entry)
        // The run that is coming in is not over: what it has so far would be worthless without the rest, and the other way round.
        if (this.runs[last] !== this.run && may(last)) return last
        entry = this.lists.after(entry)
      }
      // Lists without pages cost a look, not a question; but not all of them.
      left--
    }
    return -1
  }

  private oldest(may: (entry: number) => boolean): number {
    let left = CANDIDATES_OLDEST
    for (let age = SLABS; age >= 0; age--) {
      for (let kind = 0; kind < CLASSES; kind++) {
        for (let entry = this.lists.front(this.listOf(kind, age)); entry >= 0; entry = this.lists.after(entry)) {
          if (may(entry)) return entry
          if (--left === 0) return -1
        }
      }
    }
    return -1
  }

  /** The end of the chain that goes on behind this page. */
  private endBehind(entry: number): number {
    let end = entry === this.walkFrom ? this.walkedTo : entry
    for (let steps = 0; steps < DESCENT_MAX; steps++) {
      const child = this.chains.childOf(end)
      if (child < 0) break
      end = child
    }
    const before = this.chains.parentOf(end)
    if (end !== entry && before >= 0) {
      this.walkFrom = entry
      this.walkedTo = before
    }
    return end
  }

  private grow(entry: number): void {
    let room = this.identities.length * 2
    while (room <= entry) room *= 2
    this.identities = grown(this.identities, new Uint32Array(room))
    this.runs = grown(this.runs, new Uint32Array(room))
    this.turns = grown(this.turns, new Uint8Array(room))
    this.depths = grown(this.depths, new Uint8Array(room))
    this.branches = grown(this.branches, new Uint8Array(room))
    this.flags = grown(this.flags, new Uint8Array(room))
    this.forerunners = grown(this.forerunners, new Int32Array(room))
  }
}

function grown<T extends Uint8Array | Uint32Array | Int32Array>(before: T, after: T): T {
  after.set(before)
  return after
}

const ORDER_KINDS = 64
const ORDER_LOW = ORDER_KINDS * 512
const single = new Float32Array(1)
const singleBits = new Uint32Array(single.buffer)

/** A number that orders by worth, then by age, the oldest first; and says which list it is. The bits of a positive float are in its order. */
function orderKey(worth: number, age: number, kind: number): number {
  single[0] = worth
  return singleBits[0]! * ORDER_LOW + (SLABS - age) * ORDER_KINDS + kind
}
