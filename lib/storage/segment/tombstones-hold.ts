import { Field, Status, TOMBSTONE_BYTES } from '../../transfer/protocol.js'
import type { Admission, StorageHold } from '../../transfer/storage-hold.js'
import type { Segment } from './segment.js'

const TWO_32 = 2 ** 32

/** A slot whose page goes, and who hears whether its record says so. */
export interface Tombstone { readonly segment: Segment; readonly slot: number; readonly ended: (written: boolean) => void }

/**
 * Writes tombstones, each of its slot's next generation, as the meta of Op.tombstones, and the name of their folder (`segments/FOLDER`) before them; answers where
 * the blob goes on.
 */
export function encodeTombstones(list: readonly { readonly segment: Segment; readonly slot: number }[], clock: { now(): number }, folder: Uint8Array,
  descriptors: Float64Array, base: number, blob: Uint8Array, at: number): number {
  blob.set(folder, at)
  descriptors[base + Field.nameOffset] = at
  descriptors[base + Field.nameLength] = folder.length
  descriptors[base + Field.recordOffset] = at += folder.length
  descriptors[base + Field.identityLength] = 0
  descriptors[base + Field.metaLength] = list.length * TOMBSTONE_BYTES
  const view = new DataView(blob.buffer, blob.byteOffset)
  for (const { segment, slot } of list) {
    const generation = ++segment.generations[slot]!
    const writtenAt = clock.now()
    view.setUint32(at, segment.id, true)
    view.setUint32(at + 4, slot, true)
    view.setUint32(at + 8, generation % TWO_32, true)
    view.setUint32(at + 12, Math.floor(generation / TWO_32), true)
    view.setUint32(at + 16, writtenAt % TWO_32, true)
    view.setUint32(at + 20, Math.floor(writtenAt / TWO_32), true)
    at += TOMBSTONE_BYTES
  }
  return at
}

/** The records that say that slots' pages are gone, as many as go in one turn: on the disk before a slot is written over. */
export class TombstonesHold implements StorageHold {
  readonly #list: Tombstone[] = []
  readonly #folder: Uint8Array
  readonly #clock: { now(): number }

  constructor(folder: Uint8Array, clock: { now(): number }) {
    this.#folder = folder
    this.#clock = clock
  }

  get size(): number { return this.#list.length }
  get encodedBytesMax(): number { return this.#folder.length + this.#list.length * TOMBSTONE_BYTES }

  /** Until it is submitted. */
  add(tombstone: Tombstone): void { this.#list.push(tombstone) }

  admit(): Admission { return 'go' }

  encode(descriptors: Float64Array, base: number, blob: Uint8Array, at: number): number {
    return encodeTombstones(this.#list, this.#clock, this.#folder, descriptors, base, blob, at)
  }

  ended(how: 'untouched' | 'unknown' | number): void {
    const written = how === Status.ok
    for (const tombstone of this.#list) tombstone.ended(written)
  }
}
