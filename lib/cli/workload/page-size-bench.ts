import { createHash } from 'node:crypto'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Source } from '../../index.js'
import type { NativeBench } from '../../transfer/native-binding.js'
import type { CommandContext } from '../command.js'
import { formatBytes } from '../format.js'
import type { Progress } from '../progress.js'
import { measures, type ArmSummary } from './arm-summary.js'
import { baseOf, limitSteps, peerSteps, READING_STEPS, ringSteps, STEPS, type BenchArm, type BenchOp } from './bench-arm.js'
import type { BenchPlan, StoreKind } from './bench-plan.js'
import { emptyReport, round1, round3, type BenchReport, type LookupReport, type MixReport, type RunReport } from './bench-report.js'
import { arenaBytesFor, nameOf, pageBuffers, THREADS_DEFAULT, withStores, type BenchStore } from './bench-stores.js'
import { DeviceLimitArm } from './device-limit-arm.js'
import { FileLoopArm } from './file-loop-arm.js'
import { FsPromisesArm } from './fs-promises-arm.js'
import { HiCacheArm } from './hicache-arm.js'
import { InterleavedRounds } from './interleaved-rounds.js'
import { LmdbArm } from './lmdb-arm.js'
import { MixRingArm } from './mix-ring-arm.js'
import { against, figures, ratios } from './summaries.js'

const MIB = 2 ** 20
/** The limit is the best that the device gives: deep queues, as long as the buffers stay reasonable. */
const LIMIT_DEPTH_MAX = 64
const LIMIT_BYTES_IN_FLIGHT = 64 * MIB
/** Pages that the peers work on at once, at most. */
const PEER_LANES_MAX = 64
/** A store takes no more pages than its capacity has room for; what is beyond evicts. */
const FILL_FACTOR = 1.05

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

interface OurArm { readonly arm: BenchArm; readonly store: BenchStore; readonly batch: number; readonly zeroCopy: boolean }

export function limitQueueDepth(pageBytes: number): number { return Math.max(4, Math.min(LIMIT_DEPTH_MAX, Math.floor(LIMIT_BYTES_IN_FLIGHT / pageBytes))) }

/** All contestants on pages of one size. */
export class PageSizeBench {
  private readonly batches: readonly number[]
  private readonly buffers: number
  private readonly arenaBytes: number
  private readonly pages: number
  private readonly peers: BenchArm[] = []
  private readonly ours: OurArm[] = []
  private readonly report = emptyReport()

  constructor(private readonly options: PageSizeBenchOptions) {
    const { plan, pageBytes } = options
    this.batches = plan.batchesFor(pageBytes)
    this.pages = plan.pagesFor(pageBytes)
    this.buffers = Math.max(...this.batches) * plan.inFlight + (plan.measured.has('mix') ? plan.readsInFlight : 0)
    this.arenaBytes = arenaBytesFor(this.buffers, pageBytes)
  }

  /** Measurements that run() will make, those of the unmeasured round included, and what fills stores before it. */
  static steps(plan: BenchPlan, pageBytes: number, direct: boolean): number {
    const { only, measured } = plan
    const stores = only.has('hicache') ? plan.stores.map(kind => plan.stepsOf(kind).size) : []
    const ours = stores.reduce((sum, count) => sum + count, 0) * plan.batchesFor(pageBytes).length * plan.zeroCopy.length
    const peers = peerSteps(measured).size * ((only.has('loop') ? 1 : 0) + (only.has('fs') ? (direct ? 2 : 1) : 0) + (only.has('lmdb') ? 2 : 0))
    const limits = (only.has('limit') ? limitSteps(measured).size : 0) + (only.has('ring') ? ringSteps(measured).size : 0)
    return (ours + peers + limits) * (plan.rounds + 1) + (ours === 0 ? 0 : plan.stores.filter(({ layout }) => layout === 'segment').length)
  }

  async run(): Promise<BenchReport> {
    const { context, directory, plan, pageBytes } = this.options
    const folder = join(directory, `pages-${pageBytes}`)
    await mkdir(folder, { recursive: true, mode: 0o700 })
    await this.makePeers(folder)
    const kinds: readonly StoreKind[] = plan.only.has('hicache') ? plan.stores : []
    await withStores(context, plan, kinds, { directory: folder, arenaBytes: this.arenaBytes, capacity: plan.capacityFor(pageBytes) }, async stores => {
      for (const store of stores) await this.makeOurs(store)
      try {
        await this.measure()
      } finally {
        for (const peer of this.peers) await peer.close?.()
      }
    })
    return this.report
  }

