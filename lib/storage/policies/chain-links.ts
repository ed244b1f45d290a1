const SMALLEST = 64

/** Which entry follows which: a forest of small whole numbers in typed arrays, 16 bytes an entry, grown by doubling. */
export class ChainLinks {
  private parents = new Int32Array(SMALLEST).fill(-1)
  private children = new Int32Array(SMALLEST).fill(-1)
  private next = new Int32Array(SMALLEST).fill(-1)
  private previous = new Int32Array(SMALLEST).fill(-1)

  /** The entry before this one in its chain, -1 for none. */
  parentOf(entry: number): number { return entry < this.parents.length ? this.parents[entry]! : -1 }

  /** The youngest entry that follows this one, -1 for none. */
  childOf(entry: number): number { return entry < this.parents.length ? this.children[entry]! : -1 }

  /** Says that `entry`, which has no parent, follows `parent`. */
  link(entry: number, parent: number): void {
    if (Math.max(entry, parent) >= this.parents.length) this.grow(Math.max(entry, parent))
    const sibling = this.children[parent]!
    this.parents[entry] = parent
    this.next[entry] = sibling
    this.previous[entry] = -1
    if (sibling >= 0) this.previous[sibling] = entry
    this.children[parent] = entry
  }

  /** Forgets an entry: its children have no parent any more. Takes time for each child. */
  remove(entry: number): void {
    if (entry >= this.parents.length) return
    const parent = this.parents[entry]!
    if (parent >= 0) {
      const next = this.next[entry]!
      const previous = this.previous[entry]!
      if (previous >= 0) this.next[previous] = next
      else this.children[parent] = next
      if (next >= 0) this.previous[next] = previous
      this.parents[entry] = -1
    }
    for (let child = this.children[entry]!; child >= 0; child = this.next[child]!) this.parents[child] = -1
    this.children[entry] = -1
  }

  private grow(entry: number): void {
    let room = this.parents.length * 2
    while (room <= entry) room *= 2
    this.parents = grown(this.parents, room)
    this.children = grown(this.children, room)
    this.next = grown(this.next, room)
    this.previous = grown(this.previous, room)
  }
}

function grown(before: Int32Array<ArrayBuffer>, room: number): Int32Array<ArrayBuffer> {
  const after = new Int32Array(room).fill(-1, before.length)
  after.set(before)
  return after
}
