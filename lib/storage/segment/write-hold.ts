import { Field, Flag, Status } from '../../transfer/protocol.js'
import type { Admission, StorageHold } from '../../transfer/storage-hold.js'
import type { TransferRequest } from '../../transfer/transfer-request.js'
import { encodeSlot } from './encode-slot.js'
import type { Landed } from './landed.js'
import type { Segment } from './segment.js'
import type { SegmentDirectory } from './segment-directory.js'
import { CHECKSUM_BYTES, RECORD_BYTES, SlotRecord } from './slot-record.js'

/** What is alike for the pages of a store, and almost always for those of a call. */
export interface PageKind {
  readonly namespaceDigest: Uint8Array
  readonly scope: Uint8Array
  readonly meta: Uint8Array
}

/** A page on its way into an extent: its slot, its record, and what becomes of both however it ends. */
export class WriteHold implements StorageHold, Landed {
  readonly #directory: SegmentDirectory
  readonly #kind: PageKind
  readonly #digests: Uint32Array
  readonly #digestAt: number
  readonly #extentBytes: number
  readonly #sync: boolean
  request: TransferRequest | null = null
  /** The page of the same key that is there, when it may be the same one: pinned while that is found out. */
  #same: { readonly entry: number; readonly segment: Segment; readonly slot: number; readonly generation: number } | null = null
  /** The slot is ours to give back. */
  #holdsSlot = false
  #writtenAt = 0
  #how: 'untouched' | 'unknown' | number | null = null
  #abandoned = false
  #checksummed = false
  #checksumLow = 0
  #checksumHigh = 0
  /** Where the page went, or (alreadyThere) was: its entry once it is known to be there. */
  entry = -1
  segment: Segment | null = null
  slot = 0
  generation = 0
  written = true

  /** The page's digest: 4 words from `digests[digestAt]` on. */
  constructor(directory: SegmentDirectory, kind: PageKind, digests: Uint32Array, digestAt: number, extentBytes: number, sync: boolean) {
    this.#directory = directory
    this.#kind = kind
    this.#digests = digests
    this.#digestAt = digestAt
    this.#extentBytes = extentBytes
    this.#sync = sync
  }

  get encodedBytesMax(): number { return this.segment!.nameBytes.length + CHECKSUM_BYTES + RECORD_BYTES }
  /** Native code has said what the page's checksum is. */
  get checksummed(): boolean { return this.#checksummed }
  /** What its record says, in microseconds since the epoch; 0 before it was made. */
  get writtenAt(): number { return this.#writtenAt }

  admit(): Admission {
    const { index, space } = this.#directory
    if (!this.#directory.writable) return { refused: `the storage directory ${this.#directory.opened.path} cannot be written` }
    const place = space.take(this.#extentBytes)
    if (place === 'wait' || 'refused' in place) return place
    this.segment = place.segment
    this.slot = place.slot
    this.#holdsSlot = true
    const request = this.request!
    if (this.#sync) request.flags |= Flag.sync
    const entry = index.find(this.#digests, this.#digestAt)
    if (entry >= 0 && index.length(entry) === request.length && sameBytes(index.meta(entry), this.#kind.meta)) {
      const segment = index.segment(entry)
      const slot = index.slot(entry)
      if (!segment.own || index.pin(entry)) {
        this.#same = { entry, segment, slot, generation: segment.generations[slot]! }
        request.flags |= Flag.compareFirst
      }
    }
    return 'go'
  }

  encode(descriptors: Float64Array, base: number, blob: Uint8Array, at: number): number {
    const { slot } = this
    const segment = this.segment!
    const request = this.request!
    let record = encodeSlot(segment, slot, descriptors, base, blob, at)
    descriptors[base + Field.recordOffset] = record
    descriptors[base + Field.identityLength] = this.#same ? CHECKSUM_BYTES : 0
    descriptors[base + Field.metaLength] = RECORD_BYTES
    if (this.#same) {
      const { index } = this.#directory
      record = SlotRecord.encodeChecksum(index.checksumLow(this.#same.entry), index.checksumHigh(this.#same.entry), blob, record)
    }
    this.generation = ++segment.generations[slot]!
    this.#writtenAt = this.#directory.now()
    return SlotRecord.encodePage({
      segment: segment.id, slot, generation: this.generation, writtenAt: this.#writtenAt, fileOffset: segment.fileOffsetOf(slot), length: request.length,
      namespaceDigest: this.#kind.namespaceDigest, scope: this.#kind.scope, key: request.storedKey, meta: this.#kind.meta
    }, blob, record)
  }

  takeMeta(metas: Uint8Array, at: number): void {
    this.#checksumLow = u32(metas, at)
    this.#checksumHigh = u32(metas, at + 4)
    this.#checksummed = true
  }

  ended(how: 'untouched' | 'unknown' | number): void {
    this.#how = how
    // What was written well and is still waited for is committed by whoever hears the result.
    if (!(how === Status.ok && !this.#abandoned)) this.#discard()
  }

  /** The caller has been told something else than how it ended: the page must not be there later. */
  abandon(): void {
    this.#abandoned = true
    if (this.#how === Status.ok) this.#discard()
  }

  /** The entry of the page that this one takes the place of; -1 = none. It goes before commit(). */
  get older(): number { return this.#directory.index.find(this.#digests, this.#digestAt) }

  /** The page is on the disk: it can be found from now on. */
  commit(): void {
    const { index, space } = this.#directory
    const segment = this.segment!
    if (this.#same) this.#letSameGo()
    this.entry = index.insert(this.#digests, this.#digestAt, segment.number, this.slot, this.request!.length, this.#checksumLow, this.#checksumHigh, this.#writtenAt, this.#kind.meta)
    this.#holdsSlot = false
    if (space.isLeaving(segment)) space.drop(this.entry)
  }

  #discard(): void {
    const { segment, slot } = this
    const same = this.#same
    if (same && this.#how === Status.alreadyThere && this.#directory.holds(same.entry, same.segment, same.slot, same.generation)) {
      this.entry = same.entry
      this.segment = same.segment
      this.slot = same.slot
      this.generation = same.generation
      this.written = false
    }
    this.#letSameGo()
    if (!this.#holdsSlot) return
    this.#holdsSlot = false
    if (this.#how === 'untouched' || this.#how === Status.alreadyThere || this.#how === Status.cancelled) this.#directory.space.giveBack(segment!, slot)
    else this.#directory.space.bury(segment!, slot, this.#digests.slice(this.#digestAt, this.#digestAt + 4))
  }

  #letSameGo(): void {
    const same = this.#same
    this.#same = null
    if (same?.segment.own === true) this.#directory.space.unpin(same.entry)
  }
}

function u32(bytes: Uint8Array, at: number): number { return (bytes[at]! | bytes[at + 1]! << 8 | bytes[at + 2]! << 16 | bytes[at + 3]! << 24) >>> 0 }

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a === b) return true
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}
