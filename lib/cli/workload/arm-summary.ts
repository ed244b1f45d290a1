import type { ArmSample, BenchOp } from './bench-arm.js'
import { LatencySamples } from './latency-samples.js'

const MIB = 2 ** 20
const GIB = 2 ** 30

export interface Ratio { readonly median: number; readonly min: number; readonly max: number }

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
  get mibPerSecond(): number { return median(this.rates()) }
  get cpuSecondsPerGib(): number { return median(this.samples.map(sample => sample.cpuSeconds / (sample.bytes / GIB))) }

  /** Percentiles over the pages of all rounds, in microseconds. */
  latency(): { p50: number; p99: number; max: number } {
    const all = new LatencySamples()
    for (const sample of this.samples) all.addAll(sample.latencyUs)
    return all.summary()
  }

  /** The largest over all rounds; undefined where the arm does not say. */
  get longestCallbackMs(): number | undefined { return largest(this.samples.map(sample => sample.longestCallbackMs)) }
  get longestStallMs(): number | undefined { return largest(this.samples.map(sample => sample.longestStallMs)) }
  get rssBytes(): number | undefined { return largest(this.samples.map(sample => sample.rssBytes)) }

  /** This arm's rate over the other's, round by round: both ran within seconds of each other, so a device that changes its mind between rounds cancels out. */
  ratioTo(other: ArmSummary): Ratio {
    const others = other.rates()
    const ratios = this.rates().map((rate, round) => rate / others[round]!)
    return { median: median(ratios), min: Math.min(...ratios), max: Math.max(...ratios) }
  }

  private rates(): number[] { return this.samples.map(sample => sample.bytes / MIB / sample.seconds) }
}

function largest(values: readonly (number | undefined)[]): number | undefined {
  const known = values.filter(value => value !== undefined)
  return known.length === 0 ? undefined : Math.max(...known)
}
