import { createHash } from 'node:crypto'
import { readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { FakeObject } from './fake-s3-bucket.js'

/** The objects of a fake bucket as the stand-in of NIXL keeps them: a file each in a folder. Headers are this side's alone; who writes past it leaves an object without any. */
export class FolderObjects extends Map<string, FakeObject> {
  readonly #folder: string
  readonly #headers = new Map<string, { readonly stamp: string; readonly object: Omit<FakeObject, 'body'> }>()

  constructor(folder: string) {
    super()
    this.#folder = folder
  }

  override get(key: string): FakeObject | undefined {
    const path = this.#path(key)
    let body: Buffer
    let stamp: string
    let modifiedAt: Date
    try {
      stamp = stampOf(path)
      modifiedAt = statSync(path).mtime
      body = readFileSync(path)
    } catch {
      return undefined
    }
    const known = this.#headers.get(key)
    if (known?.stamp === stamp) return { ...known.object, body }
    return { body, etag: `"${createHash('md5').update(body).digest('hex')}"`, headers: {}, checksums: {}, modifiedAt }
  }

  override has(key: string): boolean { return this.get(key) !== undefined }

  override set(key: string, { body, ...object }: FakeObject): this {
    writeFileSync(this.#path(key), body)
    this.#headers.set(key, { stamp: stampOf(this.#path(key)), object })
    return this
  }

  override delete(key: string): boolean {
    const there = this.has(key)
    this.#headers.delete(key)
    rmSync(this.#path(key), { force: true })
    return there
  }

  override * entries(): MapIterator<[string, FakeObject]> {
    for (const name of readdirSync(this.#folder)) {
      // A draft of the stand-in's has a dot, which no name of an object has there.
      const key = name.includes('.') ? null : decodeURIComponent(name)
      const object = key === null ? undefined : this.get(key)
      if (key !== null && object !== undefined) yield [key, object]
    }
  }
  override * keys(): MapIterator<string> { for (const [key] of this.entries()) yield key }
  override [Symbol.iterator](): MapIterator<[string, FakeObject]> { return this.entries() }

  /** As the stand-in names its files: letters, digits, `_` and `-` as they are, every other byte as %xx. */
  #path(key: string): string {
    const name = [...Buffer.from(key)].map(byte => /[A-Za-z0-9_-]/.test(String.fromCharCode(byte)) ? String.fromCharCode(byte) : `%${byte.toString(16).padStart(2, '0')}`).join('')
    return join(this.#folder, name)
  }
}

function stampOf(path: string): string {
  const { ino, size, mtimeNs } = statSync(path, { bigint: true })
  return `${ino} ${size} ${mtimeNs}`
}
