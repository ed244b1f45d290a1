import type { NativeBench, ObjectCredentials, ObjectEndpoint } from '../../transfer/native-binding.js'
import type { OpenOptions } from '../../index.js'
import type { CommandContext } from '../command.js'
import { formatBytes } from '../format.js'
import type { Progress } from '../progress.js'
import { AwsSdkArm } from './aws-sdk-arm.js'
import type { ArmSummary } from './arm-summary.js'
import { baseOf, ownSteps, peerSteps, STEPS, type BenchArm, type BenchOp } from './bench-arm.js'
import { round1, round3 } from './bench-report.js'
import { arenaBytesFor, pageBuffers } from './bench-stores.js'
import { CurlLoopArm } from './curl-loop-arm.js'
import { HiCacheArm } from './hicache-arm.js'
import { InterleavedRounds } from './interleaved-rounds.js'
import type { ObjectPlan } from './object-plan.js'
import type { ObjectPeerOptions } from './object-peer.js'
import type { ObjectBenchReport } from './object-report.js'
import { against, figures, ratios } from './summaries.js'
import { UndiciArm } from './undici-arm.js'
import type { WorkPrefix } from './work-prefix.js'

export interface ObjectBenchOptions {
  readonly context: CommandContext
  readonly plan: ObjectPlan
  readonly bench: NativeBench
  readonly endpoint: ObjectEndpoint
  /** For clients in JavaScript; null: they are left out. */
  readonly credentials: ObjectCredentials | null
  /** The authorities of endpoint.caBundle, for clients in JavaScript. */
  readonly ca: Buffer | undefined
  readonly place: WorkPrefix
  readonly pageBytes: number
  readonly progress: Progress
}

interface OurArm { readonly arm: BenchArm; readonly zeroCopy: boolean }

/** All contestants on an object store, with pages of one size. */
export class ObjectBench {
  private readonly pages: number
  private readonly arenaBytes: number
  private readonly peers: BenchArm[] = []
  private readonly ours: OurArm[] = []
  private readonly report: ObjectBenchReport = { runs: [], peers: [], leftOut: [] }

  constructor(private readonly options: ObjectBenchOptions) {
    const { plan, pageBytes } = options
    this.pages = plan.pagesFor(pageBytes)
    this.arenaBytes = arenaBytesFor(plan.pagesAtOnce, pageBytes)
  }

  /** Measurements that run() will make for one page size, those of the unmeasured round included. */
  static steps({ only, measured, zeroCopy, rounds }: ObjectPlan): number {
    const peers = (['loop', 'undici', 'aws-sdk'] as const).filter(name => only.has(name)).length
    return ((only.has('hicache') ? ownSteps(measured, false).size * zeroCopy.length : 0) + peers * objectPeerSteps(measured).size) * (rounds + 1)
  }

  async run(): Promise<ObjectBenchReport> {
    const { context, plan, place } = this.options
    this.makePeers()
    try {
      if (!plan.only.has('hicache')) {
        await this.measure()
        return this.report
      }
      const opened: Partial<OpenOptions> = {
        objectPrefix: `${place.prefix}hicache/`, modelName: 'bench', arenaBytes: this.arenaBytes, timeoutMs: 120_000, ...(plan.workers === null ? {} : { workers: plan.workers }),
      }
      await context.withCache(async cache => {
        for (const zeroCopy of plan.zeroCopy) {
          const { buffers, bytes } = pageBuffers(cache, zeroCopy, plan.pagesAtOnce, this.options.pageBytes)
          const arm = new HiCacheArm({
            name: `hicache-object-${zeroCopy ? 'zero-copy' : 'copying'}`, cache, pageBytes: this.options.pageBytes, pages: this.pages, batch: plan.batch, inFlight: plan.inFlight, buffers, bytes,
            recycles: false, removeAll: async () => await place.removeBelow('hicache/'), mix: { pages: 0, writes: 0, reads: 0 }, lookups: 0, watches: false,
            steps: ownSteps(plan.measured, false),
          })
          this.ours.push({ arm, zeroCopy })
        }
        await this.measure({ engine: cache.selection.engine, workers: cache.stats().workers ?? Number.NaN })
      }, opened)
    } finally {
      for (const peer of this.peers) await peer.close?.()
    }
    return this.report
  }

