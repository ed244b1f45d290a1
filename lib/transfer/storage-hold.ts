/**
 * What a request asks of its storage: 'go' when it has it, 'wait' until whoever frees it calls Batcher.pumpSoon(), a refusal (ERR_REJECTED, the text says why), or an answer
 * (protocol.ts's Status; `length`: the page's, for Status.length) where storage need not be touched at all.
 */
export type Admission = 'go' | 'wait' | { readonly refused: string } | { readonly answer: number; readonly length?: number }

/** Where on storage a request of the segment layout goes. TransferRequest.storage is null for the file layout. */
export interface StorageHold {
  /** Takes what the request needs, before memory is taken. Asked again after 'wait', never after anything else. */
  admit(): Admission
  /** Takes what native code answers beside the status (META_BYTES_MAX at `metas[at]`), before ended() is called: the checksum of a segmentWrite. */
  takeMeta?(metas: Uint8Array, at: number): void
  /** The page's meta, for reads: what their results carry, as segmentRead answers none. Asked once the result is there. */
  readonly pageMeta?: Uint8Array | null
  /** Bytes of the blob that encode() takes at most. */
  readonly encodedBytesMax: number
  /** Fills in name, identity, record fields (all but op, flags, directory, memory, length, word); answers where the blob goes on. */
  encode(descriptors: Float64Array, base: number, blob: Uint8Array, at: number): number
  /**
   * Called exactly once per request, when native code is through with it for good (after quarantine too): 'untouched' = storage was never touched and never will be, also when admit() was never asked;
   * 'unknown' = it ended and nobody knows how, or at close() that it may never end; else the result's status. Called before onResult when both happen together.
   */
  ended(how: 'untouched' | 'unknown' | number): void
}
