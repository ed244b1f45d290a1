import type { DiskImage } from './crash-images.js'
import type { RecordedEvent } from './recording.js'

const PAGE_BYTES = 4096
const RECORD_BYTES = 512

/** What the model forgets, to see that a trial notices. */
export type Omission = 'none' | 'sync of data' | 'sync of records' | 'sync of names' | 'order' | 'checksum'

/**
 * The smallest store with the order of the segment layout: data, its sync, the record with a checksum, its sync, the answer. It exists as the calls that it would
 * make, so that what builds crash images can be tried without a disk.
 */
export class ModelStore {
  readonly events: RecordedEvent[] = []
  readonly #omission: Omission
  #ids = 0

  constructor(omission: Omission) {
    this.#omission = omission
    this.events.push({ kind: 'folder', path: 'segments' }, { kind: 'create', path: 'segments/data.new', inode: 1 }, { kind: 'create', path: 'segments/index', inode: 2 })
    this.events.push({ kind: 'resize', inode: 1, path: 'segments/data.new', bytes: 64 * PAGE_BYTES, onlyLonger: true })
    this.events.push({ kind: 'rename', path: 'segments/data.new', to: 'segments/data' })
    if (omission !== 'sync of names') {
      this.#sync(10, 'segments')
      this.#sync(11, '')
    }
  }

  /** Stores `version` in a slot, as a page that is full of it. */
  put(slot: number, version: number): void {
    this.events.push({ kind: 'mark', text: `b ${slot} ${version}` })
    const record = Buffer.alloc(RECORD_BYTES)
    record.writeUInt32LE(version)
    record.writeUInt32LE(version ^ 0x5a5a5a5a, RECORD_BYTES - 4)
    const data = (): void => {
      this.#write(1, 'segments/data', slot * PAGE_BYTES, Buffer.alloc(PAGE_BYTES, version))
      if (this.#omission !== 'sync of data') this.#sync(1, 'segments/data')
    }
    const index = (): void => {
      this.#write(2, 'segments/index', slot * RECORD_BYTES, record)
      if (this.#omission !== 'sync of records') this.#sync(2, 'segments/index')
    }
    for (const step of this.#omission === 'order' ? [index, data] : [data, index]) step()
    this.events.push({ kind: 'mark', text: `s ${slot} ${version}` })
  }

  /** What an image holds in a slot: a version, null, or 'wrong': bytes that no version is. */
  read(image: DiskImage, slot: number): number | null | 'wrong' {
    const data = image.get('segments/data')
    const index = image.get('segments/index')
    const record = index?.subarray(slot * RECORD_BYTES, (slot + 1) * RECORD_BYTES)
    if (!data || record?.length !== RECORD_BYTES) return null
    const version = record.readUInt32LE(0)
    if (version === 0 || (record.readUInt32LE(RECORD_BYTES - 4) ^ 0x5a5a5a5a) !== version) return null
    const page = data.subarray(slot * PAGE_BYTES, (slot + 1) * PAGE_BYTES)
    const whole = page.length === PAGE_BYTES && page.every(byte => byte === version)
    if (whole) return version
    return this.#omission === 'checksum' || this.#omission === 'order' ? 'wrong' : null
  }

  #write(inode: number, path: string, offset: number, data: Buffer): void {
    const id = ++this.#ids
    this.events.push({ kind: 'write', id, inode, path, offset, length: data.length, data }, { kind: 'end', id, result: data.length })
  }

  #sync(inode: number, path: string): void {
    const id = ++this.#ids
    this.events.push({ kind: 'sync', id, inode, path }, { kind: 'end', id, result: 0 })
  }
}
