import type { HiCacheError } from '../error.js'
import type { Pinnable } from '../memory/pinnable.js'
import type { Slot } from '../memory/slot.js'
import type { CallScope } from './call-scope.js'

/** Where the bytes of a request are. */
export type RequestMemory =
  /** No payload: check, delete, touch. */
  | { readonly kind: 'none' }
  /** Registered memory, used as it is; its owner is pinned while it is in flight. */
  | { readonly kind: 'direct'; readonly region: number; readonly offset: number; readonly owner: Pinnable }
  /** A source in ordinary memory: copied into a slot before it goes. */
  | { readonly kind: 'copy-in'; readonly bytes: Uint8Array }
  /** A target in ordinary memory: read into a slot and copied out. */
  | { readonly kind: 'copy-out'; readonly bytes: Uint8Array }
  /** Read into a slot, answered as new ordinary memory. */
  | { readonly kind: 'fresh' }
  /** Read into a slot that becomes the caller's. */
  | { readonly kind: 'arena' }

/** How a request ended. `status` is protocol.ts's Status, or `failure` says why it never got one. */
export type RequestResult =
  | { readonly failure: null; readonly status: number; readonly errno: number; readonly length: number; readonly meta: Uint8Array | null
      /** For `fresh`: the bytes. For `arena`: the slot, which the receiver must hold or let go. */
      readonly bytes: Uint8Array | null; readonly slot: Slot | null }
  | { readonly failure: 'timeout' | 'cancelled' | 'rejected' | 'failed'; readonly error: HiCacheError }

/** One page on its way. The batcher moves it; whoever made it hears once, by `onResult`. */
export class TransferRequest {
  readonly op: number
  readonly flags: number
  readonly directory: number
  /** Stored key of the page. */
  readonly storedKey: string
  /** The key as the caller gave it, for messages. */
  readonly key: string
  readonly memory: RequestMemory
  /** Payload bytes. */
  readonly length: number
  /** Record meta to be written; empty otherwise. */
  readonly meta: Uint8Array
  readonly scope: CallScope
  readonly #onResult: (result: RequestResult) => void

  /** Settled requests are skipped wherever they still lie. */
  settled = false
  /** It is not counted among those that wait any more. */
  left = false
  /** The staging slot. */
  slot: Slot | null = null
  /** What is pinned while the kernel may touch the memory: the staging slot, or the owner of direct memory. */
  pinned: Pinnable | null = null
  /** Bytes copied so far, into or out of the slot. */
  copied = 0
  /** Bytes found unchanged after they were copied in over several turns. */
  compared = 0
  word = -1
  /** Milliseconds of performance.now() at its making. */
  readonly madeAt: number

  constructor(init: {
    op: number; flags: number; directory: number; storedKey: string; key?: string; memory: RequestMemory; length: number; meta: Uint8Array; scope: CallScope
    onResult: (result: RequestResult) => void
  }) {
    this.op = init.op
    this.flags = init.flags
    this.directory = init.directory
    this.storedKey = init.storedKey
    this.key = init.key ?? init.storedKey
    this.memory = init.memory
    this.length = init.length
    this.meta = init.meta
    this.scope = init.scope
    this.#onResult = init.onResult
    this.madeAt = performance.now()
    this.scope.add(this)
  }

  /** Does it need a staging slot? */
  get staged(): boolean {
    const { kind } = this.memory
    return kind !== 'none' && kind !== 'direct'
  }

  settle(result: RequestResult): void {
    if (this.settled) return
    this.settled = true
    // First the result: what follows from it (a second read, of the right length) joins the call before the call counts as over.
    this.#onResult(result)
    this.scope.settled()
  }
}
