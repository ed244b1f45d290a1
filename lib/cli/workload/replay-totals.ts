/** What a replay has done so far. */
export class ReplayTotals {
  requests = 0
  references = 0
  /** Pages of leading runs that were read back right. */
  hits = 0
  /** Bytes that were read as a hit and are not what was written. */
  wrongBytes = 0
  /** Pages whose read or write ended in timeout, cancelled, rejected or failed. */
  failures = 0
  bytesRead = 0
  /** Payload bytes of the pages that were stored; pages that were there already are not counted. */
  bytesWritten = 0
  /** Pages that a write stored. */
  stored = 0
  /** Pages that a write found there already: they follow a miss in their request, but an earlier request had stored them. */
  alreadyThere = 0
  /** Pages that passes of the cleaner between requests removed; what it did by itself meanwhile is not in it. */
  evicted = 0
  /** Misses of pages that the lookup had promised, by reason. */
  readonly missReasons: Record<string, number> = {}
  /** The first few errors, for the report. */
  readonly errors: string[] = []
}
