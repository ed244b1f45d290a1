/**
 * The identities of pages given up lately, first in, first out: whether a page that comes in was here before. A page without
 * identity (0) is never known.
 */
export class GhostQueue {
  /** A Set keeps insertion order: its first value is the oldest. */
  private readonly identities = new Set<number>()

  get size(): number { return this.identities.size }

  /** Notes a page, and forgets the oldest ones above `most`. */
  add(identity: number, most: number): void {
    if (identity === 0) return
    this.identities.delete(identity)
    this.identities.add(identity)
    for (const oldest of this.identities) {
      if (this.identities.size <= most) break
      this.identities.delete(oldest)
    }
  }

  /** Whether the page was noted; it no longer is. */
  take(identity: number): boolean { return this.identities.delete(identity) }
}
