/** How pages are named to native code: what the batcher has to know of a layout. */
export interface PageNaming {
  /**
   * Pages are behind an endpoint: native code tries again by itself until the call's deadline, which its descriptors say, and always lets go of what is called off. So that a request came back says
   * nothing about whether anybody answered, but its status does (Status.unavailable).
   */
  readonly remote: boolean
  /** Bytes that the name and the identity of a key take at most. */
  encodedBytesMax(storedKey: string): number
  /** Writes the name at `at`; answers where it ends. */
  encodeName(storedKey: string, into: Uint8Array, at: number): number
  /** Writes the identity at `at`; answers where it ends. */
  encodeIdentity(storedKey: string, into: Uint8Array, at: number): number
  /** Does protocol.ts's operation answer something beside its status? */
  wantsMeta(op: number): boolean
}
