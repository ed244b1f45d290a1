import { createHash } from 'node:crypto'
import type { PageNaming } from '../transfer/page-naming.js'
import { Op } from '../transfer/protocol.js'
import { DTYPES, SHAPE_DIMENSIONS_MAX, dtypeOfCode, type DType } from '../memory/dtype.js'
import { BUCKETS, routePage, type DirectoryScheme } from '../keys/index.js'

const META_VERSION = 1
const META_HEADER_BYTES = 8
const DIGEST_BYTES = 16
const NO_META = new Uint8Array(0)

/** What a namespace is made of: pages of one never answer for another. */
export interface Namespace {
  /** The suffix of stored keys: model and ranks. */
  readonly suffix: string
  /** The caller's `fingerprint`: weights, dtype, page size. */
  readonly fingerprint: string
}

/** What a page's record says of its elements. */
export interface PageMeta { readonly dtype: DType; readonly shape: readonly number[] }

/**
 * One file per key, as the Python connector names them (bucketed or flat), with a record block behind the payload.
 * docs/formats.md has the bytes. This class knows keys and tensors and turns them into the opaque bytes of descriptors; native code moves
 * them and compares them, and knows neither.
 *
 * Identity = 16 bytes of SHA-256 over the namespace, then the stored key.
 */
export class FileLayout implements PageNaming {
  readonly name = 'file'
  readonly remote = false
  readonly scheme: DirectoryScheme
  readonly directoryCount: number
  readonly namespaceDigest: Uint8Array
  readonly #encoder = new TextEncoder()
  #lastMeta: { dtype: DType; shape: readonly number[]; meta: Uint8Array } | null = null

  constructor(namespace: Namespace, directoryCount: number, scheme: DirectoryScheme) {
    this.scheme = scheme
    this.directoryCount = directoryCount
    this.namespaceDigest = createHash('sha256')
      .update(`hicache-nixl namespace v1\0${JSON.stringify([namespace.suffix, namespace.fingerprint])}`).digest().subarray(0, DIGEST_BYTES)
  }

  /** Index of the directory that a stored key belongs to. */
  directoryOf(storedKey: string): number {
    return this.directoryCount === 1 ? 0 : routePage(storedKey, this.directoryCount, this.scheme).directory
  }

  /** File name below its directory. */
  nameOf(storedKey: string): string { return routePage(storedKey, this.directoryCount, this.scheme).name }

  /** Folders below a directory in which page files lie. */
  folders(): readonly string[] { return this.scheme === 'flat' ? [''] : BUCKETS }

  /** Bytes that the name and the identity of a key take at most. */
  encodedBytesMax(storedKey: string): number { return 2 * storedKey.length * 3 + DIGEST_BYTES + 8 }

  /** Writes the file name at `at`; answers where it ends. */
  encodeName(storedKey: string, into: Uint8Array, at: number): number {
    return at + this.#encoder.encodeInto(this.nameOf(storedKey), into.subarray(at)).written
  }

  /** Writes the identity at `at`; answers where it ends. */
  encodeIdentity(storedKey: string, into: Uint8Array, at: number): number {
    into.set(this.namespaceDigest, at)
    return at + DIGEST_BYTES + this.#encoder.encodeInto(storedKey, into.subarray(at + DIGEST_BYTES)).written
  }

  wantsMeta(op: number): boolean { return op === Op.pageRead || op === Op.pageCheck }

  /** encodeMeta(), remembered from one page to the next: almost always they are alike. */
  metaOf(dtype: DType, shape: readonly number[]): Uint8Array {
    const last = this.#lastMeta
    if (last && last.dtype === dtype && last.shape.length === shape.length && shape.every((size, i) => size === last.shape[i])) return last.meta
    const meta = FileLayout.encodeMeta(dtype, shape)
    this.#lastMeta = { dtype, shape: [...shape], meta }
    return meta
  }

  /** u8 version, u8 dtype code, u8 dimensions, 5 zero bytes, then a u64 (little-endian) a dimension. */
  static encodeMeta(dtype: DType, shape: readonly number[]): Uint8Array {
    const meta = new Uint8Array(META_HEADER_BYTES + 8 * shape.length)
    meta[0] = META_VERSION
    meta[1] = DTYPES[dtype].code
    meta[2] = shape.length
    const view = new DataView(meta.buffer)
    shape.forEach((size, i) => {
      view.setUint32(META_HEADER_BYTES + 8 * i, size % 2 ** 32, true)
      view.setUint32(META_HEADER_BYTES + 8 * i + 4, Math.floor(size / 2 ** 32), true)
    })
    return meta
  }

  /** null when the meta is not one that this version understands. */
  static decodeMeta(meta: Uint8Array): PageMeta | null {
    const dtype = dtypeOfCode(meta[1] ?? 0)
    const dimensions = meta[2] ?? 0
    if (meta[0] !== META_VERSION || dtype === undefined || dimensions > SHAPE_DIMENSIONS_MAX) return null
    if (meta.length < META_HEADER_BYTES + 8 * dimensions) return null
    const view = new DataView(meta.buffer, meta.byteOffset, meta.byteLength)
    const shape: number[] = []
    for (let i = 0; i < dimensions; i++) {
      const at = META_HEADER_BYTES + 8 * i
      shape.push(view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32)
    }
    return { dtype, shape }
  }

  /** The stored key in an identity of this namespace, or null for another's. */
  storedKeyOf(identity: Uint8Array): string | null {
    if (identity.length <= DIGEST_BYTES) return null
    for (let i = 0; i < DIGEST_BYTES; i++) if (identity[i] !== this.namespaceDigest[i]) return null
    return Buffer.from(identity.buffer, identity.byteOffset + DIGEST_BYTES, identity.length - DIGEST_BYTES).toString('utf8')
  }

  static readonly noMeta = NO_META
}