  private async makePeers(folder: string): Promise<void> {
    const { plan, bench, direct, pageBytes } = this.options
    const { only, measured } = plan
    const { pages } = this
    const peerPages = plan.peerPagesFor(pageBytes)
    const inside = async (name: string): Promise<string> => {
      await mkdir(join(folder, name), { recursive: true, mode: 0o700 })
      return join(folder, name)
    }
    const add = (arm: BenchArm): void => { if (arm.steps.size > 0) this.peers.push(arm) }
    if (only.has('limit')) add(new DeviceLimitArm({ bench, directory: await inside('limit'), pageBytes, pages, queueDepth: limitQueueDepth(pageBytes), steps: limitSteps(measured) }))
    if (only.has('ring')) {
      const writesInFlight = plan.mixWrites(pageBytes, this.batches[0]!)
      add(new MixRingArm({ bench, directory: await inside('limit'), pageBytes, pages: plan.mixPages(pageBytes), writesInFlight, readsInFlight: plan.readsInFlight, steps: ringSteps(measured) }))
    }
    const steps = peerSteps(measured)
    if (only.has('loop')) add(new FileLoopArm({ bench, directory: await inside('loop'), pageBytes, pages: peerPages, threads: plan.threads ?? THREADS_DEFAULT, direct, steps }))
    const inFlight = Math.min(this.buffers, PEER_LANES_MAX)
    if (only.has('fs')) {
      const fsFolder = await inside('fs')
      if (direct) add(new FsPromisesArm({ directory: fsFolder, pageBytes, pages: peerPages, inFlight, direct: true, steps }))
      add(new FsPromisesArm({ directory: fsFolder, pageBytes, pages: peerPages, inFlight, direct: false, steps }))
    }
    if (only.has('lmdb')) for (const noSync of [true, false]) add(new LmdbArm({ directory: await inside('lmdb'), pageBytes, pages: peerPages, inFlight, noSync, steps }))
  }

  private async makeOurs(store: BenchStore): Promise<void> {
    const { plan, pageBytes, progress } = this.options
    const steps = plan.stepsOf(store.kind)
    if (steps.size === 0) return
    for (const zeroCopy of plan.zeroCopy) {
      const { buffers, bytes } = pageBuffers(store.cache, zeroCopy, this.buffers, pageBytes)
      if (zeroCopy === plan.zeroCopy[0] && store.capacity !== null) {
        progress.add(1, `${formatBytes(pageBytes)}: filling the store ${nameOf(store.kind)} once`)
        await fillStore(store, buffers, pageBytes, this.options.context.signal)
      }
      for (const batch of this.batches) {
        const name = `hicache-${nameOf(store.kind)}-${zeroCopy ? 'zero-copy' : 'copying'}-${batch}`
        const arm = new HiCacheArm({
          name, cache: store.cache, pageBytes, pages: this.pages, batch, inFlight: plan.inFlight, buffers, bytes, steps,
          recycles: store.capacity !== null, mix: { pages: plan.mixPages(pageBytes), writes: plan.mixWrites(pageBytes, batch), reads: plan.readsInFlight },
          // A lookup in the file layout opens the file: each page once is enough.
          lookups: store.kind.layout === 'file' ? Math.min(plan.lookups, this.pages) : plan.lookups,
        })
        this.ours.push({ arm, store, batch, zeroCopy })
      }
    }
  }

  private async measure(): Promise<void> {
    const { context, plan, pageBytes, progress, keep } = this.options
    const { runs, peers, lookups, leftOut } = this.report
    const arms = [...this.ours.map(({ arm }) => arm), ...this.peers]
    const rounds = new InterleavedRounds(arms)
    await rounds.run({
      rounds: plan.rounds, optional: new Set(this.peers), keep, signal: context.signal,
      onStep: (arm, op, round) => progress.add(1, `${formatBytes(pageBytes)} ${op} ${arm.name}${round === 0 ? ' (warming up)' : ''}`),
      onLeftOut: (arm, error) => {
        const reason = error instanceof Error ? error.message : String(error)
        leftOut.push({ name: arm.name, pageBytes, reason })
        progress.log(`${arm.name} is left out at ${formatBytes(pageBytes)}: ${reason}`)
      },
    })
    const peerOf = (name: string, op: BenchOp | null): ArmSummary | undefined => {
      const peer = this.peers.find(one => one.name === name)
      return peer === undefined || op === null ? undefined : rounds.summary(peer, op)
    }
    for (const op of STEPS) {
      for (const peer of this.peers) {
        const summary = rounds.summary(peer, op)
        // What only prepared a read is no figure; the limit is one also where it ran for the sake of set(), get() or single batches.
        if (summary === undefined || !(plan.measured.has(op) || peer.name === 'device-limit')) continue
        const limit = peerOf('device-limit', baseOf(op))
        peers.push({
          name: peer.name, op, pageBytes, ...figures(summary), flushedMibPerSecond: summary.flushes ? round1(summary.median(measures.flushedSpeed)) : null,
          mix: this.mixReport(summary, plan.mixWrites(pageBytes, this.batches[0]!)), ...ratios(summary, limit),
        })
      }
      if (!plan.measured.has(op)) continue
      for (const our of this.ours) {
        if (!plan.measuredOf(our.store.kind).has(op)) continue
        const summary = rounds.summary(our.arm, op)
        if (summary === undefined) continue
        if (op === 'lookup') {
          // The kind of memory has no part in it.
          if (our.zeroCopy === plan.zeroCopy[0]) lookups.push(this.lookupReport(our, summary))
          continue
        }
        const limit = op === 'mix' ? peerOf('cpp-ring', 'mix') : peerOf('device-limit', baseOf(op))
        const others = this.peers.map(({ name }) => peerOf(name, op === 'mix' ? 'mix' : baseOf(op))).filter(other => other !== undefined)
        runs.push(this.runReport(our, op, summary, limit, others))
      }
    }
  }

