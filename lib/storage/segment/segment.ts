import { bytesOf } from '../../keys/utf8.js'
import { RECORDS_AT, RECORD_BYTES } from './slot-record.js'

export interface SegmentOptions {
  /** Index of the storage directory. Default 0. */
  readonly directory?: number
  /** The writer's folder below `segments/`. */
  readonly folder: string
  /** u32, random, never used again. */
  readonly id: number
  /** Bytes of the data file, and of an extent in it (a multiple of 4096). */
  readonly dataBytes: number
  readonly extentBytes: number
  /** This process allocates in it; else it belongs to another writer and is only read. */
  readonly own: boolean
}

/** Counts over several segments, which the segments keep up themselves. */
export interface SegmentTally { pages: number; freeSlots: number }

/**
 * One segment: a data file of equal extents ("slots"), and what is known of each. A slot of an own segment is free, or taken (a page is being written into it,
 * or was given up and is still read), or holds a page of the page index; its generation counts its records.
 *
 * Free slots are handed out in ascending order, going on behind the last one and round again, so that writes into a segment run one behind the other.
 *
 * Memory: 12 bytes a slot, and one bit for own ones.
 */
export class Segment {
  readonly directory: number
  readonly folder: string
  readonly id: number
  /** Name of its files without the extension, below the storage directory: `segments/<folder>/<id as 8 hex digits>`. */
  readonly name: string
  readonly nameBytes: Uint8Array
  readonly dataBytes: number
  readonly extentBytes: number
  readonly slots: number
  readonly own: boolean
  /** Its number in the page index (PageIndex.addSegment); -1 before and after. */
  number = -1
  /** When something in it was used last, in milliseconds of any clock that the caller keeps to: set by SizeClass.takeSlot() and by whoever reads. */
  lastUse = 0
  /** By slot: generation of its last record, 0 = none yet. Whoever writes a record counts it up. */
  readonly generations: Float64Array
  /** By slot: entry of the page index, -1 = none. Only PageIndex changes it, by setEntry(). */
  readonly entries: Int32Array
  /** A bit a slot, 1 = free; empty for foreign ones. */
  readonly #free: Int32Array
  #freeSlots = 0
  #pages = 0
  #tally: SegmentTally | null = null
  /** Where the search for the next free slot begins. */
  #next = 0

  constructor(options: SegmentOptions) {
    this.directory = options.directory ?? 0
    this.folder = options.folder
    this.id = options.id
    this.dataBytes = options.dataBytes
    this.extentBytes = options.extentBytes
    this.own = options.own
    this.slots = Math.floor(options.dataBytes / options.extentBytes)
    this.name = `segments/${options.folder}/${options.id.toString(16).padStart(8, '0')}`
    this.nameBytes = new Uint8Array(bytesOf(this.name))
    this.generations = new Float64Array(this.slots)
    this.entries = new Int32Array(this.slots).fill(-1)
    this.#free = new Int32Array(options.own ? Math.ceil(this.slots / 32) : 0)
    if (options.own) {
      this.#free.fill(-1)
      if (this.slots % 32 !== 0) this.#free[this.#free.length - 1] = 2 ** (this.slots % 32) - 1
      this.#freeSlots = this.slots
    }
  }

  /** Slots that are free; 0 for a foreign segment. */
  get freeSlots(): number { return this.#freeSlots }

  /** Pages of the page index that are in it. */
  get pages(): number { return this.#pages }

  /** Counts this segment into `tally` from now on, with what it has now, and no longer into another; null = into none. */
  countInto(tally: SegmentTally | null): void {
    this.#count(-this.#pages, -this.#freeSlots)
    this.#tally = tally
    this.#count(this.#pages, this.#freeSlots)
  }

  /** A page of the index is in the slot now, or (-1) none any more. For PageIndex alone. */
  setEntry(slot: number, entry: number): void {
    const pages = (entry < 0 ? 0 : 1) - (this.entries[slot]! < 0 ? 0 : 1)
    this.entries[slot] = entry
    this.#pages += pages
    this.#count(pages, 0)
  }

  /** Where a slot's extent begins in the data file, and its record in the index file, in bytes. */
  fileOffsetOf(slot: number): number { return slot * this.extentBytes }
  recordAtOf(slot: number): number { return RECORDS_AT + slot * RECORD_BYTES }

  isFree(slot: number): boolean { return slot >= 0 && slot < this.slots && this.own && (this.#free[slot >>> 5]! & 1 << slot) !== 0 }

  /** Takes the next free slot; -1 when there is none. It stays taken until giveBack(). */
  takeSlot(): number {
    if (this.#freeSlots === 0) return -1
    const words = this.#free.length
    let at = this.#next >>> 5
    // The slots behind the last one first, in the word that it is in; that word once more at the end, for those before it.
    let word = this.#free[at]! & -1 << this.#next
    while (word === 0) {
      at = at + 1 === words ? 0 : at + 1
      word = this.#free[at]!
    }
    const slot = 32 * at + 31 - Math.clz32(word & -word)
    this.#free[at]! &= ~(1 << slot)
    this.#freeSlots--
    this.#count(0, -1)
    this.#next = slot + 1 === this.slots ? 0 : slot + 1
    return slot
  }

  /** Marks a slot as taken whoever took it: one that holds a page when its writer's folder is loaded. False when it was taken already. */
  occupy(slot: number): boolean {
    if (!this.isFree(slot)) return false
    this.#free[slot >>> 5]! &= ~(1 << slot)
    this.#freeSlots--
    this.#count(0, -1)
    return true
  }

  /** Makes a slot free again: nothing reads it, and no page is in it. False when it was free already, or is none. */
  giveBack(slot: number): boolean {
    if (!this.own || slot < 0 || slot >= this.slots || this.isFree(slot)) return false
    this.#free[slot >>> 5]! |= 1 << slot
    this.#freeSlots++
    this.#count(0, 1)
    return true
  }

  #count(pages: number, freeSlots: number): void {
    if (this.#tally === null) return
    this.#tally.pages += pages
    this.#tally.freeSlots += freeSlots
  }
}
