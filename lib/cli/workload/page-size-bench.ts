import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { ArenaTensor, HiCacheNixl, Source } from '../../index.js'
import type { NativeBench } from '../../transfer/native-binding.js'
import type { CommandContext } from '../command.js'
import { formatBytes } from '../format.js'
import type { Progress } from '../progress.js'
import type { ArmSummary } from './arm-summary.js'
import type { BenchArm, BenchOp } from './bench-arm.js'
import type { BenchPlan } from './bench-plan.js'
import type { BenchReport, PeerReport, RunReport } from './bench-report.js'
import { DeviceLimitArm } from './device-limit-arm.js'
import { FileLoopArm } from './file-loop-arm.js'
import { FsPromisesArm } from './fs-promises-arm.js'
import { HiCacheArm } from './hicache-arm.js'
import { InterleavedRounds } from './interleaved-rounds.js'

const MIB = 2 ** 20
const ARENA_BYTES_MIN = 64 * MIB
const ARENA_BYTES_MAX = 4096 * MIB
/** The limit is the best that the device gives: deep queues, as long as the buffers stay reasonable. */
const LIMIT_DEPTH_MAX = 64
const LIMIT_BYTES_IN_FLIGHT = 64 * MIB
/** Of the cache, where --threads says nothing else. */
const THREADS_DEFAULT = 16

export interface PageSizeBenchOptions {
  readonly context: CommandContext
  readonly plan: BenchPlan
  readonly bench: NativeBench
  readonly directory: string
  /** O_DIRECT works there. */
  readonly direct: boolean
  readonly pageBytes: number
  readonly progress: Progress
  /** Pages of all rounds stay until the caller removes the directory. */
  readonly keep: boolean
}

interface OurArm { readonly arm: BenchArm; readonly batch: number; readonly zeroCopy: boolean }

/** All contestants on pages of one size. */
export class PageSizeBench {
  private readonly batches: readonly number[]
  private readonly buffers: number
  private readonly arenaBytes: number
  private readonly peers: BenchArm[] = []
  private readonly ours: OurArm[] = []

  constructor(private readonly options: PageSizeBenchOptions) {
    const { plan, pageBytes } = options
    this.batches = plan.batchesFor(pageBytes)
    this.buffers = Math.max(...this.batches) * plan.inFlight
    const held = this.buffers * pageBytes
    // What is allocated for zero copy may take two thirds of the arena; copies in flight need as much again.
    this.arenaBytes = Math.min(ARENA_BYTES_MAX, Math.max(ARENA_BYTES_MIN, Math.ceil(held * 2.25 / 65536) * 65536))
  }

  /** Measurements that run() will make, those of the unmeasured round included. */
  static steps(plan: BenchPlan, pageBytes: number, direct: boolean): number {
    const ours = plan.only.has('hicache') ? plan.batchesFor(pageBytes).length * plan.zeroCopy.length : 0
    const peers = (plan.only.has('limit') ? 1 : 0) + (plan.only.has('loop') ? 1 : 0) + (plan.only.has('fs') ? (direct ? 2 : 1) : 0)
    return InterleavedRounds.steps(ours + peers, plan)
  }

  async run(): Promise<BenchReport> {
    const { context, directory, plan, pageBytes } = this.options
    const folder = join(directory, `pages-${pageBytes}`)
    await mkdir(folder, { recursive: true, mode: 0o700 })
    await this.makePeers(folder)
    if (!plan.only.has('hicache')) return await this.measure(null)
    return await context.withCache(async cache => {
      this.makeOurs(cache)
      return await this.measure(cache)
    }, {
      storageDir: [join(folder, 'hicache')], modelName: 'bench', workers: plan.workers, arenaBytes: this.arenaBytes, timeoutMs: 120_000,
      ...(plan.threads === null ? {} : { threads: plan.threads }),
    })
  }

  private async makePeers(folder: string): Promise<void> {
    const { plan, bench, direct, pageBytes } = this.options
    const pages = plan.pagesFor(pageBytes)
    const inside = async (name: string): Promise<string> => {
      await mkdir(join(folder, name), { recursive: true, mode: 0o700 })
      return join(folder, name)
    }
    if (plan.only.has('limit')) {
      const queueDepth = Math.max(4, Math.min(LIMIT_DEPTH_MAX, Math.floor(LIMIT_BYTES_IN_FLIGHT / pageBytes)))
      this.peers.push(new DeviceLimitArm({ bench, directory: await inside('limit'), pageBytes, pages, queueDepth }))
    }
    if (plan.only.has('loop')) {
      const threads = plan.threads ?? THREADS_DEFAULT
      this.peers.push(new FileLoopArm({ bench, directory: await inside('loop'), pageBytes, pages, threads, direct }))
    }
    if (plan.only.has('fs')) {
      const inFlight = Math.min(this.buffers, 64)
      const fsFolder = await inside('fs')
      if (direct) this.peers.push(new FsPromisesArm({ directory: fsFolder, pageBytes, pages, inFlight, direct: true }))
      this.peers.push(new FsPromisesArm({ directory: fsFolder, pageBytes, pages, inFlight, direct: false }))
    }
  }

