import { Buffer } from 'node:buffer'

/** A half of a surrogate pair without the other: it has no UTF-8, and Node would write U+FFFD, the same for all of them. */
export const LONE_SURROGATE = /\p{Surrogate}/u

/** The UTF-8 bytes of a stored key, name or identity. */
export function bytesOf(text: string): Uint8Array {
  return Buffer.from(text, 'utf8')
}

/** How many they are. */
export function byteLengthOf(text: string): number {
  return Buffer.byteLength(text, 'utf8')
}
