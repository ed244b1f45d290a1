import { lstatSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { loadAddon } from '../../lib/transfer/load-addon.js'

// The format of docs/formats.md, read by code that has nothing in common with the store's.
const HEADER_BYTES = 4096
const RECORD_BYTES = 512
const RECORD_MAGIC = 0x54534348
const KEY_AT = 96

export interface SlotOnDisk { readonly state: 'page' | 'evicted'; readonly key: string; readonly generation: bigint; readonly length: number; readonly checksum: bigint; readonly slot: number }

/** The records of an index file that hold by themselves. */
export function slotsOf(index: Buffer): SlotOnDisk[] {
  const slots: SlotOnDisk[] = []
  for (let at = HEADER_BYTES, slot = 0; at + RECORD_BYTES <= index.length; at += RECORD_BYTES, slot++) {
    const record = index.subarray(at, at + RECORD_BYTES)
    if (record.readUInt32LE(0) !== RECORD_MAGIC || loadAddon().crc64(record.subarray(0, 504)) !== record.readBigUInt64LE(504)) continue
    const keyLength = record.readUInt16LE(6)
    slots.push({
      state: record[5] === 1 ? 'page' : 'evicted', key: record.toString('utf8', KEY_AT, KEY_AT + keyLength), generation: record.readBigUInt64LE(8),
      length: Number(record.readBigUInt64LE(32)), checksum: record.readBigUInt64LE(40), slot
    })
  }
  return slots
}

export interface FolderOnDisk { readonly name: string; readonly files: readonly string[] }

/** What lies below `segments` of a storage directory. */
export class SegmentFiles {
  readonly #root: string

  constructor(storageDir: string) { this.#root = join(storageDir, 'segments') }

  folders(): FolderOnDisk[] {
    return readdirSync(this.#root, { withFileTypes: true }).filter(entry => entry.isDirectory())
      .map(({ name }) => ({ name, files: readdirSync(join(this.#root, name)) }))
  }

  /** Bytes that all of it takes on the disk. Files may go while this looks. */
  allocatedBytes(): number {
    let bytes = 0
    for (const entry of readdirSync(this.#root, { recursive: true, withFileTypes: true })) {
      const status = lstatSync(join(entry.parentPath, entry.name), { throwIfNoEntry: false })
      if (entry.isFile() && status !== undefined) bytes += status.blocks * 512
    }
    return bytes
  }

  /** Every page record of every folder. */
  pages(): SlotOnDisk[] {
    return this.folders().flatMap(({ name, files }) => files.filter(file => file.endsWith('.index'))
      .flatMap(file => slotsOf(readFileSync(join(this.#root, name, file))).filter(({ state }) => state === 'page')))
  }

  /** What no closed store may leave behind: half of a segment, files in preparation, folders beyond one, a key that holds two extents. */
  leftovers(): string[] {
    const found: string[] = []
    const folders = this.folders()
    if (folders.length > 1) found.push(`${folders.length} folders`)
    for (const { name, files } of folders) {
      for (const file of files) {
        const [id, kind] = file.split('.') as [string, string | undefined]
        if (kind === 'new' || file === 'wants') found.push(`${name}/${file}`)
        else if (kind === 'data' && !files.includes(`${id}.index`)) found.push(`${name}/${file} without an index`)
        else if (kind === 'index' && !files.includes(`${id}.data`)) found.push(`${name}/${file} without data`)
      }
    }
    const seen = new Set<string>()
    for (const { key } of this.pages()) {
      if (seen.has(key)) found.push(`${key} twice`)
      seen.add(key)
    }
    return found
  }
}
