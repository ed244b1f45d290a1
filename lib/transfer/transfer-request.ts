import type { HiCacheError } from '../error.js'
import type { Pinnable } from '../memory/pinnable.js'
import type { Slot } from '../memory/slot.js'
import type { CallScope } from './call-scope.js'
import { Op } from './protocol.js'
import type { StorageHold } from './storage-hold.js'

/**
 * What a request means for its page, whatever the layout calls it. Writes and deletes of one page go one after the other, in the order of their calls; reads and checks may be answered by what is
 * under way; `other` (a touch, an eviction's record) is none of that.
 */
export type RequestRole = 'write' | 'delete' | 'read' | 'check' | 'other'

/** Where the bytes of a request are. */
export type RequestMemory =
  /** No payload: check, delete, touch. */
  | { readonly kind: 'none' }
  /** Registered memory, used as it is; its owner is pinned while it is in flight. `bytes`: the same memory as this thread sees it; without it the request
      shares nothing with others of its page. */
  | { readonly kind: 'direct'; readonly region: number; readonly offset: number; readonly owner: Pinnable; readonly bytes?: Uint8Array }
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

/** Hears how a request ended. With the request, so that one function can listen to many: a closure a page is memory that the collector has to carry. */
export type ResultListener = (result: RequestResult, request: TransferRequest) => void

/** One page on its way. The batcher moves it; whoever made it hears once, by `onResult`. */
export class TransferRequest {
  readonly op: number
  /** protocol.ts's Flag. Those that depend on what is stored may be set by storage.admit(). */
  flags: number
  /** The flags as they were before. */
  readonly flagsAsked: number
  readonly role: RequestRole
  readonly directory: number
  /** Stored key of the page. */
  readonly storedKey: string
  /** The key as the caller gave it, for messages. */
  readonly key: string
  readonly memory: RequestMemory
  /** Payload bytes. */
  readonly length: number
  /** Meta of the page to be written, which reads of it answer while it is under way; empty otherwise. */
  readonly meta: Uint8Array
  /** Its place in the segments; null for the file layout. */
  readonly storage: StorageHold | null
  /** Only storage itself may answer it: no write that is under way, no other read. */
  readonly fromStorage: boolean
  readonly scope: CallScope
  readonly #onResult: ResultListener

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
  /** storage.admit() said 'go'. */
  placed = false
  /** It went to a worker. */
  dispatched = false
  /** The kernel still had it when its batch ended or it was given up. */
  quarantined = false
  /** How native code said that it ended. */
  nativeEnd: 'untouched' | 'unknown' | number | null = null
  /** Others may join this read (PageTraffic knows it). */
  leads = false
  /** Reads of the same bytes that wait for this one's. */
  joiners: TransferRequest[] | null = null
  #storageEnded = false

  constructor(init: {
    op: number; flags: number; directory: number; storedKey: string; key?: string; memory: RequestMemory; length: number; meta: Uint8Array; scope: CallScope
    onResult: ResultListener
    storage?: StorageHold | null
    /** Default: by `op`; tombstones are `other`. */
    role?: RequestRole
    fromStorage?: boolean
  }) {
    this.op = init.op
    this.flags = this.flagsAsked = init.flags
    this.role = init.role ?? roleOf(init.op)
    this.storage = init.storage ?? null
    this.fromStorage = init.fromStorage ?? false
    this.directory = init.directory
    this.storedKey = init.storedKey
    this.key = init.key ?? init.storedKey
    this.memory = init.memory
    this.length = init.length
    this.meta = init.meta
    this.scope = init.scope
    this.#onResult = init.onResult
    this.scope.add(this)
  }

  /** When it was asked for, in milliseconds of performance.now(). */
  get madeAt(): number { return this.scope.madeAt }

  /** Does it need a staging slot? */
  get staged(): boolean {
    const { kind } = this.memory
    return kind !== 'none' && kind !== 'direct'
  }

  /** May what is under way for its page answer it? */
  get shareable(): boolean {
    if (this.fromStorage) return false
    return this.role === 'check' || (this.role === 'read' && (this.memory.kind !== 'direct' || this.memory.bytes !== undefined))
  }

  get storageEnded(): boolean { return this.storage === null || this.#storageEnded }

  /** Tells the storage, once, that native code is through with the request, and how. */
  endStorage(how: 'untouched' | 'unknown' | number): void {
    if (this.storageEnded) return
    this.#storageEnded = true
    this.storage!.ended(how)
  }

  settle(result: RequestResult): void {
    if (this.settled) return
    this.settled = true
    // First the result: what follows from it (a second read, of the right length) joins the call before the call counts as over.
    this.#onResult(result, this)
    this.scope.settled()
  }
}

function roleOf(op: number): RequestRole {
  switch (op) {
    case Op.pageWrite: case Op.segmentWrite: return 'write'
    case Op.pageDelete: return 'delete'
    case Op.pageRead: case Op.segmentRead: return 'read'
    case Op.pageCheck: return 'check'
    default: return 'other'
  }
}
