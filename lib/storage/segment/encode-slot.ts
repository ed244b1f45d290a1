import { Field } from '../../transfer/protocol.js'
import type { Segment } from './segment.js'

/** Writes where a slot's extent and record are into a descriptor, and the segment's name into the blob; answers where the blob goes on. */
export function encodeSlot(segment: Segment, slot: number, descriptors: Float64Array, base: number, blob: Uint8Array, at: number): number {
  blob.set(segment.nameBytes, at)
  descriptors[base + Field.nameOffset] = at
  descriptors[base + Field.nameLength] = segment.nameBytes.length
  descriptors[base + Field.fileOffset] = segment.fileOffsetOf(slot)
  descriptors[base + Field.recordAt] = segment.recordAtOf(slot)
  return at + segment.nameBytes.length
}
