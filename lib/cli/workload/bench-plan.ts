import type { Options } from '../command.js'
import { listOption, oneOf, pageSizes } from '../list-options.js'
import { CAPACITY } from '../store-options.js'
import { UsageError } from '../usage-error.js'
import { measuredSteps, OPS, ownSteps, READING_STEPS, readsPages, type BenchOp, type RequestedOp } from './bench-arm.js'

const MIB = 2 ** 20
const BLOCK_BYTES = 4096
const BATCH_BYTES = 32 * MIB
const BATCH_PAGES_MAX = 128
/** Of calls in a round, for each that is in flight: fewer, and beginning and end weigh more than the middle. */
const CALLS_A_LANE = 3
/** A store that holds less than this over what a round writes and reads would have to give up pages that are read. */
const CAPACITY_FACTOR = 2
const PEER_BYTES = 64 * MIB
/** Of a mix: as much as is being written at any time, so many times. */
const MIX_LOADS = 8
const CAPACITY_MIN = 128 * MIB
const WRITING_STEPS: readonly BenchOp[] = ['write', 'set', 'one-batch-write', 'mix']

export const CONTESTANTS = ['hicache', 'limit', 'loop', 'fs', 'lmdb', 'ring'] as const
export type Contestant = typeof CONTESTANTS[number]

export const LAYOUTS = ['file', 'segment'] as const
export type Layout = typeof LAYOUTS[number]
/** What a store in a fresh directory is. */
const DEFAULT_LAYOUT: Layout = 'segment'

export const ENGINES = ['auto', 'io_uring', 'aio', 'posix_aio'] as const
export type Engine = typeof ENGINES[number]

/** Whether reads check the bytes of a page against its checksum. */
export const CHECKSUMS = ['on', 'off'] as const
export type Checksum = typeof CHECKSUMS[number]

/** One way to open a store. */
export interface StoreKind {
  readonly layout: Layout
  readonly engine: Engine
  readonly workers: number
  readonly checksum: Checksum
}

/** What the options of `bench` ask for. Throws UsageError for what they cannot mean. */
export class BenchPlan {
  readonly pageBytes: readonly number[]
  readonly inFlight: number
  readonly ops: readonly RequestedOp[]
  /** What is measured in the rounds. */
  readonly measured: ReadonlySet<BenchOp>
  readonly stores: readonly StoreKind[]
  readonly rounds: number
  /** Native threads per directory, of all workers together; null: the cache's own default. */
  readonly threads: number | null
  readonly zeroCopy: readonly boolean[]
  readonly only: ReadonlySet<Contestant>
  /** Of a mix: bytes that are being written at any time (null: as many as `inFlight` batches have), and pages that are being read. */
  readonly writeLoad: number | null
  readonly readsInFlight: number
  /** Keys that a lookup run asks for in a round. */
  readonly lookups: number
  /** Pages that a store gives up between the first and the last pass of `churn`. */
  readonly evictions: number
  private readonly bytes: number | null
  private readonly quick: boolean
  private readonly capacity: number | null
  private readonly batches: readonly number[]

  constructor(options: Options) {
    this.quick = options.flag('quick')
    this.pageBytes = pageSizes(options, this.quick ? '64k' : '64k,1m')
    this.batches = listOption(options, 'batch', '').map(text => wholeNumber(text, 'batch', 'a batch has 1 to 4096 pages', 4096))
    this.ops = oneOf(options, 'ops', 'write,read', OPS)
    this.measured = measuredSteps(this.ops)
    this.only = new Set(oneOf(options, 'only', CONTESTANTS.join(','), CONTESTANTS))
    const layouts = oneOf(options, 'layout', options.string('storage-layout') ?? DEFAULT_LAYOUT, LAYOUTS)
    const engines = oneOf(options, 'engine', 'auto', ENGINES)
    const workers = listOption(options, 'workers', '2').map(text => wholeNumber(text, 'workers', '1 to 64', 64))
    const checksums = oneOf(options, 'checksum', 'on', CHECKSUMS)
    if (checksums.includes('off') && !READING_STEPS.some(step => this.measured.has(step))) {
      throw new UsageError('option --checksum: off is for operations that read pages; a write always computes the checksum', 'Add read, get, one-batch or mix to --ops.')
    }
    this.stores = layouts.flatMap(layout => engines.flatMap(engine => workers.flatMap(count => checksums.map(checksum => ({ layout, engine, workers: count, checksum })))))
    this.inFlight = options.integer('in-flight', { min: 1, max: 64 }) ?? 3
    this.rounds = options.integer('rounds', { min: 1, max: 1000 }) ?? (this.quick ? 2 : 3)
    this.bytes = options.bytes('bytes', { min: BLOCK_BYTES }) ?? null
    this.threads = options.integer('threads', { min: 1, max: 64 }) ?? null
    this.capacity = options.bytes('capacity', CAPACITY) ?? null
    this.writeLoad = options.bytes('write-load') ?? null
    this.readsInFlight = options.integer('reads-in-flight', { min: 1, max: 256 }) ?? 4
    this.lookups = options.integer('lookups', { min: 1, max: 1e9 }) ?? (this.quick ? 10_000 : 1_000_000)
    this.evictions = options.integer('evictions', { min: 1, max: 1e9 }) ?? (this.quick ? 100 : 100_000)
    const zeroCopy = options.flag('zero-copy')
    const copying = options.flag('copying')
    this.zeroCopy = zeroCopy === copying ? [true, false] : [zeroCopy]
    if (this.ops.includes('churn') && !layouts.includes('segment')) throw new UsageError('option --ops: churn is for the segment layout', 'Add --layout segment.')
  }

