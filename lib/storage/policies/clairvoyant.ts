import { CANDIDATES_MAX } from './candidates.js'
import type { EvictionPolicy } from './eviction-policy.js'

/**
 * The bound that no policy passes, for simulations: what is used again last, or never, goes first (Belady). Whoever inserts or
 * touches says before when that page is used next, in any unit that grows; Infinity for never.
 *
 * A page is used whenever the pages behind it are, and before them in a request: so tails go before heads here by themselves.
 */
export class ClairvoyantPolicy implements EvictionPolicy {
  readonly name = 'clairvoyant'
  /** When the page of the next insert() or touch() is used after that. */
  nextUse = Number.POSITIVE_INFINITY
  /** A heap of entries, the one used last on top; where each entry is in it; and its next use. */
  private readonly heap: number[] = []
  private readonly places: number[] = []
  private readonly uses: number[] = []

  insert(entry: number, _parent: number): void {
    const place = this.places[entry] ?? -1
    this.uses[entry] = this.nextUse
    if (place >= 0) {
      this.settle(place)
      return
    }
    while (this.places.length <= entry) {
      this.places.push(-1)
      this.uses.push(0)
    }
    this.uses[entry] = this.nextUse
    this.places[entry] = this.heap.length
    this.heap.push(entry)
    this.settle(this.heap.length - 1)
  }

  touch(entry: number, parent: number): void {
    if ((this.places[entry] ?? -1) >= 0) this.insert(entry, parent)
  }

  remove(entry: number): void {
    const place = this.places[entry] ?? -1
    if (place < 0) return
    this.places[entry] = -1
    const last = this.heap.pop()!
    if (last === entry) return
    this.heap[place] = last
    this.places[last] = place
    this.settle(place)
  }

  victim(may: (entry: number) => boolean): number {
    // In the order of the heap's array, which is nearly that of the next uses: the first is exact.
    for (let place = 0; place < this.heap.length && place < CANDIDATES_MAX; place++) {
      if (may(this.heap[place]!)) return this.heap[place]!
    }
    return -1
  }

  private settle(from: number): void {
    const { heap, uses } = this
    let place = from
    while (place > 0 && uses[heap[place]!]! > uses[heap[place - 1 >> 1]!]!) place = this.swap(place, place - 1 >> 1)
    for (;;) {
      const left = place * 2 + 1
      if (left >= heap.length) return
      const child = left + 1 < heap.length && uses[heap[left + 1]!]! > uses[heap[left]!]! ? left + 1 : left
      if (uses[heap[child]!]! <= uses[heap[place]!]!) return
      place = this.swap(place, child)
    }
  }

  private swap(one: number, other: number): number {
    const entry = this.heap[one]!
    this.heap[one] = this.heap[other]!
    this.heap[other] = entry
    this.places[this.heap[one]] = one
    this.places[entry] = other
    return other
  }
}
