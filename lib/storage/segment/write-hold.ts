import { Field, Flag, Status } from '../../transfer/protocol.js'
import type { Admission, StorageHold } from '../../transfer/storage-hold.js'
import type { TransferRequest } from '../../transfer/transfer-request.js'
import { encodeSlot } from './encode-slot.js'
import type { Segment } from './segment.js'
import type { SegmentDirectory } from './segment-directory.js'
import { RECORD_BYTES, SlotRecord } from './slot-record.js'
import type { TakenSlot } from './size-class.js'

const CHECKSUM_BYTES = 8

export interface WriteHoldPage {
  readonly storedKey: string
  readonly digest: Uint32Array
  readonly length: number
  readonly extentBytes: number
  readonly meta: Uint8Array
  readonly namespaceDigest: Uint8Array
  readonly scope: Uint8Array
}

/** A page on its way into an extent: its slot, its record, and what becomes of both however it ends. */
export class WriteHold implements StorageHold {
  readonly #directory: SegmentDirectory
  readonly #page: WriteHoldPage
  readonly #sync: boolean
  request: TransferRequest | null = null
  /** The page of the same key that is there, when it may be the same one: pinned while that is found out. */
  #same: { readonly entry: number; readonly segment: Segment; readonly slot: number; readonly generation: number } | null = null
  #place: TakenSlot | null = null
  #generation = 0
  #writtenAt = 0
  #how: 'untouched' | 'unknown' | number | null = null
  #abandoned = false
  /** After Status.alreadyThere: the entry of the same page, as far as it still is there; -1. */
  known = -1

  constructor(directory: SegmentDirectory, page: WriteHoldPage, sync: boolean) {
    this.#directory = directory
    this.#page = page
    this.#sync = sync
  }

  get encodedBytesMax(): number { return this.#place!.segment.nameBytes.length + CHECKSUM_BYTES + RECORD_BYTES }

  admit(): Admission {
    const { index, space } = this.#directory
    if (!this.#directory.writable) return { refused: `the storage directory ${this.#directory.opened.path} cannot be written` }
    const place = space.take(this.#page.extentBytes)
    if (place === 'wait' || 'refused' in place) return place
    this.#place = place
    const request = this.request!
    if (this.#sync) request.flags |= Flag.sync
    const entry = index.find(this.#page.digest)
    if (entry >= 0 && index.length(entry) === this.#page.length && sameBytes(index.meta(entry), this.#page.meta)) {
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
    const { segment, slot } = this.#place!
    let record = encodeSlot(segment, slot, descriptors, base, blob, at)
    descriptors[base + Field.recordOffset] = record
    descriptors[base + Field.identityLength] = this.#same ? CHECKSUM_BYTES : 0
    descriptors[base + Field.metaLength] = RECORD_BYTES
    if (this.#same) {
      const { index } = this.#directory
      const view = new DataView(blob.buffer, blob.byteOffset + record, CHECKSUM_BYTES)
      view.setUint32(0, index.checksumLow(this.#same.entry), true)
      view.setUint32(4, index.checksumHigh(this.#same.entry), true)
      record += CHECKSUM_BYTES
    }
    this.#generation = ++segment.generations[slot]!
    this.#writtenAt = this.#directory.now()
    return SlotRecord.encodePage({
      segment: segment.id, slot, generation: this.#generation, writtenAt: this.#writtenAt, fileOffset: segment.fileOffsetOf(slot), length: this.#page.length,
      namespaceDigest: this.#page.namespaceDigest, scope: this.#page.scope, key: this.#page.storedKey, meta: this.#page.meta
    }, blob, record)
  }

  ended(how: 'untouched' | 'unknown' | number): void {
    this.#how = how
    // What was written well and is still waited for is committed by result(), which knows the checksum.
    if (!(how === Status.ok && !this.#abandoned)) this.#discard()
  }

  /** The caller has been told something else than how it ended: the page must not be there later. */
  abandon(): void {
    this.#abandoned = true
    if (this.#how === Status.ok) this.#discard()
  }

  /**
   * The page is on the disk: it can be found from now on. Answers its entry. `done` is called when an older copy of ours has its tombstone, or at once: only then may anybody
   * be told, or a delete that follows could leave the older one to be found after a crash.
   */
  commit(checksum: Uint8Array, done: () => void): number {
    const { index, space } = this.#directory
    const { segment, slot } = this.#place!
    const before = index.find(this.#page.digest)
    this.#letSameGo()
    if (before >= 0) this.#directory.drop(before, done)
    const view = new DataView(checksum.buffer, checksum.byteOffset, CHECKSUM_BYTES)
    const entry = index.insert(this.#page.digest, 0, segment.number, slot, this.#page.length, view.getUint32(0, true), view.getUint32(4, true), this.#writtenAt, this.#page.meta)
    this.#place = null
    if (space.isLeaving(segment)) space.drop(entry)
    if (before < 0) done()
    return entry
  }

  #discard(): void {
    if (this.#same && this.#how === Status.alreadyThere && this.#directory.holds(this.#same.entry, this.#same.segment, this.#same.slot, this.#same.generation)) {
      this.known = this.#same.entry
    }
    this.#letSameGo()
    const place = this.#place
    if (!place) return
    this.#place = null
    if (this.#how === 'untouched' || this.#how === Status.alreadyThere || this.#how === Status.cancelled) this.#directory.space.giveBack(place.segment, place.slot)
    else this.#directory.space.bury(place.segment, place.slot)
  }

  #letSameGo(): void {
    const same = this.#same
    this.#same = null
    if (same?.segment.own === true) this.#directory.space.unpin(same.entry)
  }
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a === b) return true
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}
