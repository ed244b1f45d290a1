/** Numbers that look random and are the same for the same seed, so that a trial that failed can be run again. */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = Math.imul(seed, 0x9e3779b1) ^ 0x5bf03635
    if (this.#state === 0) this.#state = 1
    // Seeds that differ in one bit give like numbers at first.
    for (let i = 0; i < 8; i++) this.#next()
  }

  /** A whole number from 0 to `limit` - 1. */
  below(limit: number): number { return Math.floor(this.#next() / 2 ** 32 * limit) }

  chance(probability: number): boolean { return this.#next() / 2 ** 32 < probability }

  pick<T>(list: readonly T[]): T { return list[this.below(list.length)]! }

  /** A seed for somebody else's numbers. */
  seed(): number { return this.#next() }

  #next(): number {
    // xorshift32
    this.#state ^= this.#state << 13
    this.#state ^= this.#state >>> 17
    this.#state ^= this.#state << 5
    return this.#state >>> 0
  }
}
