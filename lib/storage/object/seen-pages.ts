/** As many keys are remembered. */
const KEYS_MAX = 65_536
/** Another machine may delete a page at any time: what was seen is believed for so long. */
const FORGET_MS = 10_000

/** Pages that this process wrote or saw in the object store a moment ago. Bounded: the one seen longest ago goes first. */
export class SeenPages {
  readonly #until = new Map<string, number>()
  readonly #keysMax: number
  readonly #forgetMs: number
  readonly #now: () => number
  #deletes = 0

  constructor(options: { readonly keysMax?: number; readonly forgetMs?: number; readonly now?: () => number } = {}) {
    this.#keysMax = options.keysMax ?? KEYS_MAX
    this.#forgetMs = options.forgetMs ?? FORGET_MS
    this.#now = options.now ?? (() => performance.now())
  }

  get size(): number { return this.#until.size }

  /** To be asked for when a question goes out, and given to add() with the answer: an answer from before a page was deleted must not bring it back. */
  get epoch(): number { return this.#deletes }

  has(storedKey: string): boolean {
    const until = this.#until.get(storedKey)
    if (until === undefined) return false
    if (this.#now() < until) return true
    this.#until.delete(storedKey)
    return false
  }

  /** `epoch`: of the question that was answered. Without one it is certain: a write, which no delete can have overtaken. */
  add(storedKey: string, epoch = this.#deletes): void {
    if (epoch !== this.#deletes) return
    this.#until.delete(storedKey)
    if (this.#until.size >= this.#keysMax) this.#until.delete(this.#until.keys().next().value!)
    this.#until.set(storedKey, this.#now() + this.#forgetMs)
  }

  /** A look at storage did not find it. */
  forget(storedKey: string): void { this.#until.delete(storedKey) }

  /** It is being deleted, or was. */
  deleted(storedKey: string): void {
    this.#deletes++
    this.#until.delete(storedKey)
  }

  clear(): void {
    this.#deletes++
    this.#until.clear()
  }
}
