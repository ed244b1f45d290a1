import { CANDIDATES_MAX } from './candidates.js'
import { EntryLists } from './entry-lists.js'
import type { EvictionPolicy } from './eviction-policy.js'

/** What came first goes first, whatever was read since. */
export class FifoPolicy implements EvictionPolicy {
  readonly name: string = 'fifo'
  protected readonly lists = new EntryLists(1)

  insert(entry: number, parent: number): void {
    if (this.lists.listOf(entry) >= 0) this.touch(entry, parent)
    else this.lists.pushBack(0, entry)
  }

  touch(_entry: number, _parent: number): void {}

  remove(entry: number): void { this.lists.remove(entry) }

  victim(may: (entry: number) => boolean): number {
    let entry = this.lists.front(0)
    for (let asked = 0; entry >= 0 && asked < CANDIDATES_MAX; asked++) {
      if (may(entry)) return entry
      entry = this.lists.after(entry)
    }
    return -1
  }
}
