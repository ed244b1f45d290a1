import type { Options } from '../command.js'
import { oneOf, pageSizes } from '../list-options.js'
import { UsageError } from '../usage-error.js'
import { measuredSteps, type BenchOp, type RequestedOp } from './bench-arm.js'

const MIB = 2 ** 20
const BLOCK_BYTES = 4096
const BATCH_DEFAULT = 16
/** Several calls, so that the end of one is not a lull. */
const AT_ONCE_DEFAULT = 64
const ROUND_BYTES = 128 * MIB
/** Pages that are under way at once, calls and pages of a call together. */
const AT_ONCE_MAX = 1024

export const OBJECT_CONTESTANTS = ['hicache', 'loop', 'undici', 'aws-sdk'] as const
export type ObjectContestant = typeof OBJECT_CONTESTANTS[number]

export const OBJECT_OPS = ['write', 'read', 'set', 'get'] as const satisfies readonly RequestedOp[]

/** Options of `bench` that say something about directories, layouts or devices. */
const OF_DIRECTORIES = [
  'storage-dir', 'storage-layout', 'layout', 'engine', 'capacity', 'policy', 'fsync', 'dir', 'write-load', 'reads-in-flight', 'lookups', 'evictions', 'threads', 'checksum',
] as const

/** What the options of `bench` ask for on an object store. Throws UsageError for what they cannot mean there. */
export class ObjectPlan {
  readonly pageBytes: readonly number[]
  /** What is measured in the rounds. */
  readonly measured: ReadonlySet<BenchOp>
  readonly batch: number
  readonly inFlight: number
  readonly rounds: number
  readonly workers: number | null
  readonly zeroCopy: readonly boolean[]
  readonly only: ReadonlySet<ObjectContestant>
  private readonly bytes: number | null
  private readonly quick: boolean

  constructor(options: Options) {
    const misplaced = OF_DIRECTORIES.find(name => options.string(name) !== undefined || options.strings(name).length > 0)
    if (misplaced !== undefined) {
      throw new UsageError(`option --${misplaced} has no part in a benchmark of an object store`, 'Leave it out; threads and connections are those of the configuration.')
    }
    this.quick = options.flag('quick')
    this.pageBytes = pageSizes(options, this.quick ? '64k' : '64k,4m')
    this.measured = measuredSteps(oneOf(options, 'ops', 'write,read', OBJECT_OPS, ' on an object store'))
    this.only = new Set(oneOf(options, 'only', OBJECT_CONTESTANTS.join(','), OBJECT_CONTESTANTS, ' on an object store'))
    this.batch = options.integer('batch', { min: 1, max: AT_ONCE_MAX }) ?? BATCH_DEFAULT
    this.inFlight = options.integer('in-flight', { min: 1, max: 64 }) ?? Math.max(1, Math.floor(AT_ONCE_DEFAULT / this.batch))
    if (this.pagesAtOnce > AT_ONCE_MAX) throw new UsageError(`options --batch and --in-flight: at most ${AT_ONCE_MAX} pages at once; found ${this.pagesAtOnce}`)
    this.rounds = options.integer('rounds', { min: 1, max: 1000 }) ?? (this.quick ? 2 : 3)
    this.bytes = options.bytes('bytes', { min: BLOCK_BYTES }) ?? null
    this.workers = options.integer('workers', { min: 1, max: 64 }) ?? null
    this.zeroCopy = options.flag('copying') ? options.flag('zero-copy') ? [true, false] : [false] : [true]
  }

  /** So many pages each contestant has under way at any time. */
  get pagesAtOnce(): number { return this.batch * this.inFlight }

  /** Pages that each contestant moves in a round: as many bytes as asked for, else 128 MiB, or twice what is under way where that is more. */
  pagesFor(pageBytes: number): number {
    const bytes = this.bytes ?? (this.quick ? ROUND_BYTES / 16 : Math.max(ROUND_BYTES, 2 * this.pagesAtOnce * pageBytes))
    return Math.max(1, Math.floor(bytes / pageBytes))
  }
}
