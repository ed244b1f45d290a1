import { RequestQueue } from './request-queue.js'
import type { TransferRequest } from './transfer-request.js'

/**
 * The queue of one storage directory, and what it has in flight. Each directory has its own, with its own share of the limits,
 * so that one whose file system hangs cannot take the memory or the message slots of the others.
 */
export class DirectoryLane {
  readonly index: number
  /** Bytes this directory may have in flight. */
  readonly bytesMax: number
  readonly batchesMax: number
  bytesInFlight = 0
  requestsInFlight = 0
  batchesInFlight = 0
  /** When an operation of this directory last came back by itself; performance.now(). */
  answeredAt = 0
  readonly #foreground = new RequestQueue()
  readonly #background = new RequestQueue()

  constructor(index: number, bytesMax: number, batchesMax: number) {
    this.index = index
    this.bytesMax = bytesMax
    this.batchesMax = batchesMax
  }

  push(request: TransferRequest): void {
    (request.scope.priority === 'background' ? this.#background : this.#foreground).push(request)
  }

  /** The next request that still wants to go; foreground before background. */
  peek(): TransferRequest | null { return this.#foreground.peek() ?? this.#background.peek() }

  /** Takes out what peek() answered. */
  shift(): void {
    if (this.#foreground.peek()) this.#foreground.shift()
    else this.#background.shift()
  }

  /** Everything that waits and is not settled. */
  waiting(): TransferRequest[] { return [...this.#foreground.waiting(), ...this.#background.waiting()] }
}
