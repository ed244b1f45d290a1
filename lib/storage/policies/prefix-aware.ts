import { CANDIDATES_MAX } from './candidates.js'
import { EntryLists } from './entry-lists.js'
import type { EvictionPolicy } from './eviction-policy.js'

/** Recency, with the tail of a chain older than its head: a page is worthless without those before it. */
export class PrefixAwarePolicy implements EvictionPolicy {
  readonly name = 'prefix-aware'
  private readonly lists = new EntryLists(1)
  /** The page that came or was read last: a page that names it as its parent goes on with the same run. */
  private latest = -1

  insert(entry: number, parent: number, _identity = 0): void {
    this.lists.remove(entry)
    if (parent >= 0 && parent === this.latest && this.lists.listOf(parent) >= 0) this.lists.insertBefore(parent, entry)
    else this.lists.pushBack(0, entry)
    this.latest = entry
  }

  touch(entry: number, parent: number): void {
    if (this.lists.listOf(entry) >= 0) this.insert(entry, parent)
  }

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
