import { Status, TOMBSTONE_BYTES } from '../../transfer/protocol.js'
import type { Admission, StorageHold } from '../../transfer/storage-hold.js'
import type { Segment } from './segment.js'
import type { SegmentDirectory } from './segment-directory.js'
import type { SegmentSpace } from './segment-space.js'
import { encodeTombstones } from './tombstones-hold.js'

/** The removal of a page: found when its turn has come, behind the writes of the same page that were asked for before. */
export class DeleteHold implements StorageHold {
  readonly #directory: SegmentDirectory
  readonly #digest: Uint32Array
  #entry = -1
  #segment: Segment | null = null
  #slot = 0
  /** Older copies whose own tombstones are not written yet: they go with this one, or could be found after a crash, though the page is known to be deleted. */
  #older: ReturnType<SegmentSpace['pinDying']> = []

  constructor(directory: SegmentDirectory, digest: Uint32Array) {
    this.#directory = directory
    this.#digest = digest
  }

  get encodedBytesMax(): number { return this.#directory.folderBytes.length + (1 + this.#older.length) * TOMBSTONE_BYTES }

  admit(): Admission {
    const { index, space } = this.#directory
    const entry = index.find(this.#digest)
    if (entry < 0) return { answer: Status.absent }
    if (!this.#directory.writable) return { refused: `the storage directory ${this.#directory.opened.path} cannot be written` }
    if (!index.segment(entry).own) {
      this.#directory.ask(entry)
      return { answer: Status.ok }
    }
    this.#entry = entry
    this.#segment = index.segment(entry)
    this.#slot = index.slot(entry)
    this.#older = space.pinDying(this.#digest)
    space.begin(entry)
    return 'go'
  }

  encode(descriptors: Float64Array, base: number, blob: Uint8Array, at: number): number {
    const { folderBytes } = this.#directory
    return encodeTombstones([{ segment: this.#segment!, slot: this.#slot }, ...this.#older], this.#directory, folderBytes, descriptors, base, blob, at)
  }

  ended(how: 'untouched' | 'unknown' | number): void {
    if (this.#entry < 0) return
    for (const { entry } of this.#older) this.#directory.space.unpin(entry)
    if (how === Status.ok) this.#directory.space.entombed(this.#entry)
    // It is hidden already, and whatever its record says now: it says so for sure when the tombstone is written again.
    else this.#directory.space.entomb(this.#entry)
  }
}
