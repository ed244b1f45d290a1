import { FifoPolicy } from './fifo.js'

/** What was read or written longest ago goes first. */
export class LruPolicy extends FifoPolicy {
  override readonly name = 'lru'

  override touch(entry: number, _parent: number): void {
    if (this.lists.remove(entry)) this.lists.pushBack(0, entry)
  }
}
