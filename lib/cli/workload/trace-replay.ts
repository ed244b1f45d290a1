import { createHash } from 'node:crypto'
import type { ArenaTensor, HiCacheNixl } from '../../index.js'
import { LatencySamples } from './latency-samples.js'
import { PageContent } from './page-content.js'
import { ReplayTotals } from './replay-totals.js'
import type { TraceRequest } from './trace-reader.js'

/** Pages of a batch, whatever their size. */
const BATCH_PAGES_MAX = 128
/** Bytes of a batch: large pages make smaller batches, so that the buffers of all requests in flight stay within an ordinary arena. */
const BATCH_BYTES_MAX = 32 * 1024 * 1024

export interface TraceReplayOptions {
  readonly cache: HiCacheNixl
  readonly pageBytes: number
  /** Requests that are played at once. Default 4. */
  readonly requestsInFlight?: number
  /** After so many bytes written, the requests in flight are waited for and the cleaner passes, so that a capacity holds however fast pages come. Default: never. */
  readonly collectEveryBytes?: number
  readonly signal?: AbortSignal
  /** Called after every request. */
  onRequest?(totals: ReplayTotals): void
}

/** How many pages of this size go into one batch. */
export function replayBatchPages(pageBytes: number): number {
  return Math.max(1, Math.min(BATCH_PAGES_MAX, Math.floor(BATCH_BYTES_MAX / pageBytes)))
}

/** Arena memory that a replay allocates for its targets and sources. */
export function replayArenaBytes(pageBytes: number, requestsInFlight: number): number {
  return replayBatchPages(pageBytes) * pageBytes * requestsInFlight
}

/**
 * Plays requests against a cache: looks the prefix up, reads the leading run, checks every byte of it, writes all the rest.
 *
 * Several requests are in flight, and yet the hits are exactly those of playing one after the other: a request waits for every earlier one that
 * still writes one of its pages, and can never see a page that only a later one writes, because the later one waits for it in turn.
 */
export class TraceReplay {
  /** Time of one lookup (a batchExists of a request), one read and one write call (up to 128 pages each), in microseconds. Filling and checking are outside. */
  readonly lookup = new LatencySamples()
  readonly read = new LatencySamples()
  readonly write = new LatencySamples()
  readonly totals = new ReplayTotals()
  /** Ids of all pages that this replay stored itself. */
  readonly storedIds = new Set<number>()

  private readonly cache: HiCacheNixl
  private readonly content: PageContent
  private readonly batchPages: number
  /** Ids that an earlier request has written (or tried to), and those that one in flight is going to write. */
  private readonly written = new Set<number>()
  private readonly pending = new Map<number, Promise<void>>()
  private readonly freeSlots: ArenaTensor[][] = []
  private readonly allSlots: ArenaTensor[] = []
  private failure: unknown = null

  constructor(private readonly options: TraceReplayOptions) {
    this.cache = options.cache
    this.content = new PageContent(options.pageBytes)
    this.batchPages = replayBatchPages(options.pageBytes)
  }

  /** A page's key: 64 hex digits, as page hashes are. */
  static key(id: number): string { return createHash('sha256').update(`hicache-nixl replay ${id}`).digest('hex') }

  /** Plays everything. Rejects when the signal fires, when the requests do, or when the cache throws (closed, wrong argument). */
  async run(requests: AsyncIterable<TraceRequest>): Promise<ReplayTotals> {
    const most = this.options.requestsInFlight ?? 4
    const inFlight = new Set<Promise<void>>()
    const collectEvery = this.options.collectEveryBytes ?? Number.POSITIVE_INFINITY
    let collectedAt = 0
    try {
      for (let set = 0; set < most; set++) this.freeSlots.push(this.allocateSlots())
      for await (const request of requests) {
        this.options.signal?.throwIfAborted()
        while (inFlight.size >= most) await Promise.race(inFlight)
        this.throwFailure()
        if (this.totals.bytesWritten - collectedAt >= collectEvery) {
          await Promise.all(inFlight)
          this.totals.evicted += (await this.cache.gc()).evictedPages
          collectedAt = this.totals.bytesWritten
        }
        const turn = this.admit(request.blockIds).catch((error: unknown) => { this.failure ??= error }).finally(() => inFlight.delete(turn))
        inFlight.add(turn)
      }
      await Promise.all(inFlight)
      this.throwFailure()
      return this.totals
    } finally {
      await Promise.all(inFlight)
      for (const slot of this.allSlots) slot.release()
    }
  }

  private throwFailure(): void {
    if (this.failure !== null) throw this.failure as Error
  }

