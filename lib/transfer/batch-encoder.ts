import type { CompletionWords } from './completion-words.js'
import type { PageNaming } from './page-naming.js'
import { DESCRIPTOR_STRIDE, Field, Op } from './protocol.js'
import type { TransferRequest } from './transfer-request.js'

/** What an answer takes from native code to its caller, generously. */
const ANSWER_MS = 50

/** A message to a worker: descriptors and the opaque bytes they point into, both of exact size. */
export interface EncodedBatch { readonly descriptors: Float64Array; readonly blob: Uint8Array; readonly wantMetas: boolean }

/** Turns requests into descriptors. One growing scratch serves all batches; what leaves is an exact copy. */
export class BatchEncoder {
  readonly #layout: PageNaming
  readonly #words: CompletionWords
  readonly #arenaRegion: number
  #blob = new Uint8Array(64 * 1024)

  constructor(layout: PageNaming, words: CompletionWords, arenaRegion: number) {
    this.#layout = layout
    this.#words = words
    this.#arenaRegion = arenaRegion
  }

  encode(requests: readonly TransferRequest[]): EncodedBatch {
    const descriptors = new Float64Array(requests.length * DESCRIPTOR_STRIDE)
    let at = 0
    let wantMetas = false
    for (let i = 0; i < requests.length; i++) {
      const request = requests[i]!
      const base = i * DESCRIPTOR_STRIDE
      this.#reserve(at, request)
      descriptors[base + Field.op] = request.op
      descriptors[base + Field.flags] = request.flags
      descriptors[base + Field.directory] = request.directory
      at = request.storage?.encode(descriptors, base, this.#blob, at) ?? this.#encodePlace(request, descriptors, base, at)
      if (request.memory.kind === 'direct') {
        descriptors[base + Field.region] = request.memory.region
        descriptors[base + Field.memoryOffset] = request.memory.offset
      } else if (request.slot) {
        descriptors[base + Field.region] = this.#arenaRegion
        descriptors[base + Field.memoryOffset] = request.slot.offset
      }
      descriptors[base + Field.length] = request.length
      descriptors[base + Field.word] = request.word
      descriptors[base + Field.wordQueued] = this.#words.value(request.word)
      if (this.#layout.wantsMeta(request.op) || request.op === Op.segmentWrite) wantMetas = true
    }
    return { descriptors, blob: this.#blob.slice(0, at), wantMetas }
  }

  /** Name, identity and meta of a page file or an object. */
  #encodePlace(request: TransferRequest, descriptors: Float64Array, base: number, at: number): number {
    descriptors[base + Field.nameOffset] = at
    const nameEnd = this.#layout.encodeName(request.storedKey, this.#blob, at)
    descriptors[base + Field.nameLength] = nameEnd - at
    descriptors[base + Field.recordOffset] = nameEnd
    const identityEnd = this.#layout.encodeIdentity(request.storedKey, this.#blob, nameEnd)
    descriptors[base + Field.identityLength] = identityEnd - nameEnd
    this.#blob.set(request.meta, identityEnd)
    descriptors[base + Field.metaLength] = request.meta.length
    if (this.#layout.remote) {
      // A little before the deadline, so that the caller hears what was tried in vain, and not only that time is up.
      const { msLeft } = request.scope
      descriptors[base + Field.fileOffset] = Math.max(1, msLeft - Math.min(ANSWER_MS, Math.ceil(msLeft / 20)))
    }
    return identityEnd + request.meta.length
  }

  #reserve(at: number, request: TransferRequest): void {
    const need = at + (request.storage?.encodedBytesMax ?? this.#layout.encodedBytesMax(request.storedKey) + request.meta.length)
    if (need <= this.#blob.length) return
    const grown = new Uint8Array(Math.max(need, this.#blob.length * 2))
    grown.set(this.#blob.subarray(0, at))
    this.#blob = grown
  }
}
