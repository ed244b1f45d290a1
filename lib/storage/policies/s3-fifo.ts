import { CANDIDATES_MAX } from './candidates.js'
import { EntryLists } from './entry-lists.js'
import type { EvictionPolicy } from './eviction-policy.js'
import { GhostQueue } from './ghost-queue.js'

const SMALL = 0
const MAIN = 1
/** A tenth of the pages are on probation, as published. */
const SMALL_SHARE = 0.1
const COUNT_MAX = 3

/**
 * S3-FIFO (Yang and others, SOSP 2023), for comparison: pages come into a small queue, go on to the main one if they were read
 * meanwhile, and straight into the main one if they had been given up lately; the main queue spares what was read.
 */
export class S3FifoPolicy implements EvictionPolicy {
  readonly name = 's3-fifo'
  private readonly lists = new EntryLists(2)
  private readonly ghosts = new GhostQueue()
  private reads = new Uint8Array(this.lists.room)
  private identities = new Uint32Array(this.lists.room)

  insert(entry: number, parent: number, identity = 0): void {
    if (this.lists.listOf(entry) >= 0) {
      this.touch(entry, parent)
      return
    }
    this.lists.pushBack(this.ghosts.take(identity) ? MAIN : SMALL, entry)
    if (this.reads.length < this.lists.room) {
      const reads = new Uint8Array(this.lists.room)
      reads.set(this.reads)
      this.reads = reads
      const identities = new Uint32Array(this.lists.room)
      identities.set(this.identities)
      this.identities = identities
    }
    this.reads[entry] = 0
    this.identities[entry] = identity
  }

  touch(entry: number, _parent: number): void {
    if (this.lists.listOf(entry) >= 0 && this.reads[entry]! < COUNT_MAX) this.reads[entry]!++
  }

  remove(entry: number): void {
    const list = this.lists.listOf(entry)
    if (list === SMALL) this.ghosts.add(this.identities[entry]!, this.lists.size(MAIN))
    this.lists.remove(entry)
  }

  victim(may: (entry: number) => boolean): number {
    const { lists } = this
    for (let asked = 0; asked < CANDIDATES_MAX;) {
      const small = lists.size(SMALL)
      const main = lists.size(MAIN)
      if (small + main === 0) return -1
      const list = main === 0 || small > 0 && small >= (small + main) * SMALL_SHARE ? SMALL : MAIN
      const entry = lists.front(list)
      const reads = this.reads[entry]!
      if (list === SMALL ? reads <= 1 : reads === 0) {
        if (may(entry)) return entry
        // It cannot go now: it waits at the end of its queue, so that the next question is about another one.
        asked++
        lists.remove(entry)
        lists.pushBack(list, entry)
      } else {
        lists.remove(entry)
        lists.pushBack(MAIN, entry)
        this.reads[entry] = list === SMALL ? 0 : reads - 1
      }
    }
    return -1
  }
}
