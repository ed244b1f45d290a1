import type { DType } from '../memory/dtype.js'

/** What is known of a stored page without reading its payload. */
export interface PageInfo {
  /** The key as the caller of set() gave it (or, of the page API, with its part: `<hash>..._k`). */
  readonly key: string
  readonly storedKey: string
  /** Payload bytes. */
  readonly bytes: number
  /** null: the Python connector's file, which does not say. */
  readonly dtype: DType | null
  readonly shape: readonly number[] | null
  readonly writtenAt: Date | null
  readonly accessedAt: Date
  /** Has it a record whose own checksum holds? The payload is checked when it is read. */
  readonly verified: boolean
  /** Bytes it takes on the disk. */
  readonly allocatedBytes: number
  /** The storage directory it lies in. */
  readonly directory: string
}