  private runReport({ store, batch, zeroCopy }: OurArm, op: BenchOp, summary: ArmSummary, limit: ArmSummary | undefined, others: readonly ArmSummary[]): RunReport {
    const { plan, pageBytes } = this.options
    const calls = summary.latency(sample => sample.callUs)
    const perCall = (value: number): number | null => Number.isNaN(value) ? null : value
    return {
      storageLayout: store.cache.storageLayout, engine: store.cache.selection.engine, op, pageBytes, batch, workers: store.kind.workers, zeroCopy,
      inFlight: op.startsWith('one-batch') ? 1 : plan.inFlight, checksum: READING_STEPS.includes(op) ? store.kind.checksum : 'on',
      ...figures(summary), maxUs: summary.latency().max, callP50Us: perCall(calls.p50), callP99Us: perCall(calls.p99),
      limitMibPerSecond: limit === undefined ? null : round1(limit.mibPerSecond), ...ratios(summary, limit),
      against: Object.fromEntries(others.map(other => [other.name, against(summary, other)])), mix: this.mixReport(summary, plan.mixWrites(pageBytes, batch)),
      longestCallbackMs: round3(summary.longestCallbackMs ?? Number.NaN), longestStallMs: round3(summary.longestStallMs ?? Number.NaN), peakRssBytes: summary.rssBytes ?? Number.NaN,
      arenaBytes: this.arenaBytes, capacityBytes: store.capacity, rounds: summary.rounds,
    }
  }

  private lookupReport({ store, batch }: OurArm, summary: ArmSummary): LookupReport {
    const calls = summary.latency(sample => sample.callUs)
    return {
      storageLayout: store.cache.storageLayout, engine: store.cache.selection.engine, pageBytes: this.options.pageBytes, workers: store.kind.workers, batch, pages: this.pages,
      lookupsPerSecond: Math.round(summary.median(sample => sample.lookups! / sample.seconds)),
      lookupsPerCpuSecond: Math.round(summary.median(sample => sample.lookups! / sample.cpuSeconds)),
      callP50Us: calls.p50, callP99Us: calls.p99, rounds: summary.rounds,
    }
  }

  private mixReport(summary: ArmSummary, writes: number): MixReport | null {
    if (summary.op !== 'mix') return null
    const { p50, p99 } = summary.latency(sample => sample.mix?.writeLatencyUs)
    return {
      writeBytesInFlight: writes * this.options.pageBytes, readsInFlight: this.options.plan.readsInFlight,
      readMibPerSecond: round1(summary.median(sample => sample.mix!.readBytes / MIB / sample.seconds)),
      writeMibPerSecond: round1(summary.median(sample => sample.mix!.writeBytes / MIB / sample.seconds)), writeP50Us: p50, writeP99Us: p99,
    }
  }
}

/** Writes as many pages as a store has room for, and a few more: from then on every write goes where another page was. Answers how many pages that were. */
export async function fillStore(store: BenchStore, buffers: readonly Source[], pageBytes: number, signal: AbortSignal): Promise<number> {
  const pages = Math.ceil(store.capacity! / pageBytes * FILL_FACTOR)
  const at = Math.min(buffers.length, Math.max(1, Math.floor(32 * MIB / pageBytes)))
  for (let start = 0; start < pages; start += at) {
    signal.throwIfAborted()
    const entries = buffers.slice(0, Math.min(at, pages - start)).map((buffer, index) => [createHash('sha256').update(`fill ${start + index}`).digest('hex'), buffer] as const)
    const failed = (await store.cache.write(entries)).find(outcome => !outcome.ok)
    if (failed !== undefined && !failed.ok) throw failed.error
  }
  return pages
}
