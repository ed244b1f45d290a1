import type { PageIndex } from './page-index.js'

export interface LeasesOptions {
  readonly index: PageIndex
  /** How many pages of this size there are: at most half of them are leased at once. */
  readonly pages: () => number
  /** How long a lease lasts, in milliseconds; 0 = none are given. Default 1000, at most an hour. */
  readonly leaseMs?: number
}

const LEASE_MS = 1000
const LEASE_MS_MAX = 3_600_000
/** Milliseconds of a tick: leases end up to one tick late. */
const TICK_MS = 16

/**
 * What a lookup answered with yes stays for a short while, so that the read which follows finds it. At most half of the pages of a size are leased at once: one beyond that
 * is simply not leased, or lookups of everything would leave writes nothing to give up.
 *
 * A lease is a tick in the page's row of the index; how many there are is counted by the tick in which they end, so none has to be taken back: a page that goes
 * away with its lease is counted until that would have ended. `now` is in milliseconds of a clock that does not go back (performance.now()).
 */
export class Leases {
  readonly leaseMs: number
  readonly #index: PageIndex
  readonly #pages: () => number
  readonly #ticks: number
  /** Leases by the tick in which they end, modulo its length. */
  readonly #ending: Uint32Array
  #tick = 0
  #count = 0

  constructor(options: LeasesOptions) {
    this.#index = options.index
    this.#pages = options.pages
    this.leaseMs = Math.min(LEASE_MS_MAX, Math.max(0, options.leaseMs ?? LEASE_MS))
    this.#ticks = Math.ceil(this.leaseMs / TICK_MS)
    this.#ending = new Uint32Array(this.#ticks + 1)
  }

  /** Leases the page until now + leaseMs; one that is leased already, until then. False when half of the pages are leased. */
  lease(entry: number, now: number): boolean {
    if (this.#ticks === 0) return false
    this.#advance(now)
    const left = this.#left(entry)
    if (left === this.#ticks) return true
    const until = this.#tick + this.#ticks
    if (left > 0) {
      this.#ending[(this.#tick + left) % this.#ending.length]!--
    } else {
      if (2 * (this.#count + 1) > this.#pages()) return false
      this.#count++
    }
    this.#ending[until % this.#ending.length]!++
    this.#index.setLease(entry, until)
    return true
  }

  isLeased(entry: number, now: number): boolean {
    this.#advance(now)
    return this.#left(entry) > 0
  }

  /** May the page be given up: it is neither leased nor pinned. */
  mayEvict(entry: number, now: number): boolean {
    return this.#index.pins(entry) === 0 && !this.isLeased(entry, now)
  }

  /** Leases that have not ended. */
  count(now: number): number {
    this.#advance(now)
    return this.#count
  }

  /** Ticks until the page's lease ends, 0 = it has none. The row has the tick's lower 32 bits, which come round every 795 days. */
  #left(entry: number): number {
    const left = (this.#index.leaseOf(entry) - this.#tick) >>> 0
    return left <= this.#ticks ? left : 0
  }

  #advance(now: number): void {
    // Behind the first one by a lease at least, so that 0 in a row means that it was never leased.
    const tick = Math.floor(now / TICK_MS) + 1
    if (tick <= this.#tick) return
    if (tick - this.#tick >= this.#ending.length) {
      this.#ending.fill(0)
      this.#count = 0
    } else {
      for (let ended = this.#tick + 1; ended <= tick; ended++) {
        const at = ended % this.#ending.length
        this.#count -= this.#ending[at]!
        this.#ending[at] = 0
      }
    }
    this.#tick = tick
  }
}
