/** Bytes of memory (already touched) that the main thread copies before it lets other work run: about 2 ms at 4-5 GiB/s. */
export const COPY_BYTES_PER_TICK = 8 * 1024 * 1024
/** Fresh memory costs a page fault every 4 KiB, so a byte of it counts as four. */
export const FRESH_MEMORY_WEIGHT = 4

/** Limits how much is copied on the main thread between two turns of the event loop. */
export class CopyBudget {
  #left = COPY_BYTES_PER_TICK
  #onRenewed: () => void
  #scheduled = false

  /** `onRenewed` runs in a later turn, after the budget was used up. */
  constructor(onRenewed: () => void) { this.#onRenewed = onRenewed }

  /** How many of `bytes` may be copied now; 0 when the budget of this turn is used up (`onRenewed` will come). */
  take(bytes: number, weight = 1): number {
    this.#schedule()
    const granted = Math.min(bytes, Math.floor(this.#left / weight))
    this.#left -= granted * weight
    return granted
  }

  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      const wasEmpty = this.#left < FRESH_MEMORY_WEIGHT
      this.#left = COPY_BYTES_PER_TICK
      if (wasEmpty) this.#onRenewed()
    })
  }
}
