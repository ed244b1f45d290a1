import type { HiCacheError } from '../error.js'

/**
 * Why a page was not there: `absent`; `expired` (evicted by age: no layout of this version does it); `corrupt` (length, record or checksum do not
 * hold); `stale` (replaced while it was read); `identity` (a whole page of another namespace or fingerprint); `length` and `dtype` (a whole page that
 * does not fit the target); `unavailable` (its directory does not answer).
 */
export type MissReason = 'absent' | 'expired' | 'corrupt' | 'stale' | 'identity' | 'length' | 'dtype' | 'unavailable'

export type Failure = { ok: false; status: 'timeout' | 'cancelled' | 'rejected' | 'failed'; key: string; error: HiCacheError }

/** `already-there`: the same bytes under the same identity were stored before. `backup-skip`: another rank of an MLA model stores this page. */
export type WriteOutcome =
  | { ok: true; status: 'stored' | 'already-there' | 'backup-skip'; key: string; byteLength: number } | Failure

/** `verified` is false for bytes that no checksum vouches for: files of the Python connector. */
export type ReadOutcome<T> =
  | { ok: true; status: 'hit'; key: string; value: T; verified: boolean }
  | { ok: false; status: 'miss'; key: string; reason: MissReason } | Failure
