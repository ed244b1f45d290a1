import { Buffer } from 'node:buffer'

/** Metas that there can be at once: what a row of the page index has room for. */
const METAS_MAX = 2 ** 24

/**
 * The metas (dtype and shape) of all pages, each kept once and counted: pages of one model have one or a few, and a row of the page index has three bytes for it.
 */
export class MetaTable {
  readonly #numbers = new Map<string, number>()
  readonly #metas: (Uint8Array | null)[] = []
  readonly #uses: number[] = []
  readonly #unused: number[] = []
  #last: Uint8Array | null = null
  #lastNumber = 0

  /** Different metas in use. */
  get size(): number { return this.#metas.length - this.#unused.length }

  /** The number of a meta with these bytes, used once more; -1 when there are 16,777,216 others. A new one is copied. */
  acquire(meta: Uint8Array): number {
    if (meta === this.#last && this.#metas[this.#lastNumber] === meta) {
      this.#uses[this.#lastNumber]!++
      return this.#lastNumber
    }
    const key = Buffer.from(meta.buffer, meta.byteOffset, meta.byteLength).toString('latin1')
    let number = this.#numbers.get(key)
    if (number === undefined) {
      number = this.#unused.pop() ?? this.#metas.length
      if (number >= METAS_MAX) return -1
      this.#numbers.set(key, number)
      this.#metas[number] = meta.slice()
      this.#uses[number] = 0
    }
    this.#uses[number]!++
    this.#last = this.#metas[number]!
    this.#lastNumber = number
    return number
  }

  /** The bytes: the same object for as long as the number is in use, so what is made of them can be kept in a WeakMap. */
  get(number: number): Uint8Array { return this.#metas[number]! }

  /** One use less; without any the number may come to mean another meta. */
  release(number: number): void {
    if (--this.#uses[number]! > 0) return
    const meta = this.#metas[number]!
    this.#numbers.delete(Buffer.from(meta.buffer, meta.byteOffset, meta.byteLength).toString('latin1'))
    this.#metas[number] = null
    this.#unused.push(number)
  }
}
