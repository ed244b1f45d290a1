import { measures, type ArmSummary } from './arm-summary.js'
import { round1, round3, type Against } from './bench-report.js'

/** Medians of the rounds, and percentiles over all pages. */
export function figures(summary: ArmSummary): { mibPerSecond: number; cpuSecondsPerGib: number; p50Us: number; p99Us: number } {
  const { p50, p99 } = summary.latency()
  return { mibPerSecond: round1(summary.mibPerSecond), cpuSecondsPerGib: round3(summary.cpuSecondsPerGib), p50Us: p50, p99Us: p99 }
}

/** Of its rate to the limit's. */
export function ratios(summary: ArmSummary, limit: ArmSummary | undefined): { ratioToLimit: number | null; ratioMin: number | null; ratioMax: number | null } {
  if (limit === undefined) return { ratioToLimit: null, ratioMin: null, ratioMax: null }
  const { median, min, max } = summary.ratioTo(limit)
  return { ratioToLimit: round3(median), ratioMin: round3(min), ratioMax: round3(max) }
}

/** Of everything to another contestant's. */
export function against(summary: ArmSummary, other: ArmSummary): Against {
  const { median, min, max } = summary.ratioTo(other)
  const by = (measure: typeof measures.speed): number => round3(summary.ratioTo(other, measure).median)
  return {
    speed: round3(median), speedMin: round3(min), speedMax: round3(max),
    speedFlushed: other.flushes ? round3(summary.ratioTo(other, measures.speed, measures.flushedSpeed).median) : null,
    cpu: by(measures.cpu), p50: by(measures.p50), p99: by(measures.p99),
  }
}
