export type SimulatedPolicy = 'fifo' | 'lru'

/** A cache of page numbers without any bytes: what a policy would hit, in seconds instead of minutes. */
export class SimulatedCache {
  /** A Map keeps insertion order: its first key is the next one to go. */
  private readonly pages = new Map<number, true>()
  evicted = 0

  /** `capacityPages`: Infinity for a cache that keeps everything. */
  constructor(readonly policy: SimulatedPolicy, readonly capacityPages: number) {}

  /** Length of the leading run of ids that are there; with LRU these become the youngest. */
  lookUp(ids: readonly number[]): number {
    let run = 0
    while (run < ids.length && this.pages.has(ids[run]!)) this.touch(ids[run++]!)
    return run
  }

  /** Stores a page, and lets the oldest go where there is no room. */
  store(id: number): void {
    if (this.pages.has(id)) {
      this.touch(id)
      return
    }
    if (this.capacityPages < 1) return
    if (this.pages.size >= this.capacityPages) {
      for (const oldest of this.pages.keys()) {
        this.pages.delete(oldest)
        this.evicted++
        break
      }
    }
    this.pages.set(id, true)
  }

  private touch(id: number): void {
    if (this.policy === 'fifo') return
    this.pages.delete(id)
    this.pages.set(id, true)
  }
}
