import type { DType } from '../../memory/dtype.js'
import type { PageNaming } from '../../transfer/page-naming.js'
import { FileLayout, type Namespace } from '../file-layout.js'

/**
 * One object per key: the object's key is the prefix and the stored key behind it. Identity and meta are those of the file layout; native code keeps them in a header of the object
 * (docs/formats.md).
 */
export class ObjectLayout implements PageNaming {
  readonly name = 'object'
  readonly remote = true
  readonly prefix: string
  readonly #pages: FileLayout
  readonly #prefix: Uint8Array
  readonly #encoder = new TextEncoder()

  constructor(namespace: Namespace, prefix: string) {
    this.prefix = prefix
    this.#prefix = this.#encoder.encode(prefix)
    this.#pages = new FileLayout(namespace, 1, 'flat')
  }

  /** There is one bucket. */
  directoryOf(): number { return 0 }

  objectKeyOf(storedKey: string): string { return this.prefix + storedKey }

  encodedBytesMax(storedKey: string): number { return this.#prefix.length + this.#pages.encodedBytesMax(storedKey) }

  encodeName(storedKey: string, into: Uint8Array, at: number): number {
    into.set(this.#prefix, at)
    const from = at + this.#prefix.length
    return from + this.#encoder.encodeInto(storedKey, into.subarray(from)).written
  }

  encodeIdentity(storedKey: string, into: Uint8Array, at: number): number { return this.#pages.encodeIdentity(storedKey, into, at) }

  /** Also of a write: why it could not be done. */
  wantsMeta(): boolean { return true }

  metaOf(dtype: DType, shape: readonly number[]): Uint8Array { return this.#pages.metaOf(dtype, shape) }
}
