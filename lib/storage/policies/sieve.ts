import { CANDIDATES_MAX } from './candidates.js'
import { EntryLists } from './entry-lists.js'
import type { EvictionPolicy } from './eviction-policy.js'

/**
 * SIEVE (Zhang and others, NSDI 2024), for comparison: entries stay in the order they came in; a hand goes from the oldest to
 * the youngest and round again, spares what was read since it came by last, and gives up the first that was not.
 */
export class SievePolicy implements EvictionPolicy {
  readonly name = 'sieve'
  private readonly lists = new EntryLists(1)
  private visited = new Uint8Array(this.lists.room)
  private hand = -1

  insert(entry: number, parent: number): void {
    if (this.lists.listOf(entry) >= 0) {
      this.touch(entry, parent)
      return
    }
    this.lists.pushBack(0, entry)
    if (this.visited.length < this.lists.room) {
      const visited = new Uint8Array(this.lists.room)
      visited.set(this.visited)
      this.visited = visited
    }
    this.visited[entry] = 0
  }

  touch(entry: number, _parent: number): void {
    if (this.lists.listOf(entry) >= 0) this.visited[entry] = 1
  }

  remove(entry: number): void {
    if (entry === this.hand) this.hand = this.lists.after(entry)
    this.lists.remove(entry)
  }

  victim(may: (entry: number) => boolean): number {
    const { lists, visited } = this
    // Sparing costs no question: every entry spared was read since, so the walk is paid for by those reads.
    for (let asked = 0; asked < CANDIDATES_MAX;) {
      if (this.hand < 0) this.hand = lists.front(0)
      const entry = this.hand
      if (entry < 0) return -1
      if (visited[entry] === 0) {
        if (may(entry)) return entry
        asked++
      }
      visited[entry] = 0
      this.hand = lists.after(entry)
    }
    return -1
  }
}
