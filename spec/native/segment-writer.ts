import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Workbench } from '../support/workbench.js'
import { addon, type Answer, type Ask, type Rig } from './rig.js'

export const EXTENT = (1 << 20) + (1 << 16)
const SLOTS = 6

/** What a spec asks of a slot. */
export interface SlotAsk {
  readonly at?: number
  readonly length: number
  readonly generation?: number
  readonly flags?: NonNullable<Ask['flags']>
  /** Of the page: the identity. */
  readonly checksum?: bigint
}

function le64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(value)
  return bytes
}

/** A writer's folder with one segment, and the operations on its slots, by docs/formats.md. */
export class SegmentWriter {
  readonly directory: string
  readonly folder: string
  readonly ownerFd: number
  readonly id: number
  #open = true

  private constructor(directory: string, folder: string, ownerFd: number, id: number) {
    this.directory = directory
    this.folder = folder
    this.ownerFd = ownerFd
    this.id = id
  }

  /** Closed at the end of the spec. */
  static async open(bench: Workbench, directory: string): Promise<SegmentWriter> {
    const { folder, ownerFd } = await addon.segments.open(directory)
    const { id } = await addon.segments.grant(directory, folder, { dataBytes: SLOTS * EXTENT, extentBytes: EXTENT, capacity: 0, keepFreeBytes: 0, direct: false })
    const writer = new SegmentWriter(directory, folder, ownerFd, id)
    bench.atEnd(() => writer.close())
    return writer
  }

  async close(): Promise<void> {
    if (!this.#open) return
    this.#open = false
    await addon.segments.closeWriter(this.directory, this.folder, this.ownerFd)
  }

  get name(): string { return `segments/${this.folder}/${this.id.toString(16).padStart(8, '0')}` }
  path(ending: 'data' | 'index'): string { return join(this.directory, `${this.name}.${ending}`) }

  /** The slot record as it lies in the index file. */
  record(slot: number): Buffer { return readFileSync(this.path('index')).subarray(4096 + 512 * slot, 4608 + 512 * slot) }
  /** 0n: no record, or none that holds. */
  generation(slot: number): bigint {
    const record = this.record(slot)
    return record.readBigUInt64LE(504) === addon.crc64(record.subarray(0, 504)) ? record.readBigUInt64LE(8) : 0n
  }
  /** Slots told in the ring of changes, in their order (not the segment as a whole). */
  changes(): number[] {
    const ring = readFileSync(join(this.directory, 'segments', this.folder, 'changes'))
    const told: { sequence: bigint; slot: number }[] = []
    for (let at = 4096; at < ring.length; at += 32) {
      const sequence = ring.readBigUInt64LE(at), slot = ring.readUInt32LE(at + 12)
      if (sequence === 0n || slot >= SLOTS || ring.readUInt32LE(at + 8) !== this.id) continue
      if (ring.readBigUInt64LE(at + 24) === addon.crc64(ring.subarray(at, at + 24))) told.push({ sequence, slot })
    }
    return told.sort((one, other) => Number(one.sequence - other.sequence)).map(({ slot }) => slot)
  }

  #record(slot: number, ask: { length: number; generation?: number; checksum?: bigint }): Buffer {
    const bytes = Buffer.alloc(512)
    bytes.write('HCST', 0, 'latin1')
    bytes[4] = 1
    bytes[5] = 1
    bytes.writeUInt16LE(bytes.write(`key-${slot}`, 96), 6)
    bytes.writeBigUInt64LE(BigInt(ask.generation ?? 1), 8)
    bytes.writeBigUInt64LE(BigInt(slot * EXTENT), 24)
    bytes.writeBigUInt64LE(BigInt(ask.length), 32)
    bytes.writeBigUInt64LE(ask.checksum ?? 0n, 40)
    bytes.writeUInt32LE(this.id, 48)
    bytes.writeUInt32LE(slot, 52)
    return bytes
  }

  #place(slot: number): { name: string; fileOffset: number; recordAt: number } {
    return { name: this.name, fileOffset: slot * EXTENT, recordAt: 4096 + 512 * slot }
  }

  write(slot: number, ask: SlotAsk): Ask {
    return { op: 'segmentWrite', ...this.#place(slot), ...ask, identity: le64(ask.checksum ?? 0n), meta: this.#record(slot, ask) }
  }
  read(slot: number, ask: SlotAsk & { readonly checksum: bigint }): Ask {
    const foreign = ask.flags?.includes('foreign')
    return { op: 'segmentRead', ...this.#place(slot), ...ask, identity: le64(ask.checksum), meta: foreign ? this.#record(slot, ask).subarray(8, 56) : '' }
  }
  evict(slot: number, generation: number, flags: NonNullable<Ask['flags']> = []): Ask {
    const meta = Buffer.alloc(24)
    meta.writeUInt32LE(this.id, 0)
    meta.writeUInt32LE(slot, 4)
    meta.writeBigUInt64LE(BigInt(generation), 8)
    return { op: 'tombstones', name: `segments/${this.folder}`, flags, identity: '', meta }
  }
}

/** The payload's checksum that a segmentWrite answers. */
export function checksumOf(answer: Answer): bigint { return answer.metaBytes.readBigUInt64LE(0) }

export function fillAndSum(rig: Rig, at: number, length: number, seed: number): bigint { return addon.crc64(rig.fill(at, length, seed)) }
