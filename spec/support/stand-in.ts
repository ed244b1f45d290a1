import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { closeSync, existsSync, openSync, readFileSync, readSync, readdirSync, writeSync } from 'node:fs'
import { mkdir, rename } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'

const ENTRY_BYTES = 64
const NAME_BYTES = 48
const ENTRIES = 128

/** Stand-ins for libraries whose hardware is not here; `spec/support/stand-ins/NAME.cc`. They prove our logic, and nothing about the real thing. */
export type StandInName = 'cuda' | 'cufile' | 'usrbio' | 'nixl_capi'

const SOURCES = 'spec/support/stand-ins'
const built = new Map<string, Promise<string>>()

/** The stand-in's path: built by the first process that asks, for all that come later, as long as its source stays the same. `defines` make variants of it (`-DNAME`). */
export function standInLibrary(name: StandInName, defines: readonly string[] = []): Promise<string> {
  const key = [name, ...defines].join('-')
  let path = built.get(key)
  if (path === undefined) {
    path = build(name, defines, key)
    built.set(key, path)
  }
  return path
}

async function build(name: StandInName, defines: readonly string[], key: string): Promise<string> {
  const source = join(SOURCES, `${name}.cc`)
  const command = [
    process.env['CXX'] ?? 'g++', '-std=c++20', '-O1', '-g', '-Wall', '-Wextra', '-Werror', '-shared', '-fPIC', '-fvisibility=hidden', `-I${SOURCES}`,
    ...defines.map(define => `-D${define}`), source, '-lpthread', '-ldl'
  ]
  const hash = createHash('sha256').update(command.join(' '))
  for (const file of [source, ...readdirSync(SOURCES).filter(file => file.endsWith('.h')).sort().map(file => join(SOURCES, file))]) hash.update(readFileSync(file))
  // A folder of its own: a library is looked for beside others by its name.
  const folder = resolve('build', 'stand-ins', hash.digest('hex').slice(0, 16))
  const library = join(folder, `lib${key}.so`)
  if (existsSync(library)) return library
  await mkdir(folder, { recursive: true })
  // Two processes may build it at a time: the last one wins, and both are whole.
  const fresh = `${library}.${process.pid}`
  await promisify(execFile)(command[0]!, [...command.slice(1), '-o', fresh])
  await rename(fresh, library)
  return library
}

/** The file over which a spec and a stand-in talk (stand_in.h): faults to inject, parameters, counters. Name it to the library by HICACHE_STAND_IN_CONTROL before it is loaded. */
export class StandInControl {
  readonly path: string

  constructor(path: string) {
    this.path = path
    closeSync(openSync(path, 'a', 0o600))
  }

  get(name: string): number {
    const bytes = readFileSync(this.path)
    const at = find(bytes, name)
    return at < 0 ? 0 : Number(bytes.readBigInt64LE(at + NAME_BYTES))
  }

  /** How many times more a fault strikes (-1: always), or a parameter. */
  set(name: string, value: number): void {
    const fd = openSync(this.path, 'r+')
    try {
      const bytes = Buffer.alloc(ENTRY_BYTES * ENTRIES)
      readSync(fd, bytes, 0, bytes.length, 0)
      let at = find(bytes, name)
      if (at < 0) {
        // Before the library was loaded: it finds its names, and adds those that are missing.
        at = free(bytes)
        const entry = Buffer.alloc(ENTRY_BYTES)
        entry.write(name, 0, NAME_BYTES - 1, 'latin1')
        writeSync(fd, entry, 0, ENTRY_BYTES, at)
      }
      const written = Buffer.alloc(8)
      written.writeBigInt64LE(BigInt(value))
      writeSync(fd, written, 0, 8, at + NAME_BYTES)
    } finally {
      closeSync(fd)
    }
  }
}

function nameAt(bytes: Buffer, at: number): string {
  const end = bytes.indexOf(0, at)
  return bytes.toString('latin1', at, Math.min(end < 0 ? bytes.length : end, at + NAME_BYTES))
}

function find(bytes: Buffer, name: string): number {
  for (let at = 0; at + ENTRY_BYTES <= bytes.length; at += ENTRY_BYTES) if (nameAt(bytes, at) === name) return at
  return -1
}

function free(bytes: Buffer): number {
  for (let at = 0; at < ENTRY_BYTES * ENTRIES; at += ENTRY_BYTES) if (at >= bytes.length || bytes[at] === 0) return at
  throw new Error('the control file of the stand-ins is full')
}
