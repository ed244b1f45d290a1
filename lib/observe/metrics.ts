import { Histogram } from './histogram.js'

export type Op = 'read' | 'write' | 'exists' | 'delete'
const OPS: readonly Op[] = ['read', 'write', 'exists', 'delete']

/** The state of the cache at this moment; asked for when stats() or text() is called, never on the data path. */
export interface Gauges {
  readonly queuedRequests: number
  readonly queuedBytes: number
  readonly inFlightRequests: number
  readonly inFlightBytes: number
  readonly inFlightBytesMax: number
  readonly writeWindowBytes: number
  readonly arenaBytes: number
  readonly arenaUsedBytes: number
  readonly arenaHeldBytes: number
  readonly arenaQuarantinedBytes: number
  readonly workers: number
  readonly workersAlive: number
}

/** 50 us (a page cache hit) to 30 s (the longest deadline anybody sensible sets). */
const SECONDS_BOUNDS = [
  0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
]
const BATCH_PAGES_BOUNDS = [1, 2, 4, 8, 16, 32, 64, 128, 256]

/** Outcomes that mean a miss; the metrics show them as outcome="miss" with the reason, as ReadOutcome does. */
const MISS_REASONS: ReadonlySet<string> = new Set(['absent', 'expired', 'corrupt', 'stale', 'identity', 'length', 'dtype', 'unavailable'])
const FAILURES = ['timeout', 'cancelled', 'rejected', 'failed']
/** The first outcome of each is the one that moved bytes. */
const EXPECTED: Record<Op, readonly string[]> = {
  read: ['hit', ...MISS_REASONS, ...FAILURES],
  write: ['stored', 'already-there', 'backup-skip', ...FAILURES],
  exists: ['hit', 'absent', ...FAILURES],
  delete: ['deleted', 'absent', ...FAILURES],
}
/** More distinct outcomes or counters than these are a programming error; they are counted under `other` instead of growing without end. */
const OUTCOMES_MAX = 48
const COUNTERS_MAX = 128

const BYTES_NAME: Record<Op, string> = { read: 'bytes_read', write: 'bytes_written', exists: 'bytes_exists', delete: 'bytes_deleted' }

const COUNTER_HELP: Readonly<Record<string, string>> = {
  worker_restarts: 'Workers that died and were replaced.',
  cleaner_passes: 'Passes of the l3 cleaner.',
  cleaner_evicted_pages: 'Pages that the l3 cleaner removed.',
  cleaner_evicted_bytes: 'Bytes that the l3 cleaner removed.',
  reads_joined: 'Reads that another read of the same page answered.',
  reads_from_writes: 'Reads and look-ups that a write or a delete under way answered.',
  segment_evicted_pages: 'Pages that were given up for others.',
  segment_corrupt_pages: 'Pages of segments that did not hold when they were read.',
  segment_overtaken_reads: 'Reads of another process\'s pages that were given up while they were read.',
  tombstones_failed: 'Records of pages that are gone that could not be written (they are tried again).',
  leftovers_removed: 'Temporary files of dead writers that were removed.',
}

const GAUGE_HELP: Readonly<Record<keyof Gauges, readonly [name: string, help: string]>> = {
  queuedRequests: ['queued_requests', 'Requests that wait for memory or for a worker.'],
  queuedBytes: ['queued_bytes', 'Payload bytes of the requests that wait.'],
  inFlightRequests: ['in_flight_requests', 'Requests that workers hold.'],
  inFlightBytes: ['in_flight_bytes', 'Payload bytes of the requests that workers hold.'],
  inFlightBytesMax: ['in_flight_bytes_max', 'The limit on payload bytes in flight.'],
  writeWindowBytes: ['write_window_bytes', 'Payload bytes of writes that may be in flight at once, as the directories were found to need them; all directories together.'],
  arenaBytes: ['arena_bytes', 'Size of the arena.'],
  arenaUsedBytes: ['arena_used_bytes', 'Arena bytes in slots that are taken.'],
  arenaHeldBytes: ['arena_held_bytes', 'Arena bytes that callers hold (allocate, getInArena).'],
  arenaQuarantinedBytes: ['arena_quarantined_bytes', 'Arena bytes that the kernel still holds for requests that were given up.'],
  workers: ['workers', 'Workers that were asked for.'],
  workersAlive: ['workers_alive', 'Workers that run.'],
}

const LAYOUT_GAUGE_HELP: Readonly<Record<string, string>> = {
  segment_pages: 'Pages in the segments of this process.',
  segment_pages_foreign: 'Pages of other processes that can be read.',
  segments: 'Segments of this process.',
  segment_bytes: 'Bytes of its segments.',
  segment_slots: 'Extents in its segments.',
  segment_slots_free: 'Extents without a page.',
  segment_writers_live: 'Other processes that write to the same directories.',
}

