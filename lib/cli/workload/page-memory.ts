/** @types/node leaves WebAssembly to the DOM's types; this is all that is used of it here. */
declare const WebAssembly: { readonly Memory: new (descriptor: { initial: number; maximum: number; shared: true }) => { readonly buffer: SharedArrayBuffer } }

const WASM_PAGE = 65536

/** Buffers that begin at a page of the system, which O_DIRECT needs: a shared WebAssembly memory does, an ordinary ArrayBuffer does not. */
export function alignedBuffers(count: number, bytes: number): Buffer[] {
  const stride = Math.ceil(bytes / 4096) * 4096
  const wasmPages = Math.ceil(stride * count / WASM_PAGE)
  const memory = new WebAssembly.Memory({ initial: wasmPages, maximum: wasmPages, shared: true })
  return Array.from({ length: count }, (_, index) => Buffer.from(memory.buffer, index * stride, bytes))
}
