import { HiCacheError } from '../error.js'
import type { TransferRequest } from './transfer-request.js'
import { TurnTimer } from './turn-timer.js'

/** Options of every call that transfers or looks up. */
export interface CallOptions {
  /** Ends the call's unsettled pages as `cancelled`. */
  signal?: AbortSignal
  /** Deadline in milliseconds from now, 1 to 2^31-1; unset: the cache's own `timeoutMs`. Pages unsettled by then end as `timeout`. */
  timeoutMs?: number
  /** Background requests go when no foreground request waits. Default: foreground. */
  priority?: 'foreground' | 'background'
}

/** What the requests of one call share: deadline, signal, priority. One timer and one listener for the whole batch. */
export class CallScope {
  readonly priority: 'foreground' | 'background'
  /** Milliseconds of performance.now() at its making. */
  readonly madeAt = performance.now()
  /** Requests of this call that were admitted: in `reject` mode the rest of a batch larger than the limit may wait for them. */
  admitted = 0
  readonly #requests: TransferRequest[] = []
  readonly #timeoutMs: number
  readonly #signal: AbortSignal | undefined
  #onEnd: ((requests: TransferRequest[], error: HiCacheError) => void) | null = null
  #timer: TurnTimer | null = null
  #unsettled = 0
  /** When the clock was started first; performance.now(). */
  #startedAt = 0

  constructor(options: CallOptions, timeoutMsDefault: number) {
    this.priority = options.priority ?? 'foreground'
    this.#timeoutMs = options.timeoutMs ?? timeoutMsDefault
    this.#signal = options.signal
  }

  /** Whole milliseconds until the deadline, at least one: nobody asks for a request that has none left. */
  get msLeft(): number {
    const since = this.#startedAt > 0 ? this.#startedAt : this.madeAt
    return Math.max(1, Math.ceil(this.#timeoutMs - (performance.now() - since)))
  }

  get signal(): AbortSignal | undefined { return this.#signal }
  get aborted(): boolean { return this.#signal?.aborted === true }
  abortError(): HiCacheError {
    return new HiCacheError('ERR_CANCELLED', 'The request was cancelled by its signal.', { cause: this.#signal?.reason })
  }

  add(request: TransferRequest): void {
    this.#requests.push(request)
    this.#unsettled++
  }

  /** Starts the clock; once more, it goes on with what is left of the time. `onEnd` gets the requests that are unsettled when the deadline passes or the signal fires. */
  watch(onEnd: (requests: TransferRequest[], error: HiCacheError) => void): void {
    if (this.#unsettled === 0) return
    this.#timer?.leave(this)
    this.#timer = null
    this.#onEnd = onEnd
    // A signal that has fired already never tells its listeners.
    if (this.aborted) return this.#end(this.abortError())
    let left = this.#timeoutMs
    if (this.#startedAt > 0) left = Math.max(0, left - (performance.now() - this.#startedAt))
    else this.#startedAt = performance.now()
    this.#timer = TurnTimer.watch(this, left)
    this.#signal?.addEventListener('abort', this.#onAbort, { once: true })
  }

  /** The deadline has passed. */
  expire(): void {
    this.#end(new HiCacheError('ERR_TIMEOUT', `The request did not end within its deadline of ${this.#timeoutMs} ms. If that repeats, look at health() and the storage.`))
  }

  settled(): void {
    if (--this.#unsettled === 0) this.#unwatch()
  }

  readonly #onAbort = (): void => this.#end(this.abortError())

  #end(error: HiCacheError): void {
    const onEnd = this.#onEnd
    this.#unwatch()
    onEnd?.(this.#requests.filter(request => !request.settled), error)
  }

  #unwatch(): void {
    this.#onEnd = null
    this.#timer?.leave(this)
    this.#timer = null
    this.#signal?.removeEventListener('abort', this.#onAbort)
  }
}