/** What one operation counted. */
class OpCounts {
  readonly pages = new Float64Array(OUTCOMES_MAX)
  bytes = 0
  batchBytes = 0
  readonly latency = new Histogram(SECONDS_BOUNDS)
  readonly batchSeconds = new Histogram(SECONDS_BOUNDS)
  readonly batchPages = new Histogram(BATCH_PAGES_BOUNDS)
  /** Index into `pages` by outcome. */
  readonly index = new Map<string, number>()

  constructor(op: Op) { for (const outcome of EXPECTED[op]) this.index.set(outcome, this.index.size) }

  slot(outcome: string): number {
    const known = this.index.get(outcome)
    if (known !== undefined) return known
    if (this.index.size >= OUTCOMES_MAX - 1) {
      const other = this.index.get('other') ?? OUTCOMES_MAX - 1
      this.index.set('other', other)
      return other
    }
    const slot = this.index.size
    this.index.set(outcome, slot)
    return slot
  }
}

/**
 * Counts what the cache does. page() and batch() are on the hot path: they add to typed arrays and allocate nothing. The text is made
 * synchronously, which is why no metrics library is used (theirs answer promises).
 */
export class Metrics {
  readonly #labels: string
  readonly #gauges: () => Gauges
  readonly #layoutGauges: () => Readonly<Record<string, number>>
  readonly #read = new OpCounts('read')
  readonly #write = new OpCounts('write')
  readonly #exists = new OpCounts('exists')
  readonly #delete = new OpCounts('delete')
  readonly #counters = new Map<string, number>(Object.keys(COUNTER_HELP).map((name) => [name, 0]))

  /** `layoutGauges`: what the layout has to say of itself, by name. */
  constructor(labels: { plugin: string; engine: string; layout: string }, gauges: () => Gauges, layoutGauges: () => Readonly<Record<string, number>> = () => ({})) {
    this.#labels = Object.entries({ plugin: labels.plugin, engine: labels.engine, layout: labels.layout })
      .map(([name, value]) => `${name}="${escapeLabel(value)}"`).join(',')
    this.#gauges = gauges
    this.#layoutGauges = layoutGauges
  }

  /** One page's end. `bytes` (the page's size will do) count only where bytes moved: a hit or a stored page. `seconds` run from the call to the outcome. */
  page(op: Op, outcome: string, bytes: number, seconds: number): void {
    const counts = this.#of(op)
    const slot = counts.slot(outcome)
    counts.pages[slot]!++
    if (slot === 0) counts.bytes += bytes
    counts.latency.observe(seconds)
  }

  /** Lookups that no storage was asked for: `found` of `asked` pages were there. They have no latency to speak of. */
  lookups(found: number, asked: number): void {
    this.#exists.pages[this.#exists.slot('hit')]! += found
    this.#exists.pages[this.#exists.slot('absent')]! += asked - found
  }

  /** One native sub-batch's end. */
  batch(op: Op, pages: number, bytes: number, seconds: number): void {
    const counts = this.#of(op)
    counts.batchBytes += bytes
    counts.batchPages.observe(pages)
    counts.batchSeconds.observe(seconds)
  }

