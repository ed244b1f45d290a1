/**
 * Places ranges of whole blocks in [0, blocks). Freed ranges are kept by exact size first, since real pages come in one or two
 * sizes and the next request is for the same one; they are merged with their neighbours only when that fails.
 */
export class SlotAllocator {
  readonly blocks: number
  #freeBlocks: number
  /** Free ranges, sorted by start, never touching each other. */
  #starts: number[]
  #ends: number[]
  /** Freed ranges by exact size, not in the lists above. */
  readonly #recent = new Map<number, number[]>()

  constructor(blocks: number) {
    this.blocks = blocks
    this.#freeBlocks = blocks
    this.#starts = [0]
    this.#ends = [blocks]
  }

  get freeBlocks(): number { return this.#freeBlocks }

  /** The first block of a range of `count`, or -1. */
  allocate(count: number): number {
    if (count > this.#freeBlocks) return -1
    const start = this.#recent.get(count)?.pop() ?? this.#carve(count)
    if (start >= 0) {
      this.#freeBlocks -= count
      return start
    }
    if (!this.#merge()) return -1
    const merged = this.#carve(count)
    if (merged >= 0) this.#freeBlocks -= count
    return merged
  }

  free(start: number, count: number): void {
    this.#freeBlocks += count
    const stack = this.#recent.get(count)
    if (stack) stack.push(start)
    else this.#recent.set(count, [start])
  }

  /** The longest range that allocate() would find now, in blocks. */
  largestFree(): number {
    this.#merge()
    let largest = 0
    for (let i = 0; i < this.#starts.length; i++) largest = Math.max(largest, this.#ends[i]! - this.#starts[i]!)
    return largest
  }

  /** First fit, lowest address. */
  #carve(count: number): number {
    for (let i = 0; i < this.#starts.length; i++) {
      const start = this.#starts[i]!
      if (this.#ends[i]! - start < count) continue
      if (this.#ends[i]! - start === count) {
        this.#starts.splice(i, 1)
        this.#ends.splice(i, 1)
      } else {
        this.#starts[i] = start + count
      }
      return start
    }
    return -1
  }

  /** Puts the recently freed ranges back among the others, neighbours joined. False when there were none. */
  #merge(): boolean {
    const ranges: [number, number][] = []
    for (const [count, stack] of this.#recent) {
      for (const start of stack) ranges.push([start, start + count])
      stack.length = 0
    }
    if (ranges.length === 0) return false
    // Sizes that are no longer seen do not stay in the map.
    this.#recent.clear()
    for (let i = 0; i < this.#starts.length; i++) ranges.push([this.#starts[i]!, this.#ends[i]!])
    ranges.sort((a, b) => a[0] - b[0])
    this.#starts = []
    this.#ends = []
    for (const [start, end] of ranges) {
      const last = this.#ends.length - 1
      if (last >= 0 && this.#ends[last] === start) this.#ends[last] = end
      else {
        this.#starts.push(start)
        this.#ends.push(end)
      }
    }
    return true
  }
}
