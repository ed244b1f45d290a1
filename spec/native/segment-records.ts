import { closeSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { addon } from './rig.js'

export interface PutPage { readonly id: number; readonly slot: number; readonly key: string; readonly extentBytes: number; readonly generation?: number; readonly length?: number }

export const segmentFile = (directory: string, folder: string, id: number, ending: 'data' | 'index'): string =>
  join(directory, 'segments', folder, `${id.toString(16).padStart(8, '0')}.${ending}`)

/** A page's slot record, by docs/formats.md and nothing else. */
function record({ id, slot, key, extentBytes, generation = 1, length = 1000 }: PutPage): Buffer {
  const bytes = Buffer.alloc(512)
  const name = Buffer.from(key)
  bytes.write('HCST', 0, 'latin1')
  bytes[4] = 1
  bytes[5] = 1
  bytes.writeUInt16LE(name.length, 6)
  bytes.writeBigUInt64LE(BigInt(generation), 8)
  bytes.writeBigUInt64LE(BigInt(Date.now()) * 1000n, 16)
  bytes.writeBigUInt64LE(BigInt(slot * extentBytes), 24)
  bytes.writeBigUInt64LE(BigInt(length), 32)
  bytes.writeBigUInt64LE(0x1122334455667788n, 40)
  bytes.writeUInt32LE(id, 48)
  bytes.writeUInt32LE(slot, 52)
  bytes.fill(0xab, 64, 80)
  bytes.fill(0xcd, 80, 96)
  name.copy(bytes, 96)
  bytes.writeBigUInt64LE(addon.crc64(bytes.subarray(0, 504)), 504)
  return bytes
}

/** Writes records as a writer does that tells nobody. */
export function put(directory: string, folder: string, pages: readonly PutPage[]): void {
  for (const page of pages) {
    const file = openSync(segmentFile(directory, folder, page.id, 'index'), 'r+')
    writeSync(file, record(page), 0, 512, 4096 + 512 * page.slot)
    closeSync(file)
  }
}
