import { Buffer } from 'node:buffer'
import { STORED_KEY_BYTES_MAX } from '../../keys/check-key.js'
import { byteLengthOf } from '../../keys/utf8.js'
import { HiCacheError } from '../../error.js'

/** Bytes of a record, and where the first one stands in an index file: record of slot i at RECORDS_AT + RECORD_BYTES * i. */
export const RECORD_BYTES = 512
export const RECORDS_AT = 4096
/** Bytes of a record that a reader of another writer's page compares, and where they begin. */
export const EXPECTED_AT = 8
export const EXPECTED_BYTES = 48
/** Bytes of a payload's checksum. */
export const CHECKSUM_BYTES = 8
/** Bytes of meta that a record has room for. */
export const RECORD_META_BYTES_MAX = 136

const MAGIC = 0x54534348
const VERSION = 1
const STATE_PAGE = 1
const STATE_EVICTED = 2
const DIGEST_BYTES = 16
const NAMESPACE_AT = 64
const SCOPE_AT = 80
const KEY_AT = 96
const CRC_AT = 504
const TWO_32 = 2 ** 32
const NO_BYTES = new Uint8Array(0)

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Where a record stands and which one of its slot's it is. */
export interface SlotPlace {
  /** Id of the segment, u32 (not its number in the page index). */
  readonly segment: number
  readonly slot: number
  /** Of the slot: 1 for its first record, one more with every record. */
  readonly generation: number
  /** Microseconds since the epoch. */
  readonly writtenAt: number
}

/** What a page's record says, but for the payload's checksum and the record's own: native code fills those in. */
export interface PageRecord extends SlotPlace {
  /** Where the payload begins in the data file: slot * extentBytes. */
  readonly fileOffset: number
  /** Bytes of the payload. */
  readonly length: number
  /** 16 bytes each: FileLayout.namespaceDigest, PageDigest.ofStoredWithScope(). */
  readonly namespaceDigest: Uint8Array
  readonly scope: Uint8Array
  /** The stored key, at most 255 bytes of UTF-8. */
  readonly key: string
  /** FileLayout.encodeMeta(), at most 136 bytes. */
  readonly meta: Uint8Array
}

/** What a reader of a foreign page expects the record to say of it. */
export interface ExpectedRecord extends SlotPlace {
  readonly fileOffset: number
  readonly length: number
  readonly checksumLow: number
  readonly checksumHigh: number
}

/**
 * The 512-byte record of one slot, as it stands in a segment's index file (docs/formats.md has the bytes). A slot has at most one page, and
 * its record says which; a tombstone says that there was one. Records are rewritten in place, one sector each.
 */
export class SlotRecord implements ExpectedRecord {
  readonly state: 'page' | 'evicted'
  readonly segment: number
  readonly slot: number
  readonly generation: number
  readonly writtenAt: number
  readonly fileOffset: number
  readonly length: number
  readonly checksumLow: number
  readonly checksumHigh: number
  /** Copies; empty for a tombstone. */
  readonly namespaceDigest: Uint8Array
  readonly scope: Uint8Array
  readonly meta: Uint8Array
  /** The stored key; '' for a tombstone. */
  readonly key: string

  private constructor(fields: Pick<SlotRecord, keyof SlotRecord>) {
    this.state = fields.state
    this.segment = fields.segment
    this.slot = fields.slot
    this.generation = fields.generation
    this.writtenAt = fields.writtenAt
    this.fileOffset = fields.fileOffset
    this.length = fields.length
    this.checksumLow = fields.checksumLow
    this.checksumHigh = fields.checksumHigh
    this.namespaceDigest = fields.namespaceDigest
    this.scope = fields.scope
    this.meta = fields.meta
    this.key = fields.key
  }