  /** What is measured of a store: where there is one that checks its pages, only reads of one that does not, since all else is the same. */
  measuredOf({ checksum }: Pick<StoreKind, 'checksum'>): ReadonlySet<BenchOp> {
    if (checksum === 'on' || this.stores.every(store => store.checksum === 'off')) return this.measured
    return new Set(READING_STEPS.filter(step => this.measured.has(step)))
  }

  /** What a store takes part in: what is measured of it, and what that needs. */
  stepsOf(kind: Pick<StoreKind, 'layout' | 'checksum'>): ReadonlySet<BenchOp> { return ownSteps(this.measuredOf(kind), kind.layout === 'segment') }

  /** The stores that `churn` wears out, by writes alone. */
  get churnStores(): readonly StoreKind[] { return this.stores.filter(({ layout, checksum }) => layout === 'segment' && checksum === this.stores[0]!.checksum) }

  /** Batch sizes for pages of this size: as asked for, else as many pages as make 32 MiB, at most 128. */
  batchesFor(pageBytes: number): readonly number[] {
    return this.batches.length > 0 ? this.batches : [Math.max(1, Math.min(BATCH_PAGES_MAX, Math.floor(BATCH_BYTES / pageBytes)))]
  }

  /** Pages that each contestant moves in a round: as many bytes as asked for, else 128 MiB, or more where a round would have too few calls. */
  pagesFor(pageBytes: number): number {
    const calls = this.inFlight * CALLS_A_LANE * Math.max(...this.batchesFor(pageBytes))
    const pages = this.bytes !== null ? Math.floor(this.bytes / pageBytes) : this.quick ? Math.floor(8 * MIB / pageBytes) : Math.max(Math.floor(128 * MIB / pageBytes), calls)
    return Math.max(1, pages)
  }

  /** Of fs.promises, lmdb and the C++ loop: a rate needs no more bytes than these, and some of them are slow. */
  peerPagesFor(pageBytes: number): number {
    const pages = this.pagesFor(pageBytes)
    return this.bytes === null ? Math.min(pages, Math.max(1, Math.floor(PEER_BYTES / pageBytes))) : pages
  }

  /** Pages of a mix that are being written at any time, by as many calls as are in flight elsewhere. */
  mixWrites(pageBytes: number, batch: number): number {
    const most = this.inFlight * batch
    if (this.writeLoad === null) return most
    return this.writeLoad === 0 ? 0 : Math.min(most, Math.max(1, Math.floor(this.writeLoad / pageBytes)))
  }

  /** Pages that a mix writes in a round: a load that lasts for a while, however small the round is. */
  mixPages(pageBytes: number): number { return Math.max(this.pagesFor(pageBytes), MIX_LOADS * Math.max(...this.batchesFor(pageBytes).map(batch => this.mixWrites(pageBytes, batch)))) }

  /** Bytes that are written into one store of this page size in a round. */
  roundBytes(pageBytes: number, kind: Pick<StoreKind, 'layout' | 'checksum'>): number {
    const steps = this.stepsOf(kind)
    const pages = WRITING_STEPS.filter(step => steps.has(step)).reduce((sum, step) => sum + (step === 'mix' ? this.mixPages(pageBytes) : this.pagesFor(pageBytes)), 0)
    return this.armBytes(pageBytes) / this.pagesFor(pageBytes) * pages
  }

  /** Bytes of a store of the segment layout: what a round writes, what is read, and so much more that a policy has something else to give up. */
  capacityFor(pageBytes: number): number {
    const bytes = this.roundBytes(pageBytes, { layout: 'segment', checksum: 'on' }) + (readsPages(this.measured) ? this.armBytes(pageBytes) : 0)
    return this.capacity ?? Math.ceil(Math.max(CAPACITY_MIN, bytes * CAPACITY_FACTOR) / MIB) * MIB
  }

  /** Bytes of one step of all arms of a store. */
  private armBytes(pageBytes: number): number { return this.batchesFor(pageBytes).length * this.zeroCopy.length * this.pagesFor(pageBytes) * pageBytes }

  /** Bytes of the store that `churn` wears out: so that one pass over it is about all rounds. */
  churnCapacity(pageBytes: number): number {
    return this.capacity ?? Math.ceil(Math.max(CAPACITY_MIN, this.rounds * this.pagesFor(pageBytes) * pageBytes) / MIB) * MIB
  }
}

function wholeNumber(text: string, name: string, what: string, max: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : 0
  if (value < 1 || value > max) throw new UsageError(`option --${name}: ${what}; found "${text}"`)
  return value
}
