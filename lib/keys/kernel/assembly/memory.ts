// The AssemblyScript side of ../memory.ts: the same functions as single WebAssembly instructions. scripts/build-kernel.mjs
// puts this file in the other's place; tsc and eslint do not see it.

// @ts-ignore: decorator
@inline
export function loadByte(address: i32): i32 { return <i32>load<u8>(address) }

// @ts-ignore: decorator
@inline
export function storeByte(address: i32, value: i32): void { store<u8>(address, <u8>value) }

// @ts-ignore: decorator
@inline
export function loadWord(address: i32): i32 { return load<i32>(address) }

// @ts-ignore: decorator
@inline
export function storeWord(address: i32, value: i32): void { store<i32>(address, value) }

// @ts-ignore: decorator
@inline
export function swapBytes(word: i32): i32 { return bswap<i32>(word) }

// @ts-ignore: decorator
@inline
export function rotateRight(word: i32, bits: i32): i32 { return rotr<i32>(word, bits) }

// @ts-ignore: decorator
@inline
export function carryOf(sum: i32, addend: i32): i32 { return <i32>(<u32>sum < <u32>addend) }