  private makeOurs(cache: HiCacheNixl): void {
    const { plan, pageBytes } = this.options
    const pages = plan.pagesFor(pageBytes)
    for (const zeroCopy of plan.zeroCopy) {
      const tensors: ArenaTensor[] = []
      for (let index = 0; zeroCopy && index < this.buffers; index++) tensors.push(cache.allocate({ dtype: 'uint8', shape: [pageBytes] }))
      const bytes = zeroCopy ? tensors.map(tensor => tensor.data as Uint8Array) : Array.from({ length: this.buffers }, () => new Uint8Array(pageBytes))
      const buffers: readonly Source[] = zeroCopy ? tensors : bytes
      for (const batch of this.batches) {
        const name = `hicache-${zeroCopy ? 'zero-copy' : 'copying'}-${batch}`
        this.ours.push({ batch, zeroCopy, arm: new HiCacheArm({ name, cache, pageBytes, pages, batch, inFlight: plan.inFlight, buffers, bytes }) })
      }
    }
  }

  private async measure(cache: HiCacheNixl | null): Promise<BenchReport> {
    const { context, plan, pageBytes, progress, keep } = this.options
    const arms = [...this.ours.map(({ arm }) => arm), ...this.peers]
    const rounds = new InterleavedRounds(arms)
    await rounds.run({
      rounds: plan.rounds, ops: plan.ops, optional: new Set(this.peers), keep, signal: context.signal,
      onStep: (arm, op, round) => progress.add(1, `${formatBytes(pageBytes)} ${op} ${arm.name}${round === 0 ? ' (warming up)' : ''}`),
      onLeftOut: (arm, error) => progress.log(`${arm.name} is left out at ${formatBytes(pageBytes)}: ${error instanceof Error ? error.message : String(error)}`),
    })
    const runs: RunReport[] = []
    const peers: PeerReport[] = []
    for (const op of plan.ops) {
      const summaries = new Map<string, ArmSummary>()
      for (const peer of this.peers) {
        const summary = rounds.summary(peer, op)
        if (summary !== undefined) summaries.set(peer.name, summary)
      }
      const limit = summaries.get('device-limit')
      for (const summary of summaries.values()) peers.push({ name: summary.name, op, pageBytes, ...figures(summary), ...ratios(summary, limit) })
      for (const our of this.ours) {
        const summary = rounds.summary(our.arm, op)
        if (summary !== undefined && cache !== null) runs.push(this.runReport(cache, our, summary, summaries, op))
      }
    }
    return { runs, peers }
  }

  private runReport(cache: HiCacheNixl, { batch, zeroCopy }: OurArm, summary: ArmSummary, peers: ReadonlyMap<string, ArmSummary>, op: BenchOp): RunReport {
    const { plan, pageBytes } = this.options
    const limit = peers.get('device-limit')
    const against = (name: string): number | null => {
      const other = peers.get(name)
      return other === undefined ? null : round3(summary.ratioTo(other).median)
    }
    return {
      storageLayout: cache.storageLayout, engine: cache.selection.engine, op, pageBytes, batch, workers: plan.workers, zeroCopy, inFlight: plan.inFlight, checksum: true,
      ...figures(summary), maxUs: summary.latency().max,
      limitMibPerSecond: limit === undefined ? null : round1(limit.mibPerSecond), ...ratios(summary, limit),
      ratioToCppLoop: against('cpp-loop'), ratioToFsPromises: against('fs-promises'), ratioToFsPromisesDirect: against('fs-promises-direct'),
      longestCallbackMs: round3(summary.longestCallbackMs ?? Number.NaN), longestStallMs: round3(summary.longestStallMs ?? Number.NaN), peakRssBytes: summary.rssBytes ?? Number.NaN,
      arenaBytes: this.arenaBytes, rounds: summary.rounds,
    }
  }
}

function figures(summary: ArmSummary): { mibPerSecond: number; cpuSecondsPerGib: number; p50Us: number; p99Us: number } {
  const { p50, p99 } = summary.latency()
  return { mibPerSecond: round1(summary.mibPerSecond), cpuSecondsPerGib: round3(summary.cpuSecondsPerGib), p50Us: p50, p99Us: p99 }
}

function ratios(summary: ArmSummary, limit: ArmSummary | undefined): { ratioToLimit: number | null; ratioMin: number | null; ratioMax: number | null } {
  if (limit === undefined) return { ratioToLimit: null, ratioMin: null, ratioMax: null }
  const { median, min, max } = summary.ratioTo(limit)
  return { ratioToLimit: round3(median), ratioMin: round3(min), ratioMax: round3(max) }
}

function round1(value: number): number { return Math.round(value * 10) / 10 }
function round3(value: number): number { return Math.round(value * 1000) / 1000 }
