import type { ArmSample, BenchOp } from './bench-arm.js'
import { LatencySamples, type LatencySummary } from './latency-samples.js'

const MIB = 2 ** 20
const GIB = 2 ** 30

export interface Ratio { readonly median: number; readonly min: number; readonly max: number }

/** What two arms can be compared by, round by round. */
export const measures = {
  /** Bytes a second. */
  speed: (sample: ArmSample) => sample.bytes / MIB / sample.seconds,
  /** The same until they have left the page cache. */
  flushedSpeed: (sample: ArmSample) => sample.bytes / MIB / (sample.seconds + (sample.flushSeconds ?? 0)),
  cpu: (sample: ArmSample) => sample.cpuSeconds / (sample.bytes / GIB),
  p50: (sample: ArmSample) => percentile(sample.latencyUs, 0.5),
  p99: (sample: ArmSample) => percentile(sample.latencyUs, 0.99),
} as const

/** The middle value; of an even count, the mean of the two in the middle. NaN of nothing. */
export function median(values: readonly number[]): number {
  if (values.length === 0) return Number.NaN
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** The rounds of one arm and one operation, and the medians over them. */
export class ArmSummary {
  private readonly samples: ArmSample[] = []

  constructor(readonly name: string, readonly op: BenchOp) {}

  add(sample: ArmSample): void { this.samples.push(sample) }

  get rounds(): number { return this.samples.length }
  get mibPerSecond(): number { return this.median(measures.speed) }
  get cpuSecondsPerGib(): number { return this.median(measures.cpu) }

  /** Of whatever a sample says. */
  median(of: (sample: ArmSample) => number): number { return median(this.samples.map(of)) }

  /** Percentiles over the pages of all rounds, in microseconds. */
  latency(of: (sample: ArmSample) => Float64Array | undefined = sample => sample.latencyUs): LatencySummary {
    const all = new LatencySamples()
    for (const sample of this.samples) all.addAll(of(sample) ?? new Float64Array(0))
    return all.summary()
  }

  /** The largest over all rounds; undefined where the arm does not say. */
  get longestCallbackMs(): number | undefined { return largest(this.samples.map(sample => sample.longestCallbackMs)) }
  get longestStallMs(): number | undefined { return largest(this.samples.map(sample => sample.longestStallMs)) }
  get rssBytes(): number | undefined { return largest(this.samples.map(sample => sample.rssBytes)) }
  /** Did its bytes go through the page cache? */
  get flushes(): boolean { return this.samples.some(sample => sample.flushSeconds !== undefined) }

  /** This arm's figure over the other's, round by round: both ran within seconds of each other, so a device that changes its mind between rounds cancels out. */
  ratioTo(other: ArmSummary, by: (sample: ArmSample) => number = measures.speed, otherBy = by): Ratio {
    const ratios = this.samples.map((sample, round) => by(sample) / otherBy(other.samples[round]!))
    return { median: median(ratios), min: Math.min(...ratios), max: Math.max(...ratios) }
  }
}

function largest(values: readonly (number | undefined)[]): number | undefined {
  const known = values.filter(value => value !== undefined)
  return known.length === 0 ? undefined : Math.max(...known)
}

function percentile(values: Float64Array, share: number): number {
  const samples = new LatencySamples()
  samples.addAll(values)
  return samples.percentile(share)
}
