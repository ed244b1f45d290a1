import { appendFileSync, closeSync, copyFileSync, ftruncateSync, openSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { loadAddon } from '../../lib/transfer/load-addon.js'
import type { Random } from './random.js'

const HEADER_BYTES = 4096
const RECORD_BYTES = 512

/** Numbers of an index file's header and of a record: offset and bytes. Not the key and not the checksum of the payload: those make another page of it, rightly. */
const HEADER_NUMBERS: readonly (readonly [number, number])[] = [[8, 4], [12, 4], [16, 8], [24, 4], [28, 4]]
const RECORD_NUMBERS: readonly (readonly [number, number])[] = [[4, 1], [5, 1], [6, 2], [8, 8], [16, 8], [24, 8], [32, 8], [48, 4], [52, 4], [56, 2]]

export interface Damage { readonly what: string; readonly file: string }

function filesOf(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true }).filter(entry => entry.isFile()).map(entry => join(entry.parentPath, entry.name)).sort()
}

function randomBytes(random: Random, length: number): Buffer { return Buffer.from(Array.from({ length }, () => random.below(256))) }

/** Overwrites a part of a file in place. */
function put(file: string, at: number, bytes: Buffer): void {
  const descriptor = openSync(file, 'r+')
  writeSync(descriptor, bytes, 0, bytes.length, at)
  closeSync(descriptor)
}

/** A place in an index is a record that is used, rather than one of the many that are not. */
function placeIn(file: string, bytes: number, random: Random): number {
  if (!file.endsWith('.index') || random.chance(0.3) || bytes <= HEADER_BYTES) return random.below(bytes)
  const content = readFileSync(file)
  const used: number[] = []
  for (let at = HEADER_BYTES; at + RECORD_BYTES <= content.length; at += RECORD_BYTES) if (content[at] !== 0) used.push(at)
  return used.length === 0 ? random.below(bytes) : random.pick(used) + random.below(RECORD_BYTES)
}

/** Changes a number in a record or a header and makes its checksum right again: what no disk does, and code that trusts a checksum falls over. */
function forge(file: string, random: Random): string {
  const content = readFileSync(file)
  const header = random.chance(0.3)
  const used: number[] = []
  for (let at = HEADER_BYTES; at + RECORD_BYTES <= content.length; at += RECORD_BYTES) if (content[at] !== 0) used.push(at)
  if (!header && used.length === 0) return 'nothing: there is no record'
  const at = header ? 0 : random.pick(used)
  const length = header ? HEADER_BYTES : RECORD_BYTES
  const block = content.subarray(at, at + length)
  const [field, bytes] = random.pick(header ? HEADER_NUMBERS : RECORD_NUMBERS)
  const value = random.pick([0n, 1n, 2n ** 63n, 2n ** 53n + 1n, 2n ** 64n - 1n, 2n ** 32n - 1n, 4096n, 255n, 256n, BigInt(random.below(2 ** 31))])
  for (let i = 0; i < bytes; i++) block[field + i] = Number(value >> BigInt(8 * i) & 255n)
  block.writeBigUInt64LE(loadAddon().crc64(block.subarray(0, length - 8)), length - 8)
  put(file, at, block)
  return `bytes ${field} to ${field + bytes - 1} of the ${header ? 'header' : `record at ${at}`} are ${value}, with a checksum that is right`
}

/** Damages one file of a store at random. `older`: the same store at an earlier time. */
export function damage(directory: string, older: string, random: Random): Damage {
  const files = filesOf(directory)
  const ending = random.pick(['.index', '.index', '.index', '.index', '.data', '.data', 'changes', ''])
  const fitting = files.filter(file => file.endsWith(ending))
  const file = random.pick(fitting.length > 0 ? fitting : files)
  const bytes = statSync(file).size
  const like = files.filter(other => other !== file && other.slice(other.lastIndexOf('/')).split('.')[1] === file.slice(file.lastIndexOf('/')).split('.')[1])
  const way = random.pick(['cut', 'zero', 'flip', 'flip', 'flip', 'noise', 'append', 'replace', 'older', 'gone', 'rename', 'forge', 'forge'] as const)
  const done = (what: string): Damage => ({ what, file: file.slice(directory.length + 1) })
  if (bytes === 0 || way === 'append') {
    const added = randomBytes(random, 1 + random.below(10_000))
    appendFileSync(file, added)
    return done(`${added.length} bytes are appended`)
  }
  switch (way) {
    case 'cut': {
      const left = random.chance(0.2) ? 0 : random.below(bytes)
      const descriptor = openSync(file, 'r+')
      ftruncateSync(descriptor, left)
      closeSync(descriptor)
      return done(`cut to ${left} of ${bytes} bytes`)
    }
    case 'zero': {
      const at = placeIn(file, bytes, random)
      const length = Math.min(bytes - at, 1 + random.below(random.pick([8, 512, 65_536, bytes])))
      put(file, at, Buffer.alloc(length))
      return done(`${length} zeros at ${at}`)
    }
    case 'flip': {
      const places = Array.from({ length: 1 + random.below(4) }, () => [placeIn(file, bytes, random), random.below(8)] as const)
      const content = readFileSync(file)
      for (const [at, bit] of places) put(file, at, Buffer.of(content[at]! ^ 1 << bit))
      return done(`bits ${places.map(([at, bit]) => `${at}.${bit}`).join(', ')} are flipped`)
    }
    case 'noise': {
      const at = placeIn(file, bytes, random)
      const noise = randomBytes(random, Math.min(bytes - at, 1 + random.below(4096)))
      put(file, at, noise)
      return done(`${noise.length} bytes of noise at ${at}`)
    }
    case 'replace': {
      if (like.length === 0) {
        writeFileSync(file, randomBytes(random, 1 + random.below(5000)))
        return done('replaced by noise')
      }
      const other = random.pick(like)
      copyFileSync(other, file)
      return done(`replaced by ${other.slice(directory.length + 1)}`)
    }
    case 'older':
      try {
        copyFileSync(join(older, file.slice(directory.length + 1)), file)
        return done('replaced by itself, earlier')
      } catch {
        rmSync(file)
        return done('removed, as it was not there earlier')
      }
    case 'gone':
      rmSync(file)
      return done('removed')
    case 'rename': {
      const to = random.chance(0.5) && like.length > 0 ? random.pick(like) : file.replace(/[^/]+$/, name => name.replace(/^[^.]+/, 'deadbeef'))
      renameSync(file, to)
      return done(`renamed ${to.slice(directory.length + 1)}`)
    }
    case 'forge':
      return done(file.endsWith('.index') && bytes > HEADER_BYTES ? forge(file, random) : (appendFileSync(file, 'x'), 'one byte is appended'))
  }
}
