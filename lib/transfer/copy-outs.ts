import { HiCacheError } from '../error.js'
import { quote } from '../memory/tensor.js'
import { type CopyBudget, FRESH_MEMORY_WEIGHT } from './copy-budget.js'
import type { RequestResult, TransferRequest } from './transfer-request.js'

/** Where the bytes of a page are for a while. */
export interface CopySource {
  /** The page's bytes, or null when they are not to be had there any more. */
  bytes(): Uint8Array | null
  release(): void
}

/** A page on its way from a slot, a write or another's target to where its reader wants it. */
export interface CopyOut {
  readonly request: TransferRequest
  readonly result: RequestResult & { readonly failure: null }
  readonly source: CopySource
  /** Called once it is over, whatever came of it. */
  readonly onEnd?: () => void
}

export interface CopyOutEnds {
  readonly settle: (request: TransferRequest, result: RequestResult) => void
  /** The bytes are there: for `fresh` in `bytes`, else where the request wanted them. */
  readonly done: (request: TransferRequest, result: RequestResult & { readonly failure: null }, bytes: Uint8Array | null) => void
  /** Its source went away before all was copied. */
  readonly again: (request: TransferRequest) => void
}

/** Copies pages to their readers, one after the other, as far as each turn's budget goes. */
export class CopyOuts {
  readonly #budget: CopyBudget
  readonly #ends: CopyOutEnds
  readonly #queue: CopyOut[] = []
  /** Of the first, when it goes to memory of its own: made when its turn comes, so that pages that wait take none. */
  #fresh: Uint8Array | null = null

  constructor(budget: CopyBudget, ends: CopyOutEnds) {
    this.#budget = budget
    this.#ends = ends
  }

  get size(): number { return this.#queue.length }

  push(copy: CopyOut): void {
    copy.request.copied = 0
    this.#queue.push(copy)
  }

  requests(): TransferRequest[] { return this.#queue.map(({ request }) => request) }

  run(): void {
    let head = 0
    while (head < this.#queue.length && this.#step(this.#queue[head]!)) {
      const { source, onEnd } = this.#queue[head++]!
      this.#fresh = null
      source.release()
      onEnd?.()
    }
    if (head > 0) this.#queue.splice(0, head)
  }

  /** False: the budget is used up. */
  #step({ request, result, source }: CopyOut): boolean {
    if (request.settled) return true
    const from = source.bytes()
    if (from?.byteLength !== request.length) {
      this.#ends.again(request)
      return true
    }
    const { memory } = request
    const into = memory.kind === 'fresh' ? this.#fresh ??= new Uint8Array(request.length) : memory.kind === 'arena' ? request.slot!.view()
      : memory.kind === 'copy-out' || memory.kind === 'direct' ? memory.bytes! : null
    if (into?.byteLength !== request.length) {
      this.#ends.settle(request, { failure: 'failed', error: new HiCacheError('ERR_ARGUMENT',
        `The target of ${quote(request.key)} was detached or resized before it was filled.`, { key: request.key }) })
      return true
    }
    const now = this.#budget.take(request.length - request.copied, this.#fresh ? FRESH_MEMORY_WEIGHT : 1)
    if (now > 0) {
      into.set(now === request.length ? from : from.subarray(request.copied, request.copied + now), request.copied)
      request.copied += now
    }
    if (request.copied < request.length) return false
    this.#ends.done(request, result, this.#fresh)
    return true
  }
}
