const SMALLEST = 64

/**
 * Doubly linked lists of small whole numbers in typed arrays: an entry is in one list at most, and goes in and out anywhere
 * in constant time. 10 bytes an entry, grown by doubling. The front is what goes first.
 */
export class EntryLists {
  private next = new Int32Array(SMALLEST)
  private previous = new Int32Array(SMALLEST)
  /** Which list an entry is in, from 1; 0 is none. */
  private place = new Uint16Array(SMALLEST)
  private readonly first: Int32Array
  private readonly last: Int32Array
  private readonly count: Int32Array

  /** `lists`: 1 to 65,535 lists, numbered from 0. */
  constructor(lists: number) {
    this.first = new Int32Array(lists).fill(-1)
    this.last = new Int32Array(lists).fill(-1)
    this.count = new Int32Array(lists)
  }

  /** Entries that the arrays have room for. */
  get room(): number { return this.place.length }

  /** The list that an entry is in, -1 for none. */
  listOf(entry: number): number { return entry < this.place.length ? this.place[entry]! - 1 : -1 }

  size(list: number): number { return this.count[list]! }

  front(list: number): number { return this.first[list]! }

  back(list: number): number { return this.last[list]! }

  /** The entry behind this one, towards the back; -1 behind the last. */
  after(entry: number): number { return this.next[entry]! }

  /** The entry before this one, towards the front; -1 before the first. */
  before(entry: number): number { return this.previous[entry]! }

  /** Puts an entry that is in no list behind all others. */
  pushBack(list: number, entry: number): void {
    if (entry >= this.place.length) this.grow(entry)
    const last = this.last[list]!
    this.place[entry] = list + 1
    this.previous[entry] = last
    this.next[entry] = -1
    if (last < 0) this.first[list] = entry
    else this.next[last] = entry
    this.last[list] = entry
    this.count[list]!++
  }

  /** Puts an entry that is in no list before all others. */
  pushFront(list: number, entry: number): void {
    if (entry >= this.place.length) this.grow(entry)
    const first = this.first[list]!
    this.place[entry] = list + 1
    this.previous[entry] = -1
    this.next[entry] = first
    if (first < 0) this.last[list] = entry
    else this.previous[first] = entry
    this.first[list] = entry
    this.count[list]!++
  }

  /** Takes an entry out of its list; false when it is in none. */
  remove(entry: number): boolean {
    const list = this.listOf(entry)
    if (list < 0) return false
    const next = this.next[entry]!
    const previous = this.previous[entry]!
    if (previous < 0) this.first[list] = next
    else this.next[previous] = next
    if (next < 0) this.last[list] = previous
    else this.previous[next] = previous
    this.place[entry] = 0
    this.count[list]!--
    return true
  }

  /** Puts all entries of one list behind those of another, in their order. Takes time for each of them. */
  append(from: number, to: number): void {
    const first = this.first[from]!
    if (first < 0) return
    for (let entry = first; entry >= 0; entry = this.next[entry]!) this.place[entry] = to + 1
    const end = this.last[to]!
    this.previous[first] = end
    if (end < 0) this.first[to] = first
    else this.next[end] = first
    this.last[to] = this.last[from]!
    this.count[to]! += this.count[from]!
    this.first[from] = -1
    this.last[from] = -1
    this.count[from] = 0
  }

  private grow(entry: number): void {
    let room = this.place.length * 2
    while (room <= entry) room *= 2
    const next = new Int32Array(room)
    next.set(this.next)
    this.next = next
    const previous = new Int32Array(room)
    previous.set(this.previous)
    this.previous = previous
    const place = new Uint16Array(room)
    place.set(this.place)
    this.place = place
  }
}
