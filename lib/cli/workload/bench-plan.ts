import type { Options } from '../command.js'
import { parseBytes } from '../format.js'
import { UsageError } from '../usage-error.js'
import type { BenchOp } from './bench-arm.js'

const MIB = 2 ** 20
const BLOCK_BYTES = 4096
const BATCH_BYTES = 32 * MIB
const BATCH_PAGES_MAX = 128

export const CONTESTANTS = ['hicache', 'limit', 'loop', 'fs'] as const
export type Contestant = typeof CONTESTANTS[number]

/** What the options of `bench` ask for. Throws UsageError for what they cannot mean. */
export class BenchPlan {
  readonly pageBytes: readonly number[]
  readonly inFlight: number
  readonly ops: readonly BenchOp[]
  readonly rounds: number
  /** Bytes of one contestant in one round, as asked for; whole batches are moved. */
  readonly bytes: number
  /** Native threads per directory, of all workers together; null: the cache's own default. */
  readonly threads: number | null
  readonly workers: number
  readonly zeroCopy: readonly boolean[]
  readonly only: ReadonlySet<Contestant>
  private readonly batches: readonly number[]

  constructor(options: Options) {
    const quick = options.flag('quick')
    if (options.string('checksum') === 'off') {
      throw new UsageError('--checksum off is not offered', 'A page is always checked when it is read; what checking costs shows beside the limit and the C++ loop.')
    }
    this.pageBytes = list(options, 'page-bytes', quick ? '64k' : '64k,256k,1m,4m').map(text => {
      const bytes = parseBytes(text)
      if (bytes === undefined || bytes < BLOCK_BYTES || bytes > 256 * MIB || bytes % BLOCK_BYTES !== 0) {
        throw new UsageError(`option --page-bytes: a page is a multiple of ${BLOCK_BYTES} bytes, at most 256 MiB; found "${text}"`)
      }
      return bytes
    })
    this.batches = list(options, 'batch', '').map(text => {
      const pages = /^\d+$/.test(text) ? Number(text) : 0
      if (pages < 1 || pages > 4096) throw new UsageError(`option --batch: a batch has 1 to 4096 pages; found "${text}"`)
      return pages
    })
    this.ops = [...new Set(list(options, 'ops', 'read,write').map(text => {
      if (text !== 'read' && text !== 'write') throw new UsageError(`option --ops: read or write; found "${text}"`)
      return text
    }))]
    this.only = new Set(list(options, 'only', CONTESTANTS.join(',')).map(text => {
      const contestant = CONTESTANTS.find(known => known === text)
      if (contestant === undefined) throw new UsageError(`option --only: ${CONTESTANTS.join(', ')}; found "${text}"`)
      return contestant
    }))
    this.inFlight = options.integer('in-flight', { min: 1, max: 64 }) ?? 3
    this.rounds = options.integer('rounds', { min: 1, max: 1000 }) ?? (quick ? 2 : 9)
    this.bytes = options.bytes('bytes', { min: BLOCK_BYTES }) ?? (quick ? 8 : 256) * MIB
    this.threads = options.integer('threads', { min: 1, max: 64 }) ?? null
    this.workers = options.integer('workers', { min: 1, max: 64 }) ?? 2
    const zeroCopy = options.flag('zero-copy')
    const copying = options.flag('copying')
    this.zeroCopy = zeroCopy === copying ? [true, false] : [zeroCopy]
  }

  /** Batch sizes for pages of this size: as asked for, else as many pages as make 32 MiB, at most 128. */
  batchesFor(pageBytes: number): readonly number[] {
    return this.batches.length > 0 ? this.batches : [Math.max(1, Math.min(BATCH_PAGES_MAX, Math.floor(BATCH_BYTES / pageBytes)))]
  }

  /** Pages that each contestant moves in a round. */
  pagesFor(pageBytes: number): number { return Math.max(1, Math.floor(this.bytes / pageBytes)) }
}

function list(options: Options, name: string, otherwise: string): string[] {
  const items = (options.string(name) ?? otherwise).split(',').map(item => item.trim().toLowerCase()).filter(item => item !== '')
  if (items.length === 0 && options.string(name) !== undefined) throw new UsageError(`option --${name} is empty`)
  return [...new Set(items)]
}
