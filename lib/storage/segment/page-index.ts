import { HiCacheError } from '../../error.js'
import { LOADED_STRIDE } from '../../transfer/native-binding.js'
import { MetaTable } from './meta-table.js'
import type { Segment } from './segment.js'

/** What PageIndex.load() needs of a folder that native code has read (`LoadedFolder`). */
export interface LoadedRows {
  /**
   * LOADED_STRIDE bytes a row: 0 digest 4 u32, 16 segment id u32, 20 slot u32, 24 generation f64, 32 writtenAt f64, 40 fileOffset f64, 48 length f64,
   * 56 checksum low and high u32, 64 index into metas u32, 68 state u32 (1 page, 2 evicted), 72 index into namespaces u32, 76 zero.
   */
  readonly rows: Uint8Array
  readonly metas: readonly Uint8Array[]
}

/** What PageIndex.load() answers. */
export interface LoadSummary {
  /** Pages that came into the index. */
  added: number
  /** Entries that left it: evicted or overtaken by their writers, or an older copy of a page that came in. */
  removed: number
  /** Rows without meaning: of a segment that the index does not have, outside of it, at another place than the slot's, or longer than its extent. */
  skipped: number
  /**
   * Own slots whose record says that they hold a page, which is in the index from elsewhere (a kill between the new page's record and the old one's
   * tombstone) or makes no sense: segment number and slot in turn. They are taken and have no entry: write a tombstone, then give them back.
   */
  superseded: number[]
  /**
   * Own entries in whose stead a newer copy came in while they are read (another writer's). They are hidden and not yet removed: write a tombstone each, and remove
   * it and give its slot back when nothing reads it any more.
   */
  pinned: number[]
}

/** Called by PageIndex.load() for entries that come and go, so that eviction policies follow. `leave` comes before the entry is gone. */
export interface LoadListener {
  enter?(entry: number, segment: Segment): void
  leave?(entry: number, segment: Segment): void
}

const CHUNK_BITS = 14
const CHUNK_ROWS = 1 << CHUNK_BITS
const CHUNK_MASK = CHUNK_ROWS - 1

// Words of a row.
const ROW_WORDS = 13
const SLOT = 4
/** Segment number in the lower 16 bits, pins in the upper. */
const SEGMENT_PINS = 5
const LENGTH = 6
const CHECKSUM_LOW = 7
const CHECKSUM_HIGH = 8
const LEASE = 9
/** Meta number in the lower 24 bits, flags in the upper 8. */
const META_FLAGS = 10
const WRITTEN_LOW = 11
const WRITTEN_HIGH = 12
/** In a row that no page has: the next one of these. */
const NEXT_UNUSED = SLOT

const FLAG_SHIFT = 24
const META_MASK = 2 ** FLAG_SHIFT - 1
/** Flags of the index itself; the lower five are the caller's. */
const USED = 128
const HIDDEN = 64
const CALLERS_FLAGS = 31

const SEGMENTS_MAX = 0xffff
const PINS_MAX = 0xffff
const LENGTH_MAX = 0xffff_ffff
const TWO_32 = 2 ** 32
/** Digests that findMany() looks up together: what they touch stays in the first-level cache. */
const TOGETHER = 64
const TABLE_BITS_MIN = 10
const LOAD_MAX = 0.6
/** Rows whose places in the table are read together. */
const TOUCHED_AHEAD = 64

const STATE_PAGE = 1

/**
 * Which page is where: all pages of a store (own and other writers'), by 128-bit digests, without an object a page. Lookups never touch the disk.
 *
 * A page is an **entry**: a small whole number, used again after remove(). Its row lies in typed arrays of 16,384 rows, which are added as they are needed and
 * never moved; a hash table of 32-bit words (linear probing, at most 0.6 full, deletion by moving back) leads to it. The bits of such a word that
 * the entry's number does not need hold bits of the digest, so a lookup of a page that is not there reads rows only once in thousands of times.
 *
 * Memory: 52 bytes a row, and 6.7 to 13.3 in the table, which grows by doubling (8.4 at a million pages); with the slot's generation and entry in
 * {@link Segment} (12.1) that makes 72.9 bytes a page at a million. Nothing shrinks: a store has as many pages as fit on its disk.
 *
 * Growing the table rehashes it, 0.1 s at a million pages on a busy machine: reserve() beforehand does away with it.
 */
