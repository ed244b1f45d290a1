import { readFileSync } from 'node:fs'
import { isAbsolute, relative } from 'node:path'

/** What a recorder saw, in the order in which it was logged. Paths are relative to the recorded directory, '' is the directory itself. */
export type RecordedEvent =
  /** Handed to the system. `data` null: zeros. */
  | { readonly kind: 'write'; readonly id: number; readonly inode: number; readonly path: string; readonly offset: number; readonly length: number; readonly data: Buffer | null }
  /** Of a file or of a folder's names. */
  | { readonly kind: 'sync'; readonly id: number; readonly inode: number; readonly path: string }
  /** A write or a sync has ended; `result` is -1 when it failed, and WITHDRAWN when the system was never given it. */
  | { readonly kind: 'end'; readonly id: number; readonly result: number }
  /** A file was opened that was to be made unless it was there. */
  | { readonly kind: 'create'; readonly inode: number; readonly path: string }
  | { readonly kind: 'folder'; readonly path: string }
  | { readonly kind: 'rename'; readonly path: string; readonly to: string }
  | { readonly kind: 'unlink'; readonly path: string }
  | { readonly kind: 'resize'; readonly inode: number; readonly path: string; readonly bytes: number; readonly onlyLonger: boolean }
  | { readonly kind: 'mark'; readonly text: string }

export const WITHDRAWN = -2

const HEADER_BYTES = 48
const KINDS = ['', 'write', 'sync', 'end', 'create', 'folder', 'rename', 'unlink', 'resize', 'mark'] as const

/** Reads the log that addon/util/recorder.cc writes. */
export function readRecording(log: string, directory: string): RecordedEvent[] {
  const bytes = readFileSync(log)
  const events: RecordedEvent[] = []
  const below = (path: string): string => {
    // A file without a name is shown with this behind the one it had.
    const short = relative(directory, path.endsWith(' (deleted)') ? path.slice(0, -' (deleted)'.length) : path)
    if (short.startsWith('..') || isAbsolute(short)) throw new Error(`The recording of ${directory} has ${path}.`)
    return short
  }
  for (let at = 0; at < bytes.length;) {
    const kind = KINDS[bytes.readUInt32LE(at)]
    const nameBytes = bytes.readUInt32LE(at + 4)
    const id = Number(bytes.readBigUInt64LE(at + 8))
    const inode = Number(bytes.readBigUInt64LE(at + 16))
    const number = Number(bytes.readBigInt64LE(at + 24))
    const length = Number(bytes.readBigUInt64LE(at + 32))
    const dataBytes = Number(bytes.readBigUInt64LE(at + 40))
    const name = bytes.toString('utf8', at + HEADER_BYTES, at + HEADER_BYTES + nameBytes)
    const data = bytes.subarray(at + HEADER_BYTES + nameBytes, at + HEADER_BYTES + nameBytes + dataBytes)
    at += HEADER_BYTES + nameBytes + dataBytes
    switch (kind) {
      case 'write': events.push({ kind, id, inode, path: below(name), offset: number, length, data: dataBytes > 0 ? data : null }); break
      case 'sync': events.push({ kind, id, inode, path: below(name) }); break
      case 'end': events.push({ kind, id, result: number }); break
      case 'create': events.push({ kind, inode, path: below(name) }); break
      case 'folder': events.push({ kind, path: below(name) }); break
      case 'rename': {
        // The first path's length is in bytes.
        const first = Buffer.from(name).subarray(0, length).toString()
        events.push({ kind, path: below(first), to: below(name.slice(first.length)) })
        break
      }
      case 'unlink': events.push({ kind, path: below(name) }); break
      case 'resize': events.push({ kind, inode, path: below(name), bytes: number, onlyLonger: length === 1 }); break
      case 'mark': events.push({ kind, text: data.toString('utf8') }); break
      default: throw new Error(`The recording ${log} is damaged at byte ${at}.`)
    }
  }
  return events
}
