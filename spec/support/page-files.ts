import { mkdir, open, readdir, writeFile } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { routePage, type DirectoryScheme } from '../../lib/keys/index.js'

/** Where a stored key's file lies below its directory, as spec/keys checks it against the contract's vectors. */
export function pagePath(directory: string, storedKey: string, scheme: DirectoryScheme = 'bucketed'): string {
  return join(directory, routePage(storedKey, 1, scheme).name)
}

/** Every file below a directory, by its relative path, sorted. */
export async function filesBelow(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true })
  return entries.filter(entry => entry.isFile()).map(entry => relative(directory, join(entry.parentPath, entry.name))).sort()
}

/** A page as the Python connector writes it: the raw bytes and nothing else. */
export async function writePythonPage(directory: string, storedKey: string, payload: Uint8Array, scheme: DirectoryScheme = 'bucketed'): Promise<string> {
  const path = pagePath(directory, storedKey, scheme)
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  await writeFile(path, payload)
  return path
}

/** A page as the Python connector reads it: exactly its size from offset 0. */
export async function readAsPython(directory: string, storedKey: string, pageBytes: number, scheme: DirectoryScheme = 'bucketed'): Promise<Buffer> {
  const file = await open(pagePath(directory, storedKey, scheme), 'r')
  try {
    const into = Buffer.alloc(pageBytes)
    const { bytesRead } = await file.read(into, 0, pageBytes, 0)
    return into.subarray(0, bytesRead)
  } finally {
    await file.close()
  }
}

/** Turns one byte of a file over; `at` below 0 counts from its end. */
export async function flipByte(path: string, at: number): Promise<void> {
  const file = await open(path, 'r+')
  try {
    const { size } = await file.stat()
    const position = at < 0 ? size + at : at
    const byte = Buffer.alloc(1)
    await file.read(byte, 0, 1, position)
    byte[0]! ^= 0xff
    await file.write(byte, 0, 1, position)
  } finally {
    await file.close()
  }
}
