import type { Tensor } from '../../lib/index.js'
import { bytesOf } from './content.js'

/** Pages whose every word follows from their key and version, which stands in the first one: whoever reads one can tell whether it is whole. */
export function versionedPage(key: string, version: number, length: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(length / 4))
  let seed = version
  for (const character of key) seed = Math.imul(seed ^ character.charCodeAt(0), 0x01000193)
  for (let i = 1; i < words.length; i++) words[i] = Math.imul(seed + i, 0x9e3779b1)
  words[0] = version
  return new Uint8Array(words.buffer, 0, length)
}

/** Is this one version of the page, from its first byte to its last? */
export function isWhole(key: string, page: NodeJS.ArrayBufferView | Tensor, length: number): boolean {
  const bytes = bytesOf(page)
  return bytes.length === length && bytes.equals(versionedPage(key, bytes.readUInt32LE(0), length))
}
