import { randomBytes } from 'node:crypto'
import { Crc64Nvme } from '@aws-sdk/crc64-nvme'
import { expect } from 'chai'
import { addon } from './rig.js'

async function reference(bytes: Uint8Array): Promise<bigint> {
  const checksum = new Crc64Nvme()
  checksum.update(bytes)
  return Buffer.from(await checksum.digest()).readBigUInt64BE()
}

describe('crc64', () => {
  it('is CRC-64/NVME: the check value of its definition', () => {
    expect(addon.crc64(Buffer.from('123456789'))).to.equal(0xae8b14860a799888n)
    expect(addon.crc64(new Uint8Array(0))).to.equal(0n)
  })

  it('equals the AWS SDK at every short length, and at page sizes', async () => {
    const bytes = randomBytes(1 << 20)
    for (const length of [...Array(600).keys(), 4096, 65_536, 65_537, 1 << 20]) {
      expect(addon.crc64(bytes.subarray(0, length)), `${length} bytes`).to.equal(await reference(bytes.subarray(0, length)))
    }
  })

  it('goes on from a seed, wherever the bytes are split', () => {
    const bytes = randomBytes(10_000)
    const whole = addon.crc64(bytes)
    for (let split = 0; split <= bytes.length; split += 97) {
      expect(addon.crc64(bytes.subarray(split), addon.crc64(bytes.subarray(0, split)))).to.equal(whole)
    }
  })

  it('takes every view, on shared memory too', () => {
    const shared = new Uint8Array(new SharedArrayBuffer(64)).map((_, i) => i)
    const same = addon.crc64(Uint8Array.from(shared))
    expect(addon.crc64(shared)).to.equal(same)
    expect(addon.crc64(new DataView(Uint8Array.from(shared).buffer))).to.equal(same)
    expect(addon.crc64(new BigUint64Array(Uint8Array.from(shared).buffer))).to.equal(same)
    expect(addon.crc64(shared.subarray(8, 16))).to.equal(addon.crc64(Uint8Array.from(shared).subarray(8, 16)))
  })

  it('refuses what is no view, and seeds that are no 64-bit number', () => {
    for (const wrong of [undefined, 'text', 5, new ArrayBuffer(8), {}]) {
      expect(() => addon.crc64(wrong as never)).to.throw().with.property('code', 'ERR_ARGUMENT')
    }
    for (const seed of [-1n, 1n << 64n, 5, 'x']) {
      expect(() => addon.crc64(new Uint8Array(1), seed as never)).to.throw().with.property('code', 'ERR_ARGUMENT')
    }
  })

  it('names the instructions it runs on', () => {
    expect(addon.crc64Kernel).to.be.oneOf(['vpclmulqdq', 'pclmulqdq', 'table'])
  })
})