  /**
   * Writes a page's record at `into[at]` and the 511 bytes behind it, zeros where nothing stands; answers where it ends. The two checksums are 0.
   * @throws {HiCacheError} `ERR_ARGUMENT` for a key of over 255 bytes or a meta of over 136: the caller has checked both.
   */
  static encodePage(page: PageRecord, into: Uint8Array, at = 0): number {
    const { key, meta, namespaceDigest, scope } = page
    let last = pattern
    if (last?.meta !== meta || last.scope !== scope || last.namespaceDigest !== namespaceDigest || last.keyLength !== key.length) last = pattern = new Pattern(page)
    into.set(last.bytes, at)
    if (!last.writeKey(key, into, at)) {
      // No ASCII: rare.
      const record = Buffer.from(into.buffer, into.byteOffset + at, RECORD_BYTES)
      record.fill(0, KEY_AT)
      checkRoom(key, meta)
      const keyLength = record.write(key, KEY_AT, 'utf8')
      record.writeUInt16LE(keyLength, 6)
      record.set(meta, KEY_AT + keyLength)
    }
    putU64(into, at + 8, page.generation)
    putU64(into, at + 16, page.writtenAt)
    putU64(into, at + 24, page.fileOffset)
    putU64(into, at + 32, page.length)
    putU32(into, at + 48, page.segment)
    putU32(into, at + 52, page.slot)
    return at + RECORD_BYTES
  }

  /** Writes a payload's checksum, 8 bytes at `into[at]`; answers where it ends. */
  static encodeChecksum(low: number, high: number, into: Uint8Array, at: number): number {
    putU32(into, at, low)
    putU32(into, at + 4, high)
    return at + CHECKSUM_BYTES
  }

  /** Writes the bytes 8 to 55 of a page's record, 48 at `into[at]`: what a read of a foreign page is compared with. Answers where they end. */
  static encodeExpected(expected: ExpectedRecord, into: Uint8Array, at = 0): number {
    putU64(into, at, expected.generation)
    putU64(into, at + 8, expected.writtenAt)
    putU64(into, at + 16, expected.fileOffset)
    putU64(into, at + 24, expected.length)
    SlotRecord.encodeChecksum(expected.checksumLow, expected.checksumHigh, into, at + 32)
    putU32(into, at + 40, expected.segment)
    putU32(into, at + 44, expected.slot)
    return at + EXPECTED_BYTES
  }

  /**
   * Reads the record at `bytes[at]`; null for bytes that are none of this version: too few, another magic or version, a field out of its range, a key that
   * is no UTF-8, something where zeros belong. Looks at neither the record's own checksum (native code did) nor at whether
   * the scope is the key's (PageDigest.scopeOf). Throws at nothing.
   */
  static decode(bytes: Uint8Array, at = 0): SlotRecord | null {
    if (!Number.isSafeInteger(at) || at < 0 || bytes.byteLength - at < RECORD_BYTES) return null
    const record = Buffer.from(bytes.buffer, bytes.byteOffset + at, RECORD_BYTES)
    const state = record[5]!
    if (record.readUInt32LE(0) !== MAGIC || record[4] !== VERSION || (state !== STATE_PAGE && state !== STATE_EVICTED)) return null
    const generation = record.readUInt32LE(8) + record.readUInt32LE(12) * TWO_32
    const writtenAt = record.readUInt32LE(16) + record.readUInt32LE(20) * TWO_32
    if (!Number.isSafeInteger(generation) || generation < 1 || !Number.isSafeInteger(writtenAt)) return null
    const place = { generation, writtenAt, segment: record.readUInt32LE(48), slot: record.readUInt32LE(52) }
    const keyLength = record.readUInt16LE(6)
    if (state === STATE_EVICTED) {
      if (keyLength !== 0 || !zeros(record, 24, 48) || !zeros(record, 56, CRC_AT)) return null
      return new SlotRecord({
        state: 'evicted', ...place, fileOffset: 0, length: 0, checksumLow: 0, checksumHigh: 0, namespaceDigest: NO_BYTES, scope: NO_BYTES, meta: NO_BYTES, key: ''
      })
    }
    const metaLength = record.readUInt16LE(56)
    const fileOffset = record.readUInt32LE(24) + record.readUInt32LE(28) * TWO_32
    const length = record.readUInt32LE(32) + record.readUInt32LE(36) * TWO_32
    if (keyLength < 1 || keyLength > STORED_KEY_BYTES_MAX || metaLength > RECORD_META_BYTES_MAX) return null
    if (!Number.isSafeInteger(fileOffset) || !Number.isSafeInteger(length)) return null
    const metaAt = KEY_AT + keyLength
    if (!zeros(record, 58, NAMESPACE_AT) || !zeros(record, metaAt + metaLength, CRC_AT)) return null
    const key = textOf(record.subarray(KEY_AT, metaAt))
    if (key === null) return null
    return new SlotRecord({
      state: 'page', ...place, fileOffset, length, checksumLow: record.readUInt32LE(40), checksumHigh: record.readUInt32LE(44),
      namespaceDigest: new Uint8Array(record.subarray(NAMESPACE_AT, NAMESPACE_AT + DIGEST_BYTES)),
      scope: new Uint8Array(record.subarray(SCOPE_AT, SCOPE_AT + DIGEST_BYTES)),
      meta: new Uint8Array(record.subarray(metaAt, metaAt + metaLength)), key
    })
  }
}

