import { Field, Status } from '../../transfer/protocol.js'
import type { Admission, StorageHold } from '../../transfer/storage-hold.js'
import type { Segment } from './segment.js'
import { RECORD_BYTES, SlotRecord } from './slot-record.js'

/** Writes where a slot's record is into a descriptor, and the segment's name into the blob; answers where the blob goes on. */
export function encodeSlot(segment: Segment, slot: number, descriptors: Float64Array, base: number, blob: Uint8Array, at: number): number {
  blob.set(segment.nameBytes, at)
  descriptors[base + Field.nameOffset] = at
  descriptors[base + Field.nameLength] = segment.nameBytes.length
  descriptors[base + Field.fileOffset] = segment.fileOffsetOf(slot)
  descriptors[base + Field.recordAt] = segment.recordAtOf(slot)
  return at + segment.nameBytes.length
}

/** Writes the tombstone of a slot, of its next generation, as encodeSlot() writes its place; answers where the blob goes on. */
export function encodeTombstone(segment: Segment, slot: number, clock: { now(): number }, descriptors: Float64Array, base: number, blob: Uint8Array, at: number): number {
  const record = encodeSlot(segment, slot, descriptors, base, blob, at)
  const generation = ++segment.generations[slot]!
  descriptors[base + Field.recordOffset] = record
  descriptors[base + Field.identityLength] = 0
  descriptors[base + Field.metaLength] = RECORD_BYTES
  return SlotRecord.encodeTombstone({ segment: segment.id, slot, generation, writtenAt: clock.now() }, blob, record)
}

/** The record that says that a slot's page is gone; on the disk before the slot is written over. */
export class TombstoneHold implements StorageHold {
  readonly #segment: Segment
  readonly #slot: number
  readonly #clock: { now(): number }
  readonly #done: (written: boolean) => void

  constructor(segment: Segment, slot: number, clock: { now(): number }, done: (written: boolean) => void) {
    this.#segment = segment
    this.#slot = slot
    this.#clock = clock
    this.#done = done
  }

  get encodedBytesMax(): number { return this.#segment.nameBytes.length + RECORD_BYTES }

  admit(): Admission { return 'go' }

  encode(descriptors: Float64Array, base: number, blob: Uint8Array, at: number): number {
    return encodeTombstone(this.#segment, this.#slot, this.#clock, descriptors, base, blob, at)
  }

  ended(how: 'untouched' | 'unknown' | number): void { this.#done(how === Status.ok) }
}
