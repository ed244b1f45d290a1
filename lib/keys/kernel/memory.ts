/**
 * The memory and the handful of machine operations that the key kernel is written in. This file is their JavaScript meaning;
 * assembly/memory.ts is their WebAssembly meaning, and scripts/build-kernel.mjs puts it in this file's place. Words are
 * little-endian: WebAssembly's are by definition, and the machines that this package's addon runs on are too.
 */

declare global {
  /** AssemblyScript's names for its integers: to tsc they are numbers in the range of the name. */
  type i32 = number
}

const buffer = new ArrayBuffer(65536)
const words = new Int32Array(buffer)

/** The reference kernel's memory, for its host. */
export const bytes = new Uint8Array(buffer)

export function loadByte(address: i32): i32 { return bytes[address]! }
export function storeByte(address: i32, value: i32): void { bytes[address] = value }

/** A word at an address that is a multiple of 4. */
export function loadWord(address: i32): i32 { return words[address >> 2]! }
export function storeWord(address: i32, value: i32): void { words[address >> 2] = value }

export function swapBytes(word: i32): i32 {
  return (word << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24)
}

export function rotateRight(word: i32, bits: i32): i32 { return (word >>> bits) | (word << (32 - bits)) }

/** The carry out of the 32-bit sum of `addend` and something. */
export function carryOf(sum: i32, addend: i32): i32 { return (sum >>> 0) < (addend >>> 0) ? 1 : 0 }
