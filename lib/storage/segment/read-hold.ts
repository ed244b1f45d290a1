import { Field, Flag, Status } from '../../transfer/protocol.js'
import type { Admission, StorageHold } from '../../transfer/storage-hold.js'
import type { TransferRequest } from '../../transfer/transfer-request.js'
import { encodeSlot } from './encode-slot.js'
import type { Segment } from './segment.js'
import type { SegmentDirectory } from './segment-directory.js'
import { EXPECTED_BYTES, SlotRecord } from './slot-record.js'

const CHECKSUM_BYTES = 8

/** A read of a page: pinned while it lasts, when it is ours; checked to be still the same before and after, when it is another writer's. */
export class ReadHold implements StorageHold {
  readonly #directory: SegmentDirectory
  readonly #digest: Uint32Array
  /** The request that this is of; set once it is made. */
  request: TransferRequest | null = null
  pageMeta: Uint8Array | null = null
  entry = -1
  segment: Segment | null = null
  slot = 0
  generation = 0

  constructor(directory: SegmentDirectory, digest: Uint32Array) {
    this.#directory = directory
    this.#digest = digest
  }

  get encodedBytesMax(): number { return this.segment!.nameBytes.length + CHECKSUM_BYTES + EXPECTED_BYTES }

  /** The page is found at the last moment, so that what was written before it was asked for is there. */
  admit(): Admission {
    const { index } = this.#directory
    const entry = index.find(this.#digest)
    if (entry < 0) return { answer: Status.absent }
    const length = index.length(entry)
    if (length !== this.request!.length) return { answer: Status.length, length }
    const segment = index.segment(entry)
    if (segment.own && !index.pin(entry)) return { refused: 'the page is being read 65,535 times already' }
    if (!segment.own) this.request!.flags |= Flag.foreign
    segment.lastUse = performance.now()
    this.entry = entry
    this.segment = segment
    this.slot = index.slot(entry)
    this.generation = segment.generations[this.slot]!
    this.pageMeta = index.meta(entry)
    return 'go'
  }

  encode(descriptors: Float64Array, base: number, blob: Uint8Array, at: number): number {
    const { index } = this.#directory
    const { entry, slot } = this
    const segment = this.segment!
    const identity = encodeSlot(segment, slot, descriptors, base, blob, at)
    const expected = {
      segment: segment.id, slot, generation: this.generation, writtenAt: index.writtenAt(entry), fileOffset: segment.fileOffsetOf(slot), length: index.length(entry),
      checksumLow: index.checksumLow(entry), checksumHigh: index.checksumHigh(entry)
    }
    const view = new DataView(blob.buffer, blob.byteOffset + identity, CHECKSUM_BYTES)
    view.setUint32(0, expected.checksumLow, true)
    view.setUint32(4, expected.checksumHigh, true)
    descriptors[base + Field.recordOffset] = identity
    descriptors[base + Field.identityLength] = CHECKSUM_BYTES
    descriptors[base + Field.metaLength] = segment.own ? 0 : EXPECTED_BYTES
    return segment.own ? identity + CHECKSUM_BYTES : SlotRecord.encodeExpected(expected, blob, identity + CHECKSUM_BYTES)
  }

  /** Is the page that was read still the one of the index? */
  get current(): boolean { return this.segment !== null && this.#directory.holds(this.entry, this.segment, this.slot, this.generation) }

  ended(how: 'untouched' | 'unknown' | number): void {
    const { segment, entry } = this
    if (!segment) return
    // What fails its check is given up, so that it is written anew, and not failed for ever.
    const gone = how === Status.corrupt || how === Status.absent || how === Status.stale || how === Status.length
    if (gone && this.current) this.#directory.drop(entry)
    if (segment.own) this.#directory.space.unpin(entry)
  }
}