/** A record but for its place, its time and its key: those of a call are alike, and copying one is quicker than making one. */
class Pattern {
  readonly bytes = Buffer.alloc(RECORD_BYTES)
  readonly meta: Uint8Array
  readonly scope: Uint8Array
  readonly namespaceDigest: Uint8Array
  readonly keyLength: number

  constructor({ key, meta, scope, namespaceDigest }: PageRecord) {
    checkRoom(key, meta)
    this.meta = meta
    this.scope = scope
    this.namespaceDigest = namespaceDigest
    this.keyLength = key.length
    this.bytes.writeUInt32LE(MAGIC, 0)
    this.bytes[4] = VERSION
    this.bytes[5] = STATE_PAGE
    this.bytes.writeUInt16LE(key.length, 6)
    this.bytes.writeUInt16LE(meta.length, 56)
    this.bytes.set(namespaceDigest, NAMESPACE_AT)
    this.bytes.set(scope, SCOPE_AT)
    // As if the key were ASCII, as it nearly always is.
    this.bytes.set(meta, KEY_AT + key.length)
  }

  /** False when it is no ASCII; what is written then is of no use. */
  writeKey(key: string, into: Uint8Array, at: number): boolean {
    let units = 0
    for (let i = 0, to = at + KEY_AT; i < key.length; i++, to++) {
      const unit = key.charCodeAt(i)
      units |= unit
      into[to] = unit
    }
    return units < 128
  }
}

let pattern: Pattern | null = null

function checkRoom(key: string, meta: Uint8Array): void {
  const keyBytes = byteLengthOf(key)
  if (keyBytes <= STORED_KEY_BYTES_MAX && meta.length <= RECORD_META_BYTES_MAX) return
  throw new HiCacheError('ERR_ARGUMENT', `A slot record has room for a stored key of ${STORED_KEY_BYTES_MAX} bytes and a meta of ${RECORD_META_BYTES_MAX}, ` +
    `but they have ${keyBytes} and ${meta.length}.`)
}

function putU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value
  bytes[at + 1] = value >>> 8
  bytes[at + 2] = value >>> 16
  bytes[at + 3] = value >>> 24
}

function putU64(bytes: Uint8Array, at: number, value: number): void {
  const high = Math.floor(value / TWO_32)
  putU32(bytes, at, value - high * TWO_32)
  putU32(bytes, at + 4, high)
}

function zeros(bytes: Uint8Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) if (bytes[i] !== 0) return false
  return true
}

/** null for what is no UTF-8: the decoder throws there. */
function textOf(bytes: Uint8Array): string | null {
  try {
    return decoder.decode(bytes)
  } catch {
    return null
  }
}