  /** Adds to a counter of that name (made on its first use). */
  count(name: string, by = 1): void {
    const before = this.#counters.get(name)
    if (before !== undefined) this.#counters.set(name, before + by)
    else if (this.#counters.size < COUNTERS_MAX) this.#counters.set(name, by)
    else this.#counters.set('other', (this.#counters.get('other') ?? 0) + by)
  }

  /** Everything as flat numbers; the names are listed in docs/observability.md. Latencies are in microseconds, estimated from the histograms. */
  stats(): Readonly<Record<string, number>> {
    const out: Record<string, number> = {}
    for (const op of OPS) {
      const counts = this.#of(op)
      let pages = 0
      let misses = 0
      for (const [outcome, slot] of counts.index) {
        const value = counts.pages[slot]!
        pages += value
        if (isMiss(op, outcome)) {
          misses += value
          out[`pages_${op}_miss_${underscored(outcome)}`] = value
        } else {
          out[`pages_${op}_${underscored(outcome)}`] = value
        }
      }
      out[`pages_${op}`] = pages
      if (op === 'read') out.pages_read_miss = misses
      if (op === 'read' || op === 'write') out[BYTES_NAME[op]] = counts.bytes
      out[`batches_${op}`] = counts.batchPages.count
      out[`latency_${op}_p50_us`] = Math.round(counts.latency.quantile(0.5) * 1e6)
      out[`latency_${op}_p99_us`] = Math.round(counts.latency.quantile(0.99) * 1e6)
    }
    for (const [name, value] of this.#counters) out[underscored(name)] = value
    const gauges = this.#gauges()
    for (const key of Object.keys(GAUGE_HELP) as (keyof Gauges)[]) out[GAUGE_HELP[key][0]] = gauges[key]
    return Object.assign(out, this.#layoutGauges())
  }

  /** The Prometheus text exposition format, version 0.0.4. */
  text(): string {
    const lines: string[] = []
    const head = (name: string, type: string, help: string): void => { lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`) }

    head('hicache_nixl_pages_total', 'counter', 'Pages by operation and outcome; a miss has its reason.')
    for (const op of OPS) {
      const counts = this.#of(op)
      for (const [outcome, slot] of counts.index) {
        const [status, reason] = isMiss(op, outcome) ? ['miss', outcome] : [outcome, '']
        const labels = `${this.#labels},op="${op}",outcome="${escapeLabel(status)}",reason="${escapeLabel(reason)}"`
        lines.push(`hicache_nixl_pages_total{${labels}} ${number(counts.pages[slot]!)}`)
      }
    }
    head('hicache_nixl_bytes_total', 'counter', 'Payload bytes of pages that were read (hits) or stored.')
    for (const op of ['read', 'write'] as const) {
      lines.push(`hicache_nixl_bytes_total{${this.#labels},op="${op}"} ${number(this.#of(op).bytes)}`)
    }
    head('hicache_nixl_batch_bytes_total', 'counter', 'Payload bytes that native batches carried, whatever became of them.')
    for (const op of ['read', 'write'] as const) {
      lines.push(`hicache_nixl_batch_bytes_total{${this.#labels},op="${op}"} ${number(this.#of(op).batchBytes)}`)
    }
    const histogram = (name: string, help: string, of: (counts: OpCounts) => Histogram): void => {
      head(name, 'histogram', help)
      for (const op of OPS) this.#histogram(lines, name, `${this.#labels},op="${op}"`, of(this.#of(op)))
    }
    histogram('hicache_nixl_page_duration_seconds', 'From the call to a page\'s outcome.', (counts) => counts.latency)
    histogram('hicache_nixl_batch_duration_seconds', 'A native batch in its worker, from submit to its last completion.', (counts) => counts.batchSeconds)
    histogram('hicache_nixl_batch_pages', 'Pages in one native batch.', (counts) => counts.batchPages)

    const gauges = this.#gauges()
    for (const key of Object.keys(GAUGE_HELP) as (keyof Gauges)[]) {
      const [name, help] = GAUGE_HELP[key]
      head(`hicache_nixl_${name}`, 'gauge', help)
      lines.push(`hicache_nixl_${name}{${this.#labels}} ${number(gauges[key])}`)
    }
    for (const [name, value] of Object.entries(this.#layoutGauges())) {
      head(`hicache_nixl_${name}`, 'gauge', LAYOUT_GAUGE_HELP[name] ?? `${name.replaceAll('_', ' ')}.`)
      lines.push(`hicache_nixl_${name}{${this.#labels}} ${number(value)}`)
    }
    for (const [name, value] of this.#counters) {
      const metric = `hicache_nixl_${underscored(name)}_total`
      head(metric, 'counter', COUNTER_HELP[name] ?? `Count of ${name.replaceAll('_', ' ')}.`)
      lines.push(`${metric}{${this.#labels}} ${number(value)}`)
    }
    return `${lines.join('\n')}\n`
  }

  #of(op: Op): OpCounts {
    switch (op) {
      case 'read': return this.#read
      case 'write': return this.#write
      case 'exists': return this.#exists
      case 'delete': return this.#delete
    }
  }

  #histogram(lines: string[], name: string, labels: string, histogram: Histogram): void {
    let cumulative = 0
    for (let bucket = 0; bucket < histogram.bounds.length; bucket++) {
      cumulative += histogram.counts[bucket]!
      lines.push(`${name}_bucket{${labels},le="${histogram.bounds[bucket]!}"} ${number(cumulative)}`)
    }
    lines.push(`${name}_bucket{${labels},le="+Inf"} ${number(histogram.count)}`)
    lines.push(`${name}_sum{${labels}} ${number(histogram.sum)}`, `${name}_count{${labels}} ${number(histogram.count)}`)
  }
}

function isMiss(op: Op, outcome: string): boolean { return (op === 'read' || op === 'exists') && MISS_REASONS.has(outcome) }

function underscored(name: string): string { return name.replace(/[^A-Za-z0-9_]/g, '_') }

function escapeLabel(value: string): string {
  return value.replace(/[\\"\n]/g, (character) => character === '\n' ? '\\n' : `\\${character}`)
}

function number(value: number): string {
  if (Number.isNaN(value)) return 'NaN'
  if (!Number.isFinite(value)) return value > 0 ? '+Inf' : '-Inf'
  return String(value)
}
