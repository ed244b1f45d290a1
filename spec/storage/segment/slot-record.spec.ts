import { expect } from 'chai'
import { FileLayout } from '../../../lib/storage/file-layout.js'
import { RECORD_BYTES, SlotRecord, type PageRecord } from '../../../lib/storage/segment/slot-record.js'
import { randomNumbers } from '../../support/random-numbers.js'

const PAGE: PageRecord = {
  segment: 0xdeadbeef, slot: 77, generation: 2 ** 40 + 5, writtenAt: 1_790_000_000_123_456, fileOffset: 2 ** 33 + 4096, length: 65_537,
  namespaceDigest: new Uint8Array(16).fill(0xaa), scope: new Uint8Array(16).fill(0xbb), key: 'ключ_m_0_1', meta: FileLayout.encodeMeta('bfloat16', [2, 3])
}

function encoded(page: PageRecord = PAGE): Buffer {
  const record = Buffer.alloc(RECORD_BYTES, 0xff)
  expect(SlotRecord.encodePage(page, record)).to.equal(RECORD_BYTES)
  return record
}

const fieldsOf = (record: SlotRecord | null): object => Object.assign({}, record)

describe('the record of a slot', () => {
  it('a page\'s bytes are where the format says', () => {
    const key = Buffer.from('ключ_m_0_1')
    const record = Buffer.alloc(RECORD_BYTES)
    record.writeUInt32LE(0x54534348, 0)
    record[4] = 1
    record[5] = 1
    record.writeUInt16LE(key.length, 6)
    record.writeBigUInt64LE(2n ** 40n + 5n, 8)
    record.writeBigUInt64LE(1_790_000_000_123_456n, 16)
    record.writeBigUInt64LE(2n ** 33n + 4096n, 24)
    record.writeBigUInt64LE(65_537n, 32)
    record.writeUInt32LE(0xdeadbeef, 48)
    record.writeUInt32LE(77, 52)
    record.writeUInt16LE(PAGE.meta.length, 56)
    record.fill(0xaa, 64, 80)
    record.fill(0xbb, 80, 96)
    record.set(key, 96)
    record.set(PAGE.meta, 96 + key.length)
    expect(encoded().equals(record)).to.equal(true)
  })
  it('comes back as it went, with the checksum that native code filled in', () => {
    const record = encoded()
    record.writeBigUInt64LE(0xfedc_ba98_7654_3210n, 40)
    record.writeBigUInt64LE(0x1234n, 504)
    const into = Buffer.concat([Buffer.alloc(3), record])
    expect(fieldsOf(SlotRecord.decode(into, 3))).to.deep.equal({ ...PAGE, state: 'page', checksumLow: 0x76543210, checksumHigh: 0xfedcba98 })
  })
  it('the longest key and meta fit, longer ones are refused', () => {
    const longest = { ...PAGE, key: '鍵'.repeat(85), meta: FileLayout.encodeMeta('uint8', new Array<number>(16).fill(2 ** 40)) }
    expect([Buffer.byteLength(longest.key), longest.meta.length]).to.deep.equal([255, 136])
    const record = SlotRecord.decode(encoded(longest))
    expect([record?.key, record?.meta]).to.deep.equal([longest.key, longest.meta])
    expect(() => encoded({ ...PAGE, key: 'x'.repeat(256) })).to.throw('key of 255 bytes').with.property('code', 'ERR_ARGUMENT')
    expect(() => encoded({ ...PAGE, meta: new Uint8Array(137) })).to.throw('meta of 136').with.property('code', 'ERR_ARGUMENT')
  })
  it('a tombstone says place, generation and time, and nothing else', () => {
    const place = { segment: 5, slot: 6, generation: 7, writtenAt: 8 }
    const bytes = Buffer.alloc(RECORD_BYTES)
    bytes.write('HCST', 0, 'latin1')
    bytes.set([1, 2], 4)
    bytes.writeBigUInt64LE(7n, 8)
    bytes.writeBigUInt64LE(8n, 16)
    bytes.writeUInt32LE(5, 48)
    bytes.writeUInt32LE(6, 52)
    const none = new Uint8Array(0)
    expect(fieldsOf(SlotRecord.decode(bytes))).to.deep.equal({
      ...place, state: 'evicted', fileOffset: 0, length: 0, checksumLow: 0, checksumHigh: 0, namespaceDigest: none, scope: none, meta: none, key: ''
    })
    bytes[60] = 1
    expect(SlotRecord.decode(bytes), 'zeros are zeros').to.equal(null)
  })
  it('what a reader expects is the bytes 8 to 55 of the record', () => {
    const record = encoded()
    record.writeBigUInt64LE(0xfedc_ba98_7654_3210n, 40)
    const expected = Buffer.alloc(50, 1)
    expect(SlotRecord.encodeExpected(SlotRecord.decode(record)!, expected, 1)).to.equal(49)
    expect(expected.subarray(1, 49).equals(record.subarray(8, 56))).to.equal(true)
    expect([expected[0], expected[49]]).to.deep.equal([1, 1])
  })
  it('what is none of this version is none', () => {
    const changed = (change: (record: Buffer) => void): SlotRecord | null => {
      const record = encoded()
      change(record)
      return SlotRecord.decode(record)
    }
    expect(changed(() => undefined)).not.to.equal(null)
    const wrong: [string, (record: Buffer) => void][] = [
      ['magic', r => r.writeUInt8(0, 0)], ['version', r => r.writeUInt8(2, 4)], ['state 0', r => r.writeUInt8(0, 5)], ['state 3', r => r.writeUInt8(3, 5)],
      ['no key', r => r.writeUInt16LE(0, 6)], ['key too long', r => r.writeUInt16LE(256, 6)], ['generation 0', r => r.writeBigUInt64LE(0n, 8)],
      ['generation beyond 2 ** 53', r => r.writeBigUInt64LE(2n ** 53n, 8)], ['time beyond 2 ** 53', r => r.writeBigUInt64LE(2n ** 60n, 16)],
      ['offset beyond 2 ** 53', r => r.writeBigUInt64LE(2n ** 63n, 24)], ['length beyond 2 ** 53', r => r.writeBigUInt64LE(2n ** 63n, 32)],
      ['meta too long', r => r.writeUInt16LE(137, 56)], ['no zeros after the meta\'s length', r => r.writeUInt8(1, 63)], ['no zeros at the end', r => r.writeUInt8(1, 503)],
      ['key cut inside a character', r => r.writeUInt16LE(1, 6)], ['a key that is no UTF-8', r => r.writeUInt8(0xff, 96)], ['nothing', r => r.fill(0)]
    ]
    for (const [what, change] of wrong) expect(changed(change), what).to.equal(null)
    expect(SlotRecord.decode(encoded().subarray(1)), 'too short').to.equal(null)
    for (const at of [1, -1, 0.5, NaN, Infinity]) expect(SlotRecord.decode(encoded(), at), `at ${at}`).to.equal(null)
  })
  it('garbage never throws, and what is taken for a record holds its own limits', () => {
    const random = randomNumbers(3)
    const record = encoded()
    let taken = 0
    for (let i = 0; i < 20_000; i++) {
      const bytes = Buffer.from(record)
      const changes = 1 + random(4)
      for (let c = 0; c < changes; c++) bytes[random(4) === 0 ? random(RECORD_BYTES) : random(100)] = random(256)
      const decoded = SlotRecord.decode(bytes)
      if (decoded === null) continue
      taken++
      expect(Number.isSafeInteger(decoded.generation) && Number.isSafeInteger(decoded.length) && decoded.meta.length <= 136).to.equal(true)
      expect(Buffer.byteLength(decoded.key)).to.be.at.most(255)
    }
    expect(taken).to.be.greaterThan(100)
    for (let i = 0; i < 2000; i++) {
      const bytes = Buffer.from({ length: RECORD_BYTES } as ArrayLike<number>)
      for (let b = 0; b < RECORD_BYTES; b++) bytes[b] = random(256)
      expect(SlotRecord.decode(bytes)).to.equal(null)
    }
  })
})
