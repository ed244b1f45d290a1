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
  /** The number that was acquired last, -1 when it is no longer in use. */
  #last = -1

  /** Different metas in use. */
  get size(): number { return this.#metas.length - this.#unused.length }

  /** The number of a meta with these bytes, used once more; -1 when there are 16,777,216 others. A new one is copied. */
  acquire(meta: Uint8Array): number {
    // Compared by its bytes: the caller may write into the array that it gave.
    if (this.#last >= 0 && equal(this.#metas[this.#last]!, meta)) {
      this.#uses[this.#last]!++
      return this.#last
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
    this.#last = number
    return number
  }

  /** One use more of a number that is in use. */
  reuse(number: number): void { this.#uses[number]!++ }

  /** The bytes: the same object for as long as the number is in use, so what is made of them can be kept in a WeakMap. */
  get(number: number): Uint8Array { return this.#metas[number]! }

  /** One use less; without any the number may come to mean another meta. */
  release(number: number): void {
    if (--this.#uses[number]! > 0) return
    const meta = this.#metas[number]!
    this.#numbers.delete(Buffer.from(meta.buffer, meta.byteOffset, meta.byteLength).toString('latin1'))
    this.#metas[number] = null
    if (this.#last === number) this.#last = -1
    this.#unused.push(number)
  }
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}
