import type { TransferRequest } from './transfer-request.js'

/** A queue that never empties is compacted now and then, or its array would grow for ever. */
const COMPACT_FROM = 4096

/** First in, first out; requests that were settled while they waited are skipped. */
export class RequestQueue {
  readonly #requests: TransferRequest[] = []
  #head = 0

  push(request: TransferRequest): void { this.#requests.push(request) }

  peek(): TransferRequest | null {
    while (this.#head < this.#requests.length && this.#requests[this.#head]!.settled) this.shift()
    return this.#requests[this.#head] ?? null
  }

  shift(): void {
    if (++this.#head >= this.#requests.length) {
      this.#requests.length = 0
      this.#head = 0
    } else if (this.#head >= COMPACT_FROM) {
      this.#requests.splice(0, this.#head)
      this.#head = 0
    }
  }

  waiting(): TransferRequest[] { return this.#requests.slice(this.#head).filter(request => !request.settled) }
}
