import { Status, TOMBSTONE_BYTES } from '../../transfer/protocol.js'
import type { Admission, StorageHold } from '../../transfer/storage-hold.js'
import type { Segment } from './segment.js'
import type { SegmentDirectory } from './segment-directory.js'
import type { DyingCopy } from './segment-space.js'
import { encodeTombstones } from './tombstones-hold.js'

/** The removal of a page: found when its turn has come, behind the writes of the same page that were asked for before. */
export class DeleteHold implements StorageHold {
  readonly #directory: SegmentDirectory
  readonly #digest: Uint32Array
  #entry = -1
  #segment: Segment | null = null
  #slot = 0
  /** There was a page that could be found. */
  found = false
  /**
   * Copies that are given up (replaced, evicted, written nobody knows how) and whose own tombstones are not written yet: they go with this one, or could be found after a crash,
   * though the page is known to be deleted.
   */
  #dying: readonly DyingCopy[] = []

  constructor(directory: SegmentDirectory, digest: Uint32Array) {
    this.#directory = directory
    this.#digest = digest
  }

  get encodedBytesMax(): number { return this.#directory.folderBytes.length + (1 + this.#dying.length) * TOMBSTONE_BYTES }

  admit(): Admission {
    const { index, space } = this.#directory
    const entry = index.find(this.#digest)
    this.found = entry >= 0
    if (!this.#directory.writable) return this.found ? { refused: `the storage directory ${this.#directory.opened.path} cannot be written` } : { answer: Status.absent }
    this.#dying = space.pinDying(this.#digest)
    if (this.found && index.segment(entry).own) {
      this.#entry = entry
      this.#segment = index.segment(entry)
      this.#slot = index.slot(entry)
      space.begin(entry)
    } else {
      if (this.found) this.#directory.ask(entry)
      if (this.#dying.length === 0) return { answer: this.found ? Status.ok : Status.absent }
    }
    return 'go'
  }

  encode(descriptors: Float64Array, base: number, blob: Uint8Array, at: number): number {
    const { folderBytes } = this.#directory
    const copies = this.#segment ? [{ segment: this.#segment, slot: this.#slot }, ...this.#dying] : this.#dying
    return encodeTombstones(copies, this.#directory, folderBytes, descriptors, base, blob, at)
  }

  ended(how: 'untouched' | 'unknown' | number): void {
    for (const { unpin } of this.#dying) unpin()
    this.#dying = []
    if (this.#entry < 0) return
    if (how === Status.ok) this.#directory.space.entombed(this.#entry)
    // It is hidden already, and whatever its record says now: it says so for sure when the tombstone is written again.
    else this.#directory.space.entomb(this.#entry)
  }
}
