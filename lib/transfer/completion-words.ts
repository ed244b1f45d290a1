import { WORD_STATE_BITS, WordState } from './protocol.js'

const GENERATION_MAX = 2 ** (31 - WORD_STATE_BITS) - 1

/**
 * One Int32 in shared memory per operation in flight: who may touch its memory. It outlives the worker, so that the memory of an
 * operation that the kernel still holds is never given to another, whatever died meanwhile. See protocol.ts for the states.
 */
export class CompletionWords {
  readonly shared: Int32Array
  readonly #free: number[] = []

  constructor(count: number) {
    this.shared = new Int32Array(new SharedArrayBuffer(count * 4))
    for (let i = count - 1; i >= 0; i--) this.#free.push(i)
  }

  get available(): number { return this.#free.length }

  /** An index whose word says `queued` in a new generation, or -1 when all are taken. */
  take(): number {
    const index = this.#free.pop()
    if (index === undefined) return -1
    const generation = (Atomics.load(this.shared, index) >>> WORD_STATE_BITS) % GENERATION_MAX + 1
    Atomics.store(this.shared, index, generation << WORD_STATE_BITS | WordState.queued)
    return index
  }

  value(index: number): number { return Atomics.load(this.shared, index) }

  /** Is the operation over, or has it never begun: may its memory be used again? */
  isDone(index: number): boolean {
    const state = Atomics.load(this.shared, index) & 7
    return state === WordState.done || state === WordState.cancelled || state === WordState.free
  }

  /**
   * Calls the operation off. True: it has not begun and never will, its memory is free now. False: it has begun (and is marked, so that the addon's cancel()
   * asks the kernel to let go), or is over.
   */
  cancel(index: number): boolean {
    const value = Atomics.load(this.shared, index)
    const base = value & ~7
    if ((value & 7) === WordState.queued &&
      Atomics.compareExchange(this.shared, index, value, base | WordState.cancelled) === value) return true
    // Between the load and here it may have become `started`; from there only native code ends it.
    Atomics.compareExchange(this.shared, index, base | WordState.started, base | WordState.cancelling)
    return (Atomics.load(this.shared, index) & 7) === WordState.cancelled
  }

  /** The word may serve another operation: it is done, or was called off before it began. */
  giveBack(index: number): void { this.#free.push(index) }
}