  private makePeers(): void {
    const { plan, bench, endpoint, credentials, ca, place, pageBytes } = this.options
    const { only, measured } = plan
    const common = (name: string): Omit<ObjectPeerOptions, 'credentials'> => ({
      endpoint, prefix: `${place.prefix}${name}/`, pageBytes, pages: this.pages, concurrency: plan.pagesAtOnce, steps: objectPeerSteps(measured),
      removeAll: async () => await place.removeBelow(`${name}/`),
    })
    if (only.has('loop')) this.peers.push(new CurlLoopArm({ bench, ...common('loop') }))
    if (credentials === null) {
      const reason = 'it needs keys of the configuration or of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: those of a credential chain are kept by native code'
      for (const name of ['undici', 'aws-sdk'] as const) if (only.has(name)) this.report.leftOut.push({ name, pageBytes, reason })
      return
    }
    if (only.has('undici')) this.peers.push(new UndiciArm({ ...common('undici'), credentials }, ca))
    if (only.has('aws-sdk')) this.peers.push(new AwsSdkArm({ ...common('aws-sdk'), credentials }, ca))
  }

  private async measure(store = { engine: '', workers: Number.NaN }): Promise<void> {
    const { context, plan, pageBytes, progress } = this.options
    const { runs, peers, leftOut } = this.report
    const rounds = new InterleavedRounds([...this.ours.map(({ arm }) => arm), ...this.peers])
    await rounds.run({
      rounds: plan.rounds, optional: new Set(this.peers), signal: context.signal,
      onStep: (arm, op, round) => progress.add(1, `${formatBytes(pageBytes)} ${op} ${arm.name}${round === 0 ? ' (warming up)' : ''}`),
      onLeftOut: (arm, error) => {
        const reason = error instanceof Error ? error.message : String(error)
        leftOut.push({ name: arm.name, pageBytes, reason })
        progress.log(`${arm.name} is left out at ${formatBytes(pageBytes)}: ${reason}`)
      },
    })
    for (const op of STEPS) {
      if (!plan.measured.has(op)) continue
      const base = baseOf(op)!
      const others = this.peers.map(peer => rounds.summary(peer, base)).filter(summary => summary !== undefined)
      const loop = others.find(({ name }) => name === 'cpp-curl')
      const best = others.filter(other => other !== loop).reduce<ArmSummary | undefined>((a, b) => a === undefined || b.mibPerSecond > a.mibPerSecond ? b : a, undefined)
      for (const summary of others) {
        if (peers.some(({ name, op: told }) => name === summary.name && told === base)) continue
        peers.push({ name: summary.name, op: base, pageBytes, ...figures(summary), flushedMibPerSecond: null, mix: null, ...ratios(summary, loop) })
      }
      for (const { arm, zeroCopy } of this.ours) {
        const summary = rounds.summary(arm, op)
        if (summary === undefined) continue
        const calls = summary.latency(sample => sample.callUs)
        const toBest = best === undefined ? null : summary.ratioTo(best)
        runs.push({
          storageLayout: 'object', engine: store.engine, op, pageBytes, batch: plan.batch, workers: store.workers, zeroCopy, inFlight: plan.inFlight,
          pagesAtOnce: plan.pagesAtOnce, checksum: 'on', ...figures(summary), maxUs: summary.latency().max, callP50Us: calls.p50, callP99Us: calls.p99,
          limitMibPerSecond: loop === undefined ? null : round1(loop.mibPerSecond), ...ratios(summary, loop),
          bestPeer: best?.name ?? null, ratioToBestPeer: toBest === null ? null : round3(toBest.median),
          ratioToBestPeerMin: toBest === null ? null : round3(toBest.min), ratioToBestPeerMax: toBest === null ? null : round3(toBest.max),
          against: Object.fromEntries(others.map(other => [other.name, against(summary, other)])), mix: null,
          longestCallbackMs: Number.NaN, longestStallMs: Number.NaN, peakRssBytes: summary.rssBytes ?? Number.NaN,
          arenaBytes: this.arenaBytes, capacityBytes: null, rounds: summary.rounds,
        })
      }
    }
  }
}

/** Others write and read pages; beside set() and get() stands what these come down to. */
function objectPeerSteps(measured: ReadonlySet<BenchOp>): ReadonlySet<BenchOp> {
  return peerSteps(new Set([...measured].map(op => baseOf(op)!)))
}