  private allocateSlots(): ArenaTensor[] {
    const slots: ArenaTensor[] = []
    for (let page = 0; page < this.batchPages; page++) {
      const slot = this.cache.allocate({ dtype: 'uint8', shape: [this.options.pageBytes] })
      slots.push(slot)
      this.allSlots.push(slot)
    }
    return slots
  }

  /** Runs up to its first await in the order of the trace: what it notes here is what later requests wait for. */
  private async admit(ids: readonly number[]): Promise<void> {
    const before = new Set<Promise<void>>()
    const mine: number[] = []
    let done!: () => void
    const written = new Promise<void>(resolve => { done = resolve })
    for (const id of ids) {
      if (this.written.has(id)) continue
      const writer = this.pending.get(id)
      if (writer === undefined) {
        this.pending.set(id, written)
        mine.push(id)
      } else if (writer !== written) {
        before.add(writer)
      }
    }
    const slots = this.freeSlots.pop()!
    try {
      await Promise.all(before)
      await this.play(ids, slots)
      this.options.onRequest?.(this.totals)
    } finally {
      this.freeSlots.push(slots)
      for (const id of mine) {
        this.written.add(id)
        this.pending.delete(id)
      }
      done()
    }
  }

  private async play(ids: readonly number[], slots: readonly ArenaTensor[]): Promise<void> {
    const { totals } = this
    const keys = ids.map(id => TraceReplay.key(id))
    const started = performance.now()
    const run = ids.length === 0 ? 0 : await this.cache.batchExists(keys)
    this.lookup.add((performance.now() - started) * 1000)

    const hits = await this.readRun(ids.slice(0, run), keys, slots)
    // A page of the run that turned out to be no hit is written again, and with it what follows (which is there already, as a rule).
    await this.writeRest(ids, keys, hits, slots)
    totals.requests++
    totals.references += ids.length
    totals.hits += hits
  }

  /** Reads the pages of the run and checks every byte. Answers how many of them, from the first on, were right. */
  private async readRun(ids: readonly number[], keys: readonly string[], slots: readonly ArenaTensor[]): Promise<number> {
    const { totals } = this
    let hits = 0
    for (let start = 0; start < ids.length && hits === start; start += this.batchPages) {
      const batch = ids.slice(start, start + this.batchPages)
      const started = performance.now()
      const outcomes = await this.cache.read(batch.map((_, index) => [keys[start + index]!, slots[index]!] as const))
      this.read.add((performance.now() - started) * 1000)
      outcomes.forEach((outcome, index) => {
        if (outcome.ok) {
          const wrong = this.content.wrongBytes(bytesOf(slots[index]!), batch[index]!)
          totals.wrongBytes += wrong
          totals.bytesRead += this.options.pageBytes
          if (wrong === 0 && hits === start + index) hits++
        } else if (outcome.status === 'miss') {
          totals.missReasons[outcome.reason] = (totals.missReasons[outcome.reason] ?? 0) + 1
        } else {
          this.noteFailure(outcome.error)
        }
      })
    }
    return hits
  }

  private async writeRest(ids: readonly number[], keys: readonly string[], from: number, slots: readonly ArenaTensor[]): Promise<void> {
    const { totals } = this
    const indices: number[] = []
    const seen = new Set<number>()
    for (let index = from; index < ids.length; index++) {
      // An id twice in one request is one page: written once.
      if (!seen.has(ids[index]!)) indices.push(index)
      seen.add(ids[index]!)
    }
    for (let start = 0; start < indices.length; start += this.batchPages) {
      const batch = indices.slice(start, start + this.batchPages)
      batch.forEach((index, slot) => this.content.fill(bytesOf(slots[slot]!), ids[index]!))
      const started = performance.now()
      const outcomes = await this.cache.write(batch.map((index, slot) => [keys[index]!, slots[slot]!] as const))
      this.write.add((performance.now() - started) * 1000)
      outcomes.forEach((outcome, slot) => {
        if (!outcome.ok) {
          this.noteFailure(outcome.error)
        } else if (outcome.status === 'stored') {
          totals.stored++
          totals.bytesWritten += this.options.pageBytes
          this.storedIds.add(ids[batch[slot]!]!)
        } else {
          totals.alreadyThere++
        }
      })
    }
  }

  private noteFailure(error: Error): void {
    this.totals.failures++
    if (this.totals.errors.length < 5) this.totals.errors.push(error.message)
  }
}

function bytesOf(slot: ArenaTensor): Uint8Array {
  return slot.data as Uint8Array
}
