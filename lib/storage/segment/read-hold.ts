import { Field, Flag, Status } from '../../transfer/protocol.js'
import type { Admission, StorageHold } from '../../transfer/storage-hold.js'
import type { TransferRequest } from '../../transfer/transfer-request.js'
import { encodeSlot } from './encode-slot.js'
import type { Landed } from './landed.js'
import type { Segment } from './segment.js'
import type { SegmentDirectory } from './segment-directory.js'
import { CHECKSUM_BYTES, EXPECTED_BYTES, SlotRecord } from './slot-record.js'

/** A read of a page: pinned while it lasts, when it is ours; checked to be still the same before and after, when it is another writer's. */
export class ReadHold implements StorageHold, Landed {
  readonly written = false
  readonly #directory: SegmentDirectory
  readonly #digests: Uint32Array
  readonly #digestAt: number
  /** The request that this is of; set once it is made. */
  request: TransferRequest | null = null
  pageMeta: Uint8Array | null = null
  entry = -1
  segment: Segment | null = null
  slot = 0
  generation = 0

  /** The page's digest: 4 words from `digests[digestAt]` on. */
  constructor(directory: SegmentDirectory, digests: Uint32Array, digestAt = 0) {
    this.#directory = directory
    this.#digests = digests
    this.#digestAt = digestAt
  }

  get encodedBytesMax(): number { return this.segment!.nameBytes.length + CHECKSUM_BYTES + EXPECTED_BYTES }

  /** The page is found at the last moment, so that what was written before it was asked for is there. */
  admit(): Admission {
    const { index } = this.#directory
    const entry = index.find(this.#digests, this.#digestAt)
    if (entry < 0) return { answer: Status.absent }
    const length = index.length(entry)
    if (length !== this.request!.length) return { answer: Status.length, length }
    const segment = index.segment(entry)
    if (segment.own && !index.pin(entry)) return { refused: 'the page is being read 65,535 times already' }
    if (!segment.own) this.request!.flags |= Flag.foreign
    segment.lastUse = this.request!.madeAt
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
    const [checksumLow, checksumHigh] = [index.checksumLow(entry), index.checksumHigh(entry)]
    const expected = SlotRecord.encodeChecksum(checksumLow, checksumHigh, blob, identity)
    descriptors[base + Field.recordOffset] = identity
    descriptors[base + Field.identityLength] = CHECKSUM_BYTES
    if (segment.own) {
      descriptors[base + Field.metaLength] = 0
      return expected
    }
    descriptors[base + Field.metaLength] = EXPECTED_BYTES
    return SlotRecord.encodeExpected({
      segment: segment.id, slot, generation: this.generation, writtenAt: index.writtenAt(entry), fileOffset: segment.fileOffsetOf(slot), length: index.length(entry), checksumLow, checksumHigh
    }, blob, expected)
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
