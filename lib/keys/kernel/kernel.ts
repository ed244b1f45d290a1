import { Buffer } from 'node:buffer'
import * as reference from './key-kernel.js'
import { KERNEL_WASM_BASE64 } from './kernel-wasm.js'
import { bytes as referenceBytes } from './memory.js'

/** What both programs of key-kernel.ts export. */
interface KernelFunctions {
  prepare(): void
  sha256Begin(): void
  sha256Blocks(at: number, count: number): void
  sha256Finish(at: number, tail: number, total: number, to: number): void
  hashPages(pageBytes: number, pages: number, chained: number): void
  blake2b64(length: number): void
}

/** What we use of the global of this name, which TypeScript knows in its DOM library only. */
interface WebAssemblyGlobal {
  readonly Module: new (bytes: Uint8Array) => object
  readonly Instance: new (module: object) => { readonly exports: object }
}

const { DIGEST, DIGESTS, INPUT, INPUT_BYTES_MAX, PAGES_MAX, PRIOR } = reference

/** The key kernel as a service calls it: one program of key-kernel.ts and that program's memory. */
export class KeyKernel {
  readonly #memory: Buffer
  readonly #functions: KernelFunctions
  readonly #digest: Buffer

  constructor(readonly name: 'wasm' | 'js', bytes: Uint8Array, functions: KernelFunctions) {
    this.#memory = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#digest = this.#memory.subarray(DIGEST, DIGEST + 8)
    this.#functions = functions
    functions.prepare()
  }

  /** The hash chain over `tokens`, `wordsPerPage` of them a page; what does not fill a page is left out. `prior` is 64 hex characters. */
  pageHashes(tokens: Uint32Array, wordsPerPage: number, prior?: string): string[] {
    const pageBytes = wordsPerPage * 4
    const count = Math.floor(tokens.length / wordsPerPage)
    const bytes = new Uint8Array(tokens.buffer, tokens.byteOffset, count * pageBytes)
    const hashes: string[] = []
    let last = prior
    if (pageBytes > INPUT_BYTES_MAX) {
      for (let page = 0; page < count; page++) {
        const text = bytes.subarray(page * pageBytes, (page + 1) * pageBytes)
        last = this.sha256(last === undefined ? text : Buffer.concat([Buffer.from(last, 'hex'), text]))
        hashes.push(last)
      }
      return hashes
    }
    const pagesMax = Math.min(PAGES_MAX, Math.floor(INPUT_BYTES_MAX / pageBytes))
    for (let page = 0; page < count; page += pagesMax) {
      const pages = Math.min(pagesMax, count - page)
      if (last !== undefined) this.#memory.write(last, PRIOR, 32, 'hex')
      this.#memory.set(bytes.subarray(page * pageBytes, (page + pages) * pageBytes), INPUT)
      this.#functions.hashPages(pageBytes, pages, last === undefined ? 0 : 1)
      for (let at = DIGESTS; at < DIGESTS + pages * 32; at += 32) hashes.push(this.#memory.toString('hex', at, at + 32))
      last = hashes.at(-1)
    }
    return hashes
  }

  /** SHA-256 of fewer than 2^31 bytes, as hex. */
  sha256(message: Uint8Array): string {
    const kernel = this.#functions
    kernel.sha256Begin()
    let at = 0
    for (; message.length - at > INPUT_BYTES_MAX; at += INPUT_BYTES_MAX) {
      this.#memory.set(message.subarray(at, at + INPUT_BYTES_MAX), INPUT)
      kernel.sha256Blocks(INPUT, INPUT_BYTES_MAX / 64)
    }
    this.#memory.set(message.subarray(at), INPUT)
    const blocks = Math.floor((message.length - at) / 64)
    kernel.sha256Blocks(INPUT, blocks)
    kernel.sha256Finish(INPUT + blocks * 64, message.length % 64, message.length, DIGEST)
    return this.#memory.toString('hex', DIGEST, DIGEST + 32)
  }

  /**
   * BLAKE2b with a digest of 8 bytes over the UTF-8 bytes of `text`, of which there may be INPUT_BYTES_MAX.
   * The answer is a view that the kernel's next hash overwrites.
   */
  blake2b64(text: string): Uint8Array {
    const memory = this.#memory
    const length = text.length
    if (length > INPUT_BYTES_MAX / 3) throw new RangeError(`a text of ${length} characters is more than the key kernel takes`)
    let i = 0
    // Stored keys are ASCII, nearly always: this loop costs half of what a call into Node's encoder does.
    for (; i < length; i++) {
      const unit = text.charCodeAt(i)
      if (unit > 127) break
      memory[INPUT + i] = unit
    }
    this.#functions.blake2b64(i === length ? length : memory.write(text, INPUT, 'utf8'))
    return this.#digest
  }
}

/** A kernel of its own memory in WebAssembly. Throws where the process may not have any, under `--jitless` or a limit on address space. */
export function instantiateWasmKernel(): KeyKernel {
  const { Module, Instance } = (globalThis as unknown as { WebAssembly: WebAssemblyGlobal }).WebAssembly
  const { exports } = new Instance(new Module(Buffer.from(KERNEL_WASM_BASE64, 'base64'))) as
    { exports: KernelFunctions & { readonly memory: { readonly buffer: ArrayBuffer } } }
  return new KeyKernel('wasm', new Uint8Array(exports.memory.buffer), exports)
}

let javaScript: KeyKernel | undefined
/** The reference: the same source as plain JavaScript. */
export function referenceKernel(): KeyKernel {
  javaScript ??= new KeyKernel('js', referenceBytes, reference)
  return javaScript
}

let fastest: KeyKernel | undefined
/** The kernel that stored keys are routed with: WebAssembly, or the reference where there is none. */
export function keyKernel(): KeyKernel {
  if (fastest === undefined) {
    try {
      fastest = instantiateWasmKernel()
    } catch {
      // Slower, and equal in every answer; `name` says it.
      fastest = referenceKernel()
    }
  }
  return fastest
}
