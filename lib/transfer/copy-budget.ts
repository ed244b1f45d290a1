/** Bytes of memory (already touched) that the main thread copies before it lets other work run: about 2 ms at 4-5 GiB/s. */
export const COPY_BYTES_PER_TICK = 8 * 1024 * 1024
/** Fresh memory costs a page fault every 4 KiB, so a byte of it counts as four. */
export const FRESH_MEMORY_WEIGHT = 4

/** A page up to this size is copied in one go, so that what is stored is the page of one moment, whatever its owner does to it meanwhile. */
export const WHOLE_BYTES_MAX = 16 * 1024 * 1024

/** Limits how much is copied on the main thread between two turns of the event loop. */
export class CopyBudget {
  #left = COPY_BYTES_PER_TICK
  #onRenewed: () => void
  #scheduled = false
  /** Something did not fit what was left. */
  #waited = false

  /** `onRenewed` runs in a later turn, after the budget was used up. */
  constructor(onRenewed: () => void) { this.#onRenewed = onRenewed }

  /** How many of `bytes` may be copied now; 0 when the budget of this turn is used up (`onRenewed` will come). */
  take(bytes: number, weight = 1): number {
    this.#schedule()
    const granted = Math.max(0, Math.min(bytes, Math.floor(this.#left / weight)))
    this.#left -= granted * weight
    return granted
  }

  /**
   * As take(), but whole where it can be: all of it or, when this turn's budget has been drawn upon, nothing (`onRenewed` will come). Only more than
   * WHOLE_BYTES_MAX is granted in part.
   */
  takeWhole(bytes: number): number {
    if (bytes > WHOLE_BYTES_MAX) return this.take(bytes)
    this.#schedule()
    if (bytes > this.#left && this.#left < COPY_BYTES_PER_TICK) {
      this.#waited = true
      return 0
    }
    this.#left -= bytes
    return bytes
  }

  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      const wasEmpty = this.#waited || this.#left < FRESH_MEMORY_WEIGHT
      this.#waited = false
      this.#left = COPY_BYTES_PER_TICK
      if (wasEmpty) this.#onRenewed()
    })
  }
}
