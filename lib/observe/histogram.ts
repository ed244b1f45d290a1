/** A histogram with fixed upper bounds in typed arrays: observe() allocates nothing. */
export class Histogram {
  /** Upper bounds, ascending; one more bucket counts what is above the last. */
  readonly bounds: Float64Array
  readonly counts: Float64Array
  sum = 0
  count = 0

  constructor(bounds: readonly number[]) {
    this.bounds = Float64Array.from(bounds)
    this.counts = new Float64Array(bounds.length + 1)
  }

  observe(value: number): void {
    const { bounds } = this
    let low = 0
    let high = bounds.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (value <= bounds[middle]!) high = middle
      else low = middle + 1
    }
    this.counts[low]!++
    this.sum += value
    this.count++
  }

  /** An estimate by interpolation inside the bucket (as PromQL's histogram_quantile); 0 without observations, the last bound for what is above it. */
  quantile(q: number): number {
    if (this.count === 0) return 0
    const rank = q * this.count
    let before = 0
    for (let bucket = 0; bucket < this.bounds.length; bucket++) {
      const here = this.counts[bucket]!
      if (here > 0 && before + here >= rank) {
        const lower = bucket === 0 ? 0 : this.bounds[bucket - 1]!
        return lower + (this.bounds[bucket]! - lower) * ((rank - before) / here)
      }
      before += here
    }
    return this.bounds[this.bounds.length - 1]!
  }
}
