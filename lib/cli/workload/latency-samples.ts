export interface LatencySummary { readonly p50: number; readonly p99: number; readonly max: number }

/** Durations in microseconds, kept exactly (8 bytes each), so that percentiles are true ones and not a histogram's guess. */
export class LatencySamples {
  private values = new Float64Array(1024)
  private length = 0

  get count(): number { return this.length }

  add(microseconds: number): void {
    this.reserve(1)
    this.values[this.length++] = microseconds
  }

  /** The same duration for `times` pages that were waited for together. */
  addRepeated(microseconds: number, times: number): void {
    this.reserve(times)
    this.values.fill(microseconds, this.length, this.length + times)
    this.length += times
  }

  addAll(microseconds: Float64Array): void {
    this.reserve(microseconds.length)
    this.values.set(microseconds, this.length)
    this.length += microseconds.length
  }

  /** Nearest rank: the smallest sample that at least `share` (0 to 1) of all samples do not exceed. NaN without samples. */
  percentile(share: number): number { return LatencySamples.rank(this.sorted(), share) }

  /** All NaN without samples; rounded to a tenth of a microsecond. */
  summary(): LatencySummary {
    const sorted = this.sorted()
    const tenth = (value: number): number => Math.round(value * 10) / 10
    return { p50: tenth(LatencySamples.rank(sorted, 0.5)), p99: tenth(LatencySamples.rank(sorted, 0.99)), max: tenth(LatencySamples.rank(sorted, 1)) }
  }

  private static rank(sorted: Float64Array, share: number): number {
    if (sorted.length === 0) return Number.NaN
    return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]!
  }

  private sorted(): Float64Array { return this.values.slice(0, this.length).sort() }

  private reserve(more: number): void {
    if (this.length + more <= this.values.length) return
    const larger = new Float64Array(Math.max(this.values.length * 2, this.length + more))
    larger.set(this.values.subarray(0, this.length))
    this.values = larger
  }
}
