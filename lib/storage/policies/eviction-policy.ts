/**
 * Which page goes first when room is needed. Entries are small whole numbers (rows of the page index), which may be used
 * again after remove(). A policy keeps its own order and nothing else: no keys, no bytes, no clock. All pages of one policy
 * are of one size, so there is one policy per extent size.
 *
 * Inserting an entry that is there counts as a touch; touching or removing one that is not there does nothing.
 */
export interface EvictionPolicy {
  readonly name: string
  /**
   * A page came in. `parent`: the entry of the page before it in its chain, -1 when it is the first or that is not known.
   * `identity`: 32 bits of the page's digest, by which a policy knows a page that it gave up and that comes back; 0 or left
   * out when there is none, and the policy then learns from what is there only.
   */
  insert(entry: number, parent: number, identity?: number): void
  /** It was read, or written once more. `parent` as in insert(); -1 leaves what is known as it is. */
  touch(entry: number, parent: number): void
  /** It is gone, given up or for any other reason; its children may still be there. */
  remove(entry: number): void
  /**
   * The page worth least among those that `may` be given up; -1 when none was found among the first candidates (a bounded
   * number, so a store full of pinned pages does not cost a scan of everything). It stays until remove().
   */
  victim(may: (entry: number) => boolean): number
}
