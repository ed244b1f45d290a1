import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { NativeBench } from '../../transfer/native-binding.js'
import type { CommandContext } from '../command.js'
import { formatBytes, formatCount } from '../format.js'
import type { Progress } from '../progress.js'
import { ArmSummary, measures } from './arm-summary.js'
import type { BenchPlan } from './bench-plan.js'
import { round1, round3, type ChurnReport } from './bench-report.js'
import { arenaBytesFor, nameOf, pageBuffers, withStores, type BenchStore } from './bench-stores.js'
import { DeviceLimitArm } from './device-limit-arm.js'
import { HiCacheArm } from './hicache-arm.js'
import { fillStore, limitQueueDepth } from './page-size-bench.js'

export interface ChurnBenchOptions {
  readonly context: CommandContext
  readonly plan: BenchPlan
  readonly bench: NativeBench
  readonly directory: string
  readonly pageBytes: number
  readonly progress: Progress
}

interface Pass { readonly ours: ArmSummary; readonly limit: ArmSummary }

/** Does a store get slower by giving pages up? One pass over a full store, many evictions, one more pass. */
export class ChurnBench {
  private evictions = 0
  private round = 0

  constructor(private readonly options: ChurnBenchOptions) {}

  /** What run() reports to the progress display, as far as it can be told before. */
  static steps(plan: BenchPlan): number { return plan.churnStores.length * (2 * (plan.rounds + 1) + 1) }

  async run(): Promise<ChurnReport[]> {
    const { context, plan, directory, pageBytes } = this.options
    const folder = join(directory, `churn-${pageBytes}`)
    await mkdir(join(folder, 'limit'), { recursive: true, mode: 0o700 })
    const reports: ChurnReport[] = []
    const batch = plan.batchesFor(pageBytes)[0]!
    const count = batch * plan.inFlight
    for (const kind of plan.churnStores) {
      const opening = { directory: folder, arenaBytes: arenaBytesFor(count, pageBytes), capacity: plan.churnCapacity(pageBytes) }
      reports.push(await withStores(context, plan, [kind], opening, async ([store]) => await this.wear(store!, folder, batch, count)))
    }
    return reports
  }

  private async wear(store: BenchStore, folder: string, batch: number, count: number): Promise<ChurnReport> {
    const { plan, bench, pageBytes, progress, context } = this.options
    const zeroCopy = plan.zeroCopy[0]!
    const pages = plan.pagesFor(pageBytes)
    const label = `${formatBytes(pageBytes)} churn ${nameOf(store.kind)}`
    const { buffers, bytes } = pageBuffers(store.cache, zeroCopy, count, pageBytes)
    const steps = new Set(['write'] as const)
    const arm = new HiCacheArm({
      name: `churn-${nameOf(store.kind)}`, cache: store.cache, pageBytes, pages, batch, inFlight: plan.inFlight, buffers, bytes, steps, recycles: true, mix: { pages: 1, writes: 0, reads: 1 }, lookups: 1,
    })
    const limit = plan.only.has('limit') ? new DeviceLimitArm({ bench, directory: join(folder, 'limit'), pageBytes, pages, queueDepth: limitQueueDepth(pageBytes), steps }) : null

    progress.add(1, `${label}: filling the store once`)
    this.evictions = 0
    await fillStore(store, buffers, pageBytes, context.signal)
    const write = async (): Promise<void> => {
      context.signal.throwIfAborted()
      await arm.run('write', ++this.round)
      this.evictions += pages
    }
    const pass = async (which: string): Promise<Pass> => {
      const summaries = { ours: new ArmSummary(arm.name, 'write'), limit: new ArmSummary('device-limit', 'write') }
      for (let round = 0; round <= plan.rounds; round++) {
        context.signal.throwIfAborted()
        progress.add(1, `${label}: ${which} pass`)
        const theirs = await limit?.run('write')
        const sample = await arm.run('write', ++this.round)
        this.evictions += pages
        if (round === 0) continue
        summaries.ours.add(sample)
        if (theirs !== undefined) summaries.limit.add(theirs)
      }
      return summaries
    }
    const first = await pass('first')
    while (this.evictions < plan.evictions) {
      progress.add(0, `${label}: ${formatCount(this.evictions)} of ${formatCount(plan.evictions)} evictions`)
      await write()
    }
    const evictions = this.evictions
    const last = await pass('last')
    const toLimit = ({ ours, limit: device }: Pass): number | null => limit === null ? null : ours.ratioTo(device).median
    const firstToLimit = toLimit(first)
    const lastToLimit = toLimit(last)
    return {
      storageLayout: store.cache.storageLayout, engine: store.cache.selection.engine, pageBytes, workers: store.kind.workers, zeroCopy, capacityBytes: store.capacity!, evictions,
      firstMibPerSecond: round1(first.ours.mibPerSecond), lastMibPerSecond: round1(last.ours.mibPerSecond), ratio: round3(last.ours.median(measures.speed) / first.ours.median(measures.speed)),
      ratioOfLimitRatios: firstToLimit === null || lastToLimit === null ? null : round3(lastToLimit / firstToLimit),
      firstRatioToLimit: firstToLimit === null ? null : round3(firstToLimit), lastRatioToLimit: lastToLimit === null ? null : round3(lastToLimit), rounds: plan.rounds,
    }
  }
}
