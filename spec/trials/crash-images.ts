import { mkdirSync, openSync, closeSync, ftruncateSync, writeSync, readFileSync, readdirSync } from 'node:fs'
import { join, relative } from 'node:path'
import type { Random } from './random.js'
import { WITHDRAWN, type RecordedEvent } from './recording.js'

const SECTOR_BYTES = 512
const BLOCK_BYTES = 4096

/** A directory as it stood on a disk: paths and contents, null for folders. */
export type DiskImage = Map<string, Buffer | null>

interface Write { readonly kind: 'write'; readonly offset: number; length: number; readonly data: Buffer | null; ended: boolean }
interface Resize { readonly kind: 'resize'; readonly bytes: number; readonly onlyLonger: boolean; readonly ended: true }
type FileChange = Write | Resize

/** A growing run of bytes. */
class Content {
  #bytes = Buffer.alloc(0)
  size = 0

  copy(): Content {
    const copy = new Content()
    copy.#bytes = Buffer.from(this.#bytes.subarray(0, this.size))
    copy.size = this.size
    return copy
  }

  resize(bytes: number): void {
    if (bytes > this.#bytes.length) {
      const grown = Buffer.alloc(Math.max(bytes, this.#bytes.length * 2))
      this.#bytes.copy(grown, 0, 0, this.size)
      this.#bytes = grown
    } else if (bytes < this.size) {
      this.#bytes.fill(0, bytes, this.size)
    }
    this.size = bytes
  }

  put(offset: number, length: number, data: Buffer | null, from = 0): void {
    if (offset + length > this.size) this.resize(offset + length)
    if (data === null) this.#bytes.fill(0, offset, offset + length)
    else data.copy(this.#bytes, offset, from, from + length)
  }

  get bytes(): Buffer { return this.#bytes.subarray(0, this.size) }
}

/** How much of what is not synchronised an image has. */
type Keeping = 'all' | 'none' | 'some' | 'sectors' | 'torn'
const KEEPINGS: readonly Keeping[] = ['all', 'none', 'some', 'sectors', 'torn']

/** A file: what is certainly on the disk, and what came after. */
class FileOnDisk {
  readonly #durable = new Content()
  #changes: FileChange[] = []

  constructor(readonly inode: number) {}

  change(change: FileChange): void { this.#changes.push(change) }

  /** It has never happened. */
  withdraw(change: FileChange): void { this.#changes = this.#changes.filter(other => other !== change) }

  /** What a sync that begins now makes certain once it has ended. */
  settled(): ReadonlySet<FileChange> { return new Set(this.#changes.filter(({ ended }) => ended)) }

  synced(settled: ReadonlySet<FileChange>): void {
    for (const change of this.#changes) if (settled.has(change)) apply(this.#durable, change)
    this.#changes = this.#changes.filter(change => !settled.has(change))
  }

  /** As every process sees it, each call that has begun done. */
  seen(): Buffer {
    const content = this.#durable.copy()
    for (const change of this.#changes) apply(content, change)
    return content.bytes
  }

  after(keeping: Keeping, random: Random): Buffer {
    const content = this.#durable.copy()
    const share = [0.1, 0.5, 0.9][random.below(3)]!
    for (const change of this.#changes) {
      // Sectors go to the disk one by one, in any order: of each, any of its versions may be the one that is there. Leaving sectors out does that.
      if (keeping === 'none' || (keeping !== 'all' && keeping !== 'sectors' && !random.chance(share))) continue
      if (change.kind === 'resize' || keeping === 'all' || keeping === 'some' || (keeping === 'torn' && random.chance(0.3))) {
        if (keeping !== 'sectors' || random.chance(share)) apply(content, change)
        continue
      }
      const { offset, length, data } = change
      const tornAt = keeping === 'torn' ? random.below(length / SECTOR_BYTES + 1) * SECTOR_BYTES : -1
      const head = random.chance(0.7)
      for (let at = 0; at < length;) {
        // The sectors of the disk, not of the write.
        const part = Math.min(SECTOR_BYTES - (offset + at) % SECTOR_BYTES, length - at)
        if (tornAt >= 0 ? at < tornAt === head : random.chance(share)) content.put(offset + at, part, data, at)
        at += part
      }
    }
    return content.bytes
  }
}

function apply(content: Content, change: FileChange): void {
  if (change.kind === 'write') content.put(change.offset, change.length, change.data)
  else if (!change.onlyLonger || change.bytes > content.size) content.resize(change.bytes)
}

type NameChange =
  | { readonly kind: 'create'; readonly path: string; readonly file: FileOnDisk }
  | { readonly kind: 'folder'; readonly path: string }
  | { readonly kind: 'rename'; readonly path: string; readonly to: string }
  | { readonly kind: 'unlink'; readonly path: string }

type Names = Map<string, FileOnDisk | null>

function folderOf(path: string): string { return path.includes('/') ? path.slice(0, path.lastIndexOf('/')) : '' }

/** The folder whose synchronisation makes the change certain. */
function folderChanged(change: NameChange): string { return folderOf(change.kind === 'rename' ? change.to : change.path) }

function applyName(names: Names, change: NameChange): void {
  const under = folderChanged(change)
  if (under !== '' && names.get(under) !== null) return
  switch (change.kind) {
    case 'create': names.set(change.path, change.file); break
    case 'folder': names.set(change.path, null); break
    case 'unlink': names.delete(change.path); break
    case 'rename': {
      const moved = [...names].filter(([path]) => path === change.path || path.startsWith(`${change.path}/`))
      for (const [path, file] of moved) {
        names.delete(path)
        names.set(change.to + path.slice(change.path.length), file)
      }
    }
  }
}

/**
 * What a power cut can leave of a directory that was empty when its recording began. Of a file: everything before the last sync that ended, and of what was written
 * later any sectors. Of names: those before the last sync of their folder, and of later changes the first so many. Synchronising a file says nothing about its
 * name.
 */
export class CrashImages {
  readonly #events: readonly RecordedEvent[]
  #next = 0
  #names: Names = new Map()
  #nameChanges: { readonly change: NameChange; durable: boolean }[] = []
  readonly #files = new Map<number, FileOnDisk>()
  readonly #writes = new Map<number, { readonly write: Write; readonly file: FileOnDisk }>()
  readonly #syncs = new Map<number, () => void>()

  constructor(events: readonly RecordedEvent[]) { this.#events = events }

  /** Goes on to the moment before event `index`. */
  advance(index: number, onMark: (text: string) => void = () => {}): void {
    for (; this.#next < index; this.#next++) {
      const event = this.#events[this.#next]!
      if (event.kind === 'mark') onMark(event.text)
      else this.#take(event)
    }
  }

  #take(event: Exclude<RecordedEvent, { kind: 'mark' }>): void {
    switch (event.kind) {
      case 'create':
        // An inode's number is used again; the name tells whether the file is new.
        if (this.#names.get(event.path)?.inode === event.inode) return
        this.#files.set(event.inode, new FileOnDisk(event.inode))
        this.#name({ kind: 'create', path: event.path, file: this.#files.get(event.inode)! })
        return
      case 'folder':
      case 'unlink': this.#name({ kind: event.kind, path: event.path }); return
      case 'rename': this.#name({ kind: 'rename', path: event.path, to: event.to }); return
      case 'resize': this.#file(event).change({ kind: 'resize', bytes: event.bytes, onlyLonger: event.onlyLonger, ended: true }); return
      case 'write': {
        const write: Write = { kind: 'write', offset: event.offset, length: event.length, data: event.data, ended: false }
        const file = this.#file(event)
        this.#writes.set(event.id, { write, file })
        file.change(write)
        return
      }
      case 'sync': this.#syncs.set(event.id, this.#sync(event)); return
      case 'end': {
        const found = this.#writes.get(event.id)
        if (found !== undefined && event.result >= 0) {
          found.write.ended = true
          found.write.length = Math.min(found.write.length, event.result)
        }
        if (event.result === WITHDRAWN) found?.file.withdraw(found.write)
        // A failed write may have moved anything; a failed sync has made nothing certain.
        if (event.result >= 0) this.#syncs.get(event.id)?.()
        this.#writes.delete(event.id)
        this.#syncs.delete(event.id)
      }
    }
  }

  #file({ inode, path }: { inode: number; path: string }): FileOnDisk {
    const file = this.#files.get(inode)
    if (file === undefined) throw new Error(`${path} is written, and nobody recorded how it came to be there: the code that makes it does not tell the recorder.`)
    return file
  }

  #name(change: NameChange): void {
    this.#nameChanges.push({ change, durable: false })
    applyName(this.#names, change)
  }

  #sync({ inode, path }: { inode: number; path: string }): () => void {
    if (path === '' || this.#names.get(path) === null) {
      const settled = this.#nameChanges.filter(({ change }) => folderChanged(change) === path)
      return () => { for (const entry of settled) entry.durable = true }
    }
    const file = this.#file({ inode, path })
    const settled = file.settled()
    return () => { file.synced(settled) }
  }

  /** As every process sees it now. */
  seen(): DiskImage { return new Map([...this.#names].map(([path, file]) => [path, file === null ? null : file.seen()])) }

  /** What a power cut at this moment might leave. */
  image(random: Random): DiskImage {
    const pending = this.#nameChanges.filter(({ durable }) => !durable).length
    let kept = random.chance(0.4) ? pending : random.below(pending + 1)
    const names: Names = new Map()
    for (const { change, durable } of this.#nameChanges) if (durable || kept-- > 0) applyName(names, change)
    // One way for all files, or each its own.
    const one = random.chance(0.5) ? random.pick(KEEPINGS) : null
    return new Map([...names].map(([path, file]) => [path, file === null ? null : file.after(one ?? random.pick(KEEPINGS), random)]))
  }
}

/** Makes the directory that an image describes; zeros take no room. */
export function writeImage(image: DiskImage, directory: string): void {
  mkdirSync(directory, { mode: 0o700, recursive: true })
  // A folder's name is shorter than those of what is in it.
  for (const [path, content] of [...image].sort(([a], [b]) => a.length - b.length)) {
    if (content === null) {
      mkdirSync(join(directory, path), { mode: 0o700 })
      continue
    }
    const descriptor = openSync(join(directory, path), 'wx', 0o600)
    ftruncateSync(descriptor, content.length)
    for (let at = 0; at < content.length; at += BLOCK_BYTES) {
      const block = content.subarray(at, at + BLOCK_BYTES)
      if (!block.equals(ZEROS.subarray(0, block.length))) writeSync(descriptor, block, 0, block.length, at)
    }
    closeSync(descriptor)
  }
}
const ZEROS = Buffer.alloc(BLOCK_BYTES)

/** In which way a directory differs from what a recording says of it: where something wrote behind the recorder's back. */
export function differences(seen: DiskImage, directory: string): string[] {
  const found: string[] = []
  const there = new Map<string, boolean>()
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    there.set(relative(directory, join(entry.parentPath, entry.name)), entry.isDirectory())
  }
  for (const path of there.keys()) if (!seen.has(path)) found.push(`${path} was not recorded`)
  for (const [path, content] of seen) {
    if (there.get(path) !== (content === null)) {
      found.push(`${path} was recorded as ${content === null ? 'a folder' : 'a file'}`)
    } else if (content !== null) {
      const actual = readFileSync(join(directory, path))
      if (actual.length !== content.length) found.push(`${path} has ${actual.length} bytes, ${content.length} were recorded`)
      else if (!actual.equals(content)) found.push(`${path} has other bytes than were recorded, from byte ${actual.findIndex((byte, i) => byte !== content[i])}`)
    }
  }
  return found
}
