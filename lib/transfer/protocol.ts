/**
 * The numbers that TypeScript and C++ share: what a descriptor, a completion word and a result look like.
 * addon/agent/protocol.h holds the same numbers; the addon exports them as `protocol` and a spec compares both.
 * Nothing here knows a key or a tensor: names, identities and records are opaque bytes.
 */

/** What one descriptor asks for. */
export const Op = {
  /** Store a page as a file of its own: memory -> a new file, whole or not at all. */
  pageWrite: 1,
  /** Read a page file into memory and check it. */
  pageRead: 2,
  /** Is a page file there, and whose is it? Reads the record block only; answers its payload length and record. */
  pageCheck: 3,
  /** Remove a page file, if its identity is the given one or it has no record. */
  pageDelete: 4,
  /** Set the file's access time to now (the cleaner's "oldest read first"). */
  pageTouch: 5,
  /** Read `length` bytes at `fileOffset` of an existing file; no record, no check. */
  extentRead: 6,
  /** Write `length` bytes at `fileOffset` of an existing file; no record. */
  extentWrite: 7,
  /**
   * Store a page in its extent of a segment: memory -> `length` bytes at `fileOffset` of NAME.data, then the slot record (the meta, 512 bytes; native code fills in
   * the payload's checksum and the record's own) at `recordAt` of NAME.index, then an entry in the folder's ring of changes. Answers the payload's checksum as meta.
   */
  segmentWrite: 8,
  /** Read a page from its extent; the identity is the payload's checksum (8 bytes, little-endian). */
  segmentRead: 9,
  /**
   * The pages of slots are gone: their records are rewritten, and the ring of changes is told. NAME is the writer's folder (`segments/FOLDER`); the meta is a list of
   * TOMBSTONE_BYTES each (u32 segment, u32 slot, u64 generation, u64 writtenAt, little-endian), TOMBSTONES_MAX at most. With an error some of them may be written.
   */
  tombstones: 10
} as const

/** Flags of a descriptor, or-ed. */
export const Flag = {
  /** pageRead, pageCheck: a file without a record (the Python connector's) counts. */
  acceptUnverified: 1,
  /** pageWrite: replace what is there without comparing it. */
  replace: 2,
  /** pageRead, segmentRead: do not compute the payload's checksum (bench only). */
  skipChecksum: 4,
  /** pageDelete: whatever it is, remove it (ours by name; `clear` and the cleaner never set it). */
  force: 8,
  /** pageRead: a file that fails its check is removed, if it is still the same file. */
  dropCorrupt: 16,
  /**
   * segmentWrite: the identity is the checksum of the page that is there (8 bytes, little-endian); memory of the same checksum is not written (Status.alreadyThere).
   * pageWrite of an object: it is probably there, so ask (HEAD) before sending it.
   */
  compareFirst: 32,
  /** segmentRead: another writer's page. The meta is bytes 8..55 of its slot record as it is expected; it must be that before and after the data was read (Status.stale). */
  foreign: 64,
  /** segmentWrite, tombstones: fdatasync the data before the record, and the record before the answer. */
  sync: 128
} as const

/** Outcome of one descriptor. */
export const Status = {
  ok: 0,
  /** pageWrite: a file with the same identity, length, meta and checksum was already there; nothing was written. segmentWrite: see Flag.compareFirst. */
  alreadyThere: 1,
  absent: 2,
  /** Torn, truncated or altered: the record block or the payload's checksum does not hold. */
  corrupt: 3,
  /** A whole page, of another identity. */
  identity: 4,
  /** A whole page, of another length; the result's `length` says which. */
  length: 5,
  /** As ok, without a record: nothing vouches for the bytes. */
  unverified: 6,
  /** Cancelled before it touched memory or storage. */
  cancelled: 7,
  /** The system failed it: the result's errno says how. */
  error: 8,
  /** segmentRead of another writer's page: the slot record is not the expected one (any more), or its file is gone. An object that changed under a read of its parts. */
  stale: 9,
  /** The object store did not answer, or said that it cannot now, as often as it was tried: the result's errno is the HTTP status or 0, its meta says more. */
  unavailable: 10,
  /** The object store answered, and will not do it (wrong credentials, no such bucket, ...): the result's errno is the HTTP status, its meta says more. */
  refused: 11
} as const

/**
 * One descriptor is DESCRIPTOR_STRIDE doubles in a Float64Array. All are whole numbers below 2^53.
 * Names, identities and metas are byte ranges of the batch's blob.
 */
export const Field = {
  op: 0,
  flags: 1,
  /** Index into AgentOptions.directories. */
  directory: 2,
  /** File name relative to the directory (`d1/key1`), UTF-8, without a NUL. Of a segment, without the extension: `segments/FOLDER/ID`. */
  nameOffset: 3,
  nameLength: 4,
  /** Id from registerMemory(), and the byte offset in that region. */
  region: 5,
  memoryOffset: 6,
  /** Payload bytes: to write, or expected to be read. 0 where there is no payload. */
  length: 7,
  /** extentRead, extentWrite, segmentRead, segmentWrite: where in the (data) file. Of an object's page: the milliseconds that are left until its deadline. */
  fileOffset: 8,
  /** Identity (opaque, compared byte for byte) at blob[recordOffset .. +identityLength], meta (opaque) right after it. */
  recordOffset: 9,
  identityLength: 10,
  metaLength: 11,
  /** Index of the completion word, and the value it must hold for the operation to start. */
  word: 12,
  wordQueued: 13,
  /** segmentRead, segmentWrite: byte offset of the slot record in the index file. 0 elsewhere. */
  recordAt: 14
} as const
export const DESCRIPTOR_STRIDE = 15

/**
 * A completion word (one Int32 in shared memory per operation) is `generation << WORD_STATE_BITS | state`. The main thread sets
 * `queued` and may turn it into `cancelled` by compare-and-swap: from then on no native code touches the operation's memory, and the word
 * may get a new generation at once. Native code turns `queued` into `started` by compare-and-swap against the descriptor's wordQueued (a failed one
 * reports Status.cancelled), and `started` into `done` once neither it nor the kernel will touch the memory again, also
 * after the worker's death. The main thread may turn `started` into `cancelling` and call the addon's cancel(): native code then asks the kernel to
 * let go (which it may refuse), and still ends with `done`.
 */
export const WordState = { free: 0, queued: 1, started: 2, done: 3, cancelled: 4, cancelling: 5 } as const
export const WORD_STATE_BITS = 3

/** One result is RESULT_STRIDE doubles: status, errno (positive, 0 if none), payload length, duration in microseconds from start to done. */
export const ResultField = { status: 0, errno: 1, length: 2, microseconds: 3 } as const
export const RESULT_STRIDE = 4

/** Bytes that a pageRead or pageCheck (the record's meta) or a segmentWrite (the payload's checksum, 8 bytes) answers per page; of an object that could not be moved: why, as text. */
export const META_BYTES_MAX = 160
/** Bytes of a slot record; of a tombstone, and how many one operation takes; of the part of a record that Flag.foreign compares, and where that begins. */
export const SLOT_RECORD_BYTES = 512
export const TOMBSTONE_BYTES = 24
export const TOMBSTONES_MAX = 4096
export const SLOT_EXPECTED_FROM = 8
export const SLOT_EXPECTED_BYTES = 48
/** Bytes of an identity. */
export const IDENTITY_BYTES_MAX = 320
/** O_DIRECT's unit here: memory, file offsets and lengths are multiples of it; the record block is one of them. */
export const BLOCK_BYTES = 4096
