/** What a timer that has run out tells. */
export interface Timed { expire(): void }

/**
 * One timer for all that is watched in one turn of the event loop for the same time: a timer for each of hundreds of single calls cost as much as finding their pages.
 * It ends when nobody is left.
 */
export class TurnTimer {
  static #latest: TurnTimer | null = null
  readonly #ms: number
  readonly #watched = new Set<Timed>()
  readonly #timer: NodeJS.Timeout

  /** `one.expire()` is called in `ms` milliseconds, unless leave() comes before. */
  static watch(one: Timed, ms: number): TurnTimer {
    let timer = TurnTimer.#latest
    if (timer === null || timer.#ms !== ms) {
      const fresh = timer = TurnTimer.#latest = new TurnTimer(ms)
      queueMicrotask(() => { if (TurnTimer.#latest === fresh) TurnTimer.#latest = null })
    }
    timer.#watched.add(one)
    return timer
  }

  private constructor(ms: number) {
    this.#ms = ms
    this.#timer = setTimeout(() => { for (const one of [...this.#watched]) if (this.#watched.delete(one)) one.expire() }, ms)
  }

  leave(one: Timed): void {
    if (!this.#watched.delete(one) || this.#watched.size > 0) return
    clearTimeout(this.#timer)
    if (TurnTimer.#latest === this) TurnTimer.#latest = null
  }
}