export class PageIndex {
  readonly #chunks: Uint32Array[] = []
  readonly #metas = new MetaTable()
  readonly #segments: (Segment | null)[] = []
  #table: Int32Array
  #mask: number
  /** Rows that were ever used, those that can be used again, and the first of these. */
  #rows = 0
  #unused = 0
  #firstUnused = -1
  #hidden = 0
  /** Of no use but that reads into it are not left out. */
  protected touched = 0

  /** @param expected pages that there will be, as far as is known: the table is made for them. Default 0. */
  constructor(expected = 0) {
    const bits = tableBits(expected)
    this.#table = new Int32Array(2 ** bits)
    this.#mask = 2 ** bits - 1
  }

  /** Pages that find() can answer. */
  get size(): number { return this.#rows - this.#unused - this.#hidden }
  /** Entries in use: those pages and hidden ones. Entry numbers are below `entries`. */
  get used(): number { return this.#rows - this.#unused }
  get entries(): number { return this.#rows }
  /** Bytes of rows and table, without the segments'. */
  get bytes(): number { return this.#chunks.length * CHUNK_ROWS * ROW_WORDS * 4 + this.#table.byteLength }

  // Segments

  /**
   * Makes a segment known; answers its number, which is used again after removeSegment().
   * @throws {HiCacheError} `ERR_REJECTED` when there are 65,535.
   */
  addSegment(segment: Segment): number {
    if (segment.number >= 0 && this.#segments[segment.number] === segment) return segment.number
    let number = this.#segments.indexOf(null)
    if (number < 0) number = this.#segments.length
    if (number >= SEGMENTS_MAX) throw new HiCacheError('ERR_REJECTED', `A page index has room for ${SEGMENTS_MAX} segments, and they are there. Use larger ones.`)
    this.#segments[number] = segment
    segment.number = number
    return number
  }

  /** The segment of a number; the number is one of an entry or of addSegment(). */
  segmentOf(number: number): Segment { return this.#segments[number]! }

  /** All segments that are known. */
  * segments(): IterableIterator<Segment> {
    for (const segment of this.#segments) if (segment !== null) yield segment
  }

  /**
   * Forgets a segment and removes its entries, whatever pins they have; answers how many. `leave` is called for each before.
   */
  removeSegment(segment: Segment, leave?: (entry: number) => void): number {
    if (segment.number < 0 || this.#segments[segment.number] !== segment) return 0
    let removed = 0
    for (let slot = 0; slot < segment.slots && segment.pages > 0; slot++) {
      const entry = segment.entries[slot]!
      if (entry < 0) continue
      leave?.(entry)
      this.remove(entry)
      removed++
    }
    this.#segments[segment.number] = null
    segment.number = -1
    return removed
  }

  // Pages

  /** The entry of the page with the digest in `digest[at]` and the three words behind it; -1 when there is none. */
  find(digest: Uint32Array, at = 0): number {
    const table = this.#table
    const mask = this.#mask
    const d0 = digest[at]!
    const d1 = digest[at + 1]!
    let i = d0 & mask
    for (let word = table[i]!; word !== 0; word = table[i]!) {
      if (((word ^ d1) & ~mask) === 0) {
        const entry = (word & mask) - 1
        const chunk = this.#chunks[entry >>> CHUNK_BITS]!
        const row = (entry & CHUNK_MASK) * ROW_WORDS
        if (chunk[row] === d0 && chunk[row + 1] === d1 && chunk[row + 2] === digest[at + 2] && chunk[row + 3] === digest[at + 3]) return entry
      }
      i = i + 1 & mask
    }
    return -1
  }

  /**
   * find() for `count` digests, one behind the other in `digests`, into `entries`; answers how many are there. Twice as quick as one by one
   * where there are many pages: a find is two reads of memory that no cache holds, one after the other, and here those of many digests are under way together.
   */
  findMany(digests: Uint32Array, count: number, entries: Int32Array): number {
    const table = this.#table
    const mask = this.#mask
    let found = 0
    for (let from = 0; from < count; from += TOGETHER) {
      const to = Math.min(count, from + TOGETHER)
      // No branches in the first two loops, so the processor runs ahead; what they read is in its cache for the third.
      for (let i = from; i < to; i++) entries[i] = table[digests[4 * i]! & mask]!
      if (this.#rows > 0) {
        for (let i = from; i < to; i++) {
          const entry = Math.max(0, (entries[i]! & mask) - 1)
          entries[i] = this.#chunks[entry >>> CHUNK_BITS]![(entry & CHUNK_MASK) * ROW_WORDS]!
        }
      }
      for (let i = from; i < to; i++) {
        const entry = this.find(digests, 4 * i)
        entries[i] = entry
        if (entry >= 0) found++
      }
    }
    return found
  }

  /**
   * Adds a page. An entry that the slot has still (another writer's, overtaken) is removed before.
   * @param digest, at a digest that is not there: find() first, and hide() or remove() what it finds.
   * @param segment number of a segment of this index.
   * @param length bytes of the payload, below 4 GiB.
   * @param writtenAt microseconds since the epoch.
   * @param meta FileLayout.encodeMeta(); equal ones are kept once.
   * @returns the entry.
   * @throws {HiCacheError} `ERR_ARGUMENT` for a digest that is there or a place or length that is none; `ERR_REJECTED` when there are 16,777,216 different metas.
   */
  insert(digest: Uint32Array, at: number, segment: number, slot: number, length: number, checksumLow: number, checksumHigh: number, writtenAt: number, meta: Uint8Array): number {
    const owner = this.#segments[segment]
    if (owner === undefined || owner === null || !(slot >= 0 && slot < owner.slots) || !(length >= 0 && length <= LENGTH_MAX)) {
      throw new HiCacheError('ERR_ARGUMENT', `A page of ${length} bytes in slot ${slot} of segment number ${segment} cannot be: the segment is not known, or has ` +
        `${owner?.slots ?? 0} slots, or the page is over 4 GiB.`)
    }
    if (this.find(digest, at) >= 0) throw new HiCacheError('ERR_ARGUMENT', 'The page is in the index already: hide() or remove() its entry first.')
    const overtaken = owner.entries[slot]!
    if (overtaken >= 0) this.remove(overtaken)
    const metaNumber = this.#metas.acquire(meta)
    if (metaNumber < 0) throw new HiCacheError('ERR_REJECTED', 'The store has pages of 16,777,216 different shapes, and keeps no more of them apart.')
    return this.#add(digest, at, owner, slot, length, checksumLow, checksumHigh, writtenAt, metaNumber)
  }

  /** Makes the page one that find() does not answer; all else of the entry stays until remove(): what reads it still goes on. Another page may have its digest then. */
  hide(entry: number): void {
    const row = this.#chunks[entry >>> CHUNK_BITS]!
    const flags = (entry & CHUNK_MASK) * ROW_WORDS + META_FLAGS
    if (row[flags]! >>> FLAG_SHIFT & HIDDEN) return
    this.#unlink(entry)
    row[flags]! |= HIDDEN << FLAG_SHIFT
    this.#hidden++
  }

  /** Takes the page out, pinned or not; its number is used again. The segment's slot has no entry then and stays as taken as it was. Does nothing for an entry that is not in use. */
  remove(entry: number): void {
    if (!this.has(entry)) return
    const chunk = this.#chunks[entry >>> CHUNK_BITS]!
    const row = (entry & CHUNK_MASK) * ROW_WORDS
    const metaFlags = chunk[row + META_FLAGS]!
    if (metaFlags >>> FLAG_SHIFT & HIDDEN) this.#hidden--
    else this.#unlink(entry)
    this.#metas.release(metaFlags & META_MASK)
    this.#segments[chunk[row + SEGMENT_PINS]! & 0xffff]!.setEntry(chunk[row + SLOT]!, -1)
    chunk[row + META_FLAGS] = 0
    chunk[row + NEXT_UNUSED] = this.#firstUnused
    this.#firstUnused = entry
    this.#unused++
  }

  /** Is the entry in use: inserted and not removed. */
  has(entry: number): boolean {
    return entry >= 0 && entry < this.#rows && (this.#word(entry, META_FLAGS) >>> FLAG_SHIFT & USED) !== 0
  }

  /** Is it one that hide() hid? */
  isHidden(entry: number): boolean { return (this.#word(entry, META_FLAGS) >>> FLAG_SHIFT & HIDDEN) !== 0 }

  /** The segment that it is in. */
  segment(entry: number): Segment { return this.#segments[this.#word(entry, SEGMENT_PINS) & 0xffff]! }
  slot(entry: number): number { return this.#word(entry, SLOT) }
  /** Generation of its slot, as the segment has it. */
  generation(entry: number): number { return this.segment(entry).generations[this.slot(entry)]! }
  /** Bytes of the payload. */
  length(entry: number): number { return this.#word(entry, LENGTH) }
  /** CRC-64/NVME of the payload, in two halves. */
  checksumLow(entry: number): number { return this.#word(entry, CHECKSUM_LOW) }
  checksumHigh(entry: number): number { return this.#word(entry, CHECKSUM_HIGH) }
  /** Microseconds since the epoch. */
  writtenAt(entry: number): number { return this.#word(entry, WRITTEN_HIGH) * TWO_32 + this.#word(entry, WRITTEN_LOW) }
  /** Its meta: one object for all pages with an equal one, so what is made of it can be kept in a WeakMap. */
  meta(entry: number): Uint8Array { return this.#metas.get(this.#word(entry, META_FLAGS) & META_MASK) }
  /** The last word of its digest. */
  identityOf(entry: number): number { return this.#word(entry, 3) }
  /** Copies its digest to `out[at]` and the three words behind it. */
  digestOf(entry: number, out: Uint32Array, at = 0): void { for (let i = 0; i < 4; i++) out[at + i] = this.#word(entry, i) }

  /** Flags of the caller's: five bits, 0 at first. */
  flags(entry: number): number { return this.#word(entry, META_FLAGS) >>> FLAG_SHIFT & CALLERS_FLAGS }
  setFlags(entry: number, flags: number): void {
    const at = (entry & CHUNK_MASK) * ROW_WORDS + META_FLAGS
    const chunk = this.#chunks[entry >>> CHUNK_BITS]!
    chunk[at] = chunk[at]! & ~(CALLERS_FLAGS << FLAG_SHIFT) | (flags & CALLERS_FLAGS) << FLAG_SHIFT
  }

  /** Reads in flight: while there are any, the page must not be given up. */
  pins(entry: number): number { return this.#word(entry, SEGMENT_PINS) >>> 16 }
  /** One more; false (and none more) when there are 65,535. */
  pin(entry: number): boolean {
    const at = (entry & CHUNK_MASK) * ROW_WORDS + SEGMENT_PINS
    const chunk = this.#chunks[entry >>> CHUNK_BITS]!
    if (chunk[at]! >>> 16 === PINS_MAX) return false
    chunk[at]! += 0x10000
    return true
  }

  /** One less; answers how many are left. */
  unpin(entry: number): number {
    const at = (entry & CHUNK_MASK) * ROW_WORDS + SEGMENT_PINS
    const chunk = this.#chunks[entry >>> CHUNK_BITS]!
    if (chunk[at]! >>> 16 !== 0) chunk[at]! -= 0x10000
    return chunk[at]! >>> 16
  }

  /** The tick in which its lease ends; 0 at first. For Leases alone. */
  leaseOf(entry: number): number { return this.#word(entry, LEASE) }
  setLease(entry: number, tick: number): void { this.#chunks[entry >>> CHUNK_BITS]![(entry & CHUNK_MASK) * ROW_WORDS + LEASE] = tick }

  /** All entries in use, hidden ones too, in no order that means something. Nothing may be added meanwhile; what was visited may be removed. */
  forEach(visit: (entry: number) => void): void {
    for (let entry = 0; entry < this.#rows; entry++) if (this.has(entry)) visit(entry)
  }

  /** The entries of a segment by slot. What was visited may be removed. */
  forEachIn(segment: Segment, visit: (entry: number, slot: number) => void): void {
    for (let slot = 0; slot < segment.slots; slot++) {
      const entry = segment.entries[slot]!
      if (entry >= 0) visit(entry, slot)
    }
  }

  /**
   * Sorts entries by when their pages were written, the oldest first, in place: the order in which a policy gets to know the pages of a store that was
   * opened. Exact to 2 ** -32 of the time between the oldest and the newest (8 ms a year).
   */
  sortByAge(entries: Int32Array): Int32Array {
    let least = Infinity
    let most = 0
    const times = new Float64Array(entries.length)
    for (let i = 0; i < entries.length; i++) {
      const writtenAt = this.writtenAt(entries[i]!)
      times[i] = writtenAt
      if (writtenAt < least) least = writtenAt
      if (writtenAt > most) most = writtenAt
    }
    const unit = Math.max(1, (most - least + 1) / TWO_32)
    const keys = new Uint32Array(entries.length)
    for (let i = 0; i < keys.length; i++) keys[i] = (times[i]! - least) / unit
    // By the lower half of the key, then by the upper one: each pass keeps the order of the one before it.
    const between = new Int32Array(entries.length)
    const keysBetween = new Uint32Array(entries.length)
    scatter(entries, keys, 0, between, keysBetween)
    scatter(between, keysBetween, 16, entries, keys)
    return entries
  }

  /** Makes the table large enough for so many entries, so that no insertion has to. */
  reserve(entries: number): void {
    const bits = tableBits(entries)
    if (2 ** bits > this.#table.length) this.#rehash(bits)
  }

  /**
   * Takes over what native code has read of a writer's folder: all of it when it is opened, or what has changed since. Pages come in, evicted ones go, generations
   * are noted, slots of own segments that hold a page are taken. What is older than what is known of a slot is passed over. When one page is there twice, the one that was
   * written last stays, whoever wrote it, so that all processes end with the same one.
   *
   * @param loaded from native code.
   * @param segmentOf the segment of an id, added by addSegment(); undefined = not followed (its rows are skipped).
   * @param listener told of entries as they come and go.
   */
  load(loaded: LoadedRows, segmentOf: (id: number) => Segment | undefined, listener: LoadListener = {}): LoadSummary {
    const summary: LoadSummary = { added: 0, removed: 0, skipped: 0, superseded: [], pinned: [] }
    const count = Math.floor(loaded.rows.byteLength / LOADED_STRIDE)
    const rows = loaded.rows.byteOffset % 8 === 0 ? loaded.rows : new Uint8Array(loaded.rows)
    const words = new Uint32Array(rows.buffer, rows.byteOffset, count * LOADED_STRIDE / 4)
    const numbers = new Float64Array(rows.buffer, rows.byteOffset, count * LOADED_STRIDE / 8)
    // A store that is opened: once for all, and not for the few rows of a poll, most of which are of pages that are known.
    if (count > CHUNK_ROWS) this.reserve(this.used + count)
    // Each meta is looked up once; it is held until the end, so that its number means the same for all rows.
    const metas = new Int32Array(loaded.metas.length).fill(-1)
    let id = -1
    let segment: Segment | undefined
    for (let i = 0, at = 0, half = 0; i < count; i++, at += LOADED_STRIDE / 4, half += LOADED_STRIDE / 8) {
      if (i % TOUCHED_AHEAD === 0) this.#touch(words, at, Math.min(TOUCHED_AHEAD, count - i))
      if (words[at + 4] !== id) {
        id = words[at + 4]!
        segment = segmentOf(id)
      }
      const slot = words[at + 5]!
      const generation = numbers[half + 3]!
      if (segment === undefined || segment.number < 0 || slot >= segment.slots) {
        summary.skipped++
        continue
      }
      const known = segment.generations[slot]!
      if (generation < known || (generation === known && known > 0 && segment.entries[slot]! >= 0)) continue
      const old = segment.entries[slot]!
      if (old >= 0) this.#leave(old, segment, summary, listener)
      segment.generations[slot] = generation
      if (words[at + 17] === STATE_PAGE) this.#loadPage(loaded, metas, words, numbers, at, segment, slot, summary, listener)
    }
    for (const number of metas) if (number >= 0) this.#metas.release(number)
    return summary
  }

  /** Reads the places of the table that the next rows will need, side by side: one after the other each of them would wait for the memory. */
  #touch(words: Uint32Array, from: number, rows: number): void {
    const table = this.#table
    const mask = this.#mask
    let sum = 0
    for (let row = 0, at = from; row < rows; row++, at += LOADED_STRIDE / 4) sum ^= table[words[at]! & mask]!
    this.touched = sum
  }

  #loadPage(loaded: LoadedRows, metas: Int32Array, words: Uint32Array, numbers: Float64Array, at: number, segment: Segment, slot: number,
    summary: LoadSummary, listener: LoadListener): void {
    const writtenAt = numbers[(at >>> 1) + 4]!
    const length = numbers[(at >>> 1) + 6]!
    const metaAt = words[at + 16]!
    if (segment.own) segment.occupy(slot)
    let stays = numbers[(at >>> 1) + 5] === segment.fileOffsetOf(slot) && length >= 0 && length <= segment.extentBytes && length <= LENGTH_MAX &&
      metaAt < metas.length
    if (stays && metas[metaAt]! < 0) {
      metas[metaAt] = this.#metas.acquire(loaded.metas[metaAt]!)
      stays = metas[metaAt] >= 0
    }
    if (!stays) {
      summary.skipped++
    } else {
      const other = this.find(words, at)
      if (other >= 0) {
        const from = this.segment(other)
        const before = this.writtenAt(other)
        // Of one age, an own copy: it is there as long as we want it.
        stays = before < writtenAt || (before === writtenAt && (segment.own || !from.own))
        if (stays && from.own && this.pins(other) > 0) {
          listener.leave?.(other, from)
          this.hide(other)
          summary.removed++
          summary.pinned.push(other)
        } else if (stays) {
          if (from.own) summary.superseded.push(from.number, this.slot(other))
          this.#leave(other, from, summary, listener)
        }
      }
    }
    if (!stays) {
      if (segment.own) summary.superseded.push(segment.number, slot)
      return
    }
    this.#metas.reuse(metas[metaAt]!)
    const entry = this.#add(words, at, segment, slot, length, words[at + 14]!, words[at + 15]!, writtenAt, metas[metaAt]!)
    summary.added++
    listener.enter?.(entry, segment)
  }

  #leave(entry: number, segment: Segment, summary: LoadSummary, listener: LoadListener): void {
    listener.leave?.(entry, segment)
    this.remove(entry)
    summary.removed++
  }

  #word(entry: number, word: number): number { return this.#chunks[entry >>> CHUNK_BITS]![(entry & CHUNK_MASK) * ROW_WORDS + word]! }

  /** Adds what insert() and load() have checked. */
  #add(digest: Uint32Array, at: number, segment: Segment, slot: number, length: number, checksumLow: number, checksumHigh: number, writtenAt: number, meta: number): number {
    let entry = this.#firstUnused
    if (entry >= 0) {
      this.#firstUnused = this.#word(entry, NEXT_UNUSED) | 0
      this.#unused--
    } else {
      entry = this.#rows
      // Rows, not pages: an entry's number plus one has to fit in the table's words beside the digest's bits.
      if (entry + 1 > LOAD_MAX * this.#table.length) this.#rehash(tableBits(entry + 1))
      if (entry >>> CHUNK_BITS === this.#chunks.length) this.#chunks.push(new Uint32Array(CHUNK_ROWS * ROW_WORDS))
      this.#rows++
    }
    const chunk = this.#chunks[entry >>> CHUNK_BITS]!
    const row = (entry & CHUNK_MASK) * ROW_WORDS
    chunk[row] = digest[at]!
    chunk[row + 1] = digest[at + 1]!
    chunk[row + 2] = digest[at + 2]!
    chunk[row + 3] = digest[at + 3]!
    chunk[row + SLOT] = slot
    chunk[row + SEGMENT_PINS] = segment.number
    chunk[row + LENGTH] = length
    chunk[row + CHECKSUM_LOW] = checksumLow
    chunk[row + CHECKSUM_HIGH] = checksumHigh
    chunk[row + LEASE] = 0
    chunk[row + META_FLAGS] = meta | USED << FLAG_SHIFT
    // Not by %, which is a call for numbers of this size.
    const high = Math.floor(writtenAt / TWO_32)
    chunk[row + WRITTEN_LOW] = writtenAt - high * TWO_32
    chunk[row + WRITTEN_HIGH] = high
    this.#link(entry, digest[at]!, digest[at + 1]!)
    segment.setEntry(slot, entry)
    return entry
  }

  #link(entry: number, d0: number, d1: number): void {
    const table = this.#table
    const mask = this.#mask
    let i = d0 & mask
    while (table[i] !== 0) i = i + 1 & mask
    table[i] = d1 & ~mask | entry + 1
  }

  /** Takes the entry out of the table. What stands behind it and could not stand before because of it is moved up, so that no mark is left for lookups to pass. */
  #unlink(entry: number): void {
    const table = this.#table
    const mask = this.#mask
    let hole = this.#word(entry, 0) & mask
    while ((table[hole]! & mask) !== entry + 1) hole = hole + 1 & mask
    for (let i = hole + 1 & mask; table[i] !== 0; i = i + 1 & mask) {
      const home = this.#word((table[i]! & mask) - 1, 0) & mask
      if ((i - home & mask) >= (i - hole & mask)) {
        table[hole] = table[i]!
        hole = i
      }
    }
    table[hole] = 0
  }

  #rehash(bits: number): void {
    this.#table = new Int32Array(2 ** bits)
    this.#mask = 2 ** bits - 1
    for (let first = 0; first < this.#rows; first += CHUNK_ROWS) {
      const chunk = this.#chunks[first >>> CHUNK_BITS]!
      const rows = Math.min(CHUNK_ROWS, this.#rows - first)
      for (let i = 0, row = 0; i < rows; i++, row += ROW_WORDS) {
        if ((chunk[row + META_FLAGS]! >>> FLAG_SHIFT & (USED | HIDDEN)) === USED) this.#link(first + i, chunk[row]!, chunk[row + 1]!)
      }
    }
  }
}

/** Puts entries and their keys in the order of 16 bits of the key, those from `shift` on. */
function scatter(entries: Int32Array, keys: Uint32Array, shift: number, toEntries: Int32Array, toKeys: Uint32Array): void {
  const next = new Uint32Array(65_536)
  for (let i = 0; i < keys.length; i++) next[keys[i]! >>> shift & 0xffff]!++
  let place = 0
  for (let bin = 0; bin < next.length; bin++) {
    const size = next[bin]!
    next[bin] = place
    place += size
  }
  for (let i = 0; i < keys.length; i++) {
    const key = keys[i]!
    const to = next[key >>> shift & 0xffff]!++
    toEntries[to] = entries[i]!
    toKeys[to] = key
  }
}

/** Bits of a table that is at most 0.6 full with so many entries. */
function tableBits(entries: number): number {
  let bits = TABLE_BITS_MIN
  while (entries > LOAD_MAX * 2 ** bits) bits++
  return bits
}
