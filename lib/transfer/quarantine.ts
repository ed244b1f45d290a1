import type { Pinnable } from '../memory/pinnable.js'
import type { CompletionWords } from './completion-words.js'

const LOOK_EVERY_MS = 50

interface Held { readonly word: number; readonly pinned: Pinnable | null; readonly bytes: number; readonly onFreed: () => void }

/**
 * Memory of operations that were given up (deadline, signal, a dead worker) while the kernel still had it. It stays pinned until the
 * operation's completion word says `done`.
 */
export class Quarantine {
  readonly #words: CompletionWords
  readonly #onFreed: () => void
  #held: Held[] = []
  #timer: NodeJS.Timeout | null = null

  constructor(words: CompletionWords, onFreed: () => void) {
    this.#words = words
    this.#onFreed = onFreed
  }

  get bytes(): number { return this.#held.reduce((sum, held) => sum + held.bytes, 0) }
  get count(): number { return this.#held.length }

  add(word: number, pinned: Pinnable | null, bytes: number, onFreed: () => void): void {
    this.#held.push({ word, pinned, bytes, onFreed })
    // Nothing wakes us when the word changes (it may be the reaper thread of a dead worker), so look now and then; never keep the process alive for it.
    this.#timer ??= setInterval(() => this.look(), LOOK_EVERY_MS).unref()
  }

  /** Frees what the kernel has let go of. */
  look(): void {
    const before = this.#held.length
    this.#held = this.#held.filter(held => {
      if (!this.#words.isDone(held.word)) return true
      this.#words.giveBack(held.word)
      held.pinned?.unpin()
      held.onFreed()
      return false
    })
    if (this.#held.length === 0 && this.#timer) {
      clearInterval(this.#timer)
      this.#timer = null
    }
    if (this.#held.length < before) this.#onFreed()
  }

  /** Ends the looking; answers the bytes that the kernel still holds and that are therefore never used again. */
  close(): number {
    this.look()
    if (this.#timer) clearInterval(this.#timer)
    this.#timer = null
    return this.bytes
  }
}
