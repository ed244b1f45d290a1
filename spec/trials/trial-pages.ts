import type { Tensor } from '../../lib/index.js'
import { bytesOf } from '../support/content.js'
import { isWhole, versionedPage } from '../support/versioned-pages.js'

/** Pages of a trial: every byte follows from key and version, and so does the length. */
export class TrialPages {
  /** `sizes`: lengths in bytes that pages have; a key's versions have different ones. */
  constructor(readonly sizes: readonly number[]) {}

  lengthOf(key: string, version: number): number {
    let hash = 17
    for (const character of key) hash = Math.imul(hash, 31) + character.charCodeAt(0) | 0
    return this.sizes[((hash >>> 4) + version) % this.sizes.length]!
  }

  page(key: string, version: number): Uint8Array { return versionedPage(key, version, this.lengthOf(key, version)) }

  /** The version that these bytes are, each of them looked at; null: they are none of this key. */
  versionOf(key: string, page: NodeJS.ArrayBufferView | Tensor): number | null {
    const bytes = bytesOf(page)
    if (bytes.length < 4) return null
    const version = bytes.readUInt32LE(0)
    return isWhole(key, page, this.lengthOf(key, version)) ? version : null
  }
}

/** `name-0000`, `name-0001`, ... */
export function trialKeys(name: string, count: number): string[] {
  return Array.from({ length: count }, (_, i) => `${name}-${String(i).padStart(4, '0')}`)
}
