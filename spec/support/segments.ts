import { closeSync, lstatSync, openSync, readFileSync, readSync, readdirSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { HiCacheNixl, OpenOptions } from '../../lib/index.js'
import { SegmentFiles, slotsOf } from '../trials/segment-files.js'
import { bytes, same } from './content.js'
import { MIB } from './workbench.js'

export const KIB = 1024
/** Where a header of an index file has the bytes of an extent. */
const EXTENT_BYTES_AT = 24
const HEADER_BYTES = 4096
const RECORD_BYTES = 512

/** Options of a small store of segments: 1 MiB each, and of them as many as fit `capacityMib`, less 2 MiB for the ring of changes. */
export function segments(capacityMib?: number, rest: OpenOptions = {}): OpenOptions {
  return { storageLayout: 'segment', segmentBytes: MIB, ...(capacityMib === undefined ? {} : { capacity: capacityMib * MIB }), ...rest }
}

/** Pages whose content follows from their key. Answers a word a page: its status, or that and the errno or code of its error. */
export async function store(cache: HiCacheNixl, keys: readonly string[], length: number, version = 0): Promise<string[]> {
  const outcomes = await cache.write(keys.map(key => [key, content(key, length, version)]))
  return outcomes.map(outcome => outcome.ok ? outcome.status : `${outcome.status} ${outcome.error.errno ?? outcome.error.code}`)
}

/** Answers a word a page: `hit` when the bytes are those that store() stores, `WRONG BYTES`, the reason of a miss, or status and error. */
export async function look(cache: HiCacheNixl, keys: readonly string[], length: number, version = 0): Promise<string[]> {
  return (await cache.read(keys)).map((outcome, i) => {
    if (outcome.ok) return same(outcome.value, content(keys[i]!, length, version)) ? 'hit' : 'WRONG BYTES'
    return outcome.status === 'miss' ? outcome.reason : `${outcome.status} ${outcome.error.errno ?? outcome.error.code}`
  })
}

/** What remote-cache-child.ts stores, too. */
export function content(key: string, length: number, version = 0): Uint8Array { return bytes(length, `${key} ${version}`) }

export function numbered(name: string, count: number, from = 0): string[] {
  return Array.from({ length: count }, (_, i) => `${name}-${String(from + i).padStart(4, '0')}`)
}

/** Writes in calls of `atOnce` pages: more than the arena holds at once. */
export async function storeAll(cache: HiCacheNixl, keys: readonly string[], length: number, atOnce = 16): Promise<string[]> {
  const words: string[] = []
  for (let at = 0; at < keys.length; at += atOnce) words.push(...await store(cache, keys.slice(at, at + atOnce), length))
  return words
}

export async function lookAll(cache: HiCacheNixl, keys: readonly string[], length: number, atOnce = 16): Promise<string[]> {
  const words: string[] = []
  for (let at = 0; at < keys.length; at += atOnce) words.push(...await look(cache, keys.slice(at, at + atOnce), length))
  return words
}

/** How often each word was answered. */
export function tally(words: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const word of words) counts[word] = (counts[word] ?? 0) + 1
  return counts
}

export interface PagePlace {
  readonly data: string
  readonly dataAt: number
  readonly index: string
  readonly recordAt: number
  readonly bytes: number
  readonly segment: number
  readonly slot: number
  readonly generation: number
}

/** Where the one page of that stored key lies, as the records on the disk tell it. */
export function placeOf(storageDir: string, storedKey: string): PagePlace {
  for (const { name, files } of new SegmentFiles(storageDir).folders()) {
    for (const file of files.filter(one => one.endsWith('.index'))) {
      const index = join(storageDir, 'segments', name, file)
      const content = readFileSync(index)
      const found = slotsOf(content).find(({ state, key }) => state === 'page' && key === storedKey)
      if (!found) continue
      return {
        data: index.replace(/index$/, 'data'), dataAt: found.slot * content.readUInt32LE(EXTENT_BYTES_AT), index, recordAt: HEADER_BYTES + RECORD_BYTES * found.slot, bytes: found.length,
        segment: Number.parseInt(file, 16), slot: found.slot, generation: Number(found.generation)
      }
    }
  }
  throw new Error(`No record on the disk has the key ${storedKey}.`)
}

/** Turns a byte of a file over, synchronously: nothing of this process runs in between. */
export function flip(path: string, at: number): void {
  const file = openSync(path, 'r+')
  try {
    const byte = new Uint8Array(1)
    readSync(file, byte, 0, 1, at)
    byte[0]! ^= 0xff
    writeSync(file, byte, 0, 1, at)
  } finally {
    closeSync(file)
  }
}

/** Writes one slot's record over another's. */
export function copyRecord(index: string, from: number, to: number): void {
  const file = openSync(index, 'r+')
  try {
    const record = new Uint8Array(RECORD_BYTES)
    readSync(file, record, 0, RECORD_BYTES, from)
    writeSync(file, record, 0, RECORD_BYTES, to)
  } finally {
    closeSync(file)
  }
}

/** The most that the files of a store take on the disk, looked at every few milliseconds while `work` runs. */
export async function mostBytesDuring(storageDir: string, work: () => Promise<void>): Promise<number> {
  let most = 0
  const look = (): void => { most = Math.max(most, allocatedBelow(join(storageDir, 'segments'))) }
  const timer = setInterval(look, 5)
  try {
    await work()
  } finally {
    clearInterval(timer)
  }
  look()
  return most
}

/** Bytes that a folder and all below it take on the disk. What goes while this looks counts nothing. */
export function allocatedBelow(path: string): number {
  const status = lstatSync(path, { throwIfNoEntry: false })
  if (status === undefined) return 0
  const own = status.blocks * 512
  if (!status.isDirectory()) return own
  try {
    return readdirSync(path).reduce((sum, name) => sum + allocatedBelow(join(path, name)), own)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return own
    throw error
  }
}
