/** Bins of ages, four for each doubling: enough for 2^24 references. */
export const AGE_BINS = 92
/** Lifetimes that the expectation taken over from the wider class weighs as much as. */
const PRIOR_LIFETIMES = 16
/** What is expected of a bin of ages that nothing is known of: equal for each doubling of the age, which is the order of recency. */
const PRIOR_HAZARD = 0.05
const HAZARD_MAX = 0.95

/** The bin of an age in references. */
export function ageBin(age: number): number {
  if (age < 4) return age < 0 ? 0 : age | 0
  const exponent = 31 - Math.clz32(age)
  return Math.min(AGE_BINS - 1, (exponent - 1) * 4 + (age >>> exponent - 2 & 3))
}

/** The first age of a bin. */
function binStart(bin: number): number { return bin < 4 ? bin : (4 + (bin & 3)) * 2 ** ((bin >> 2) - 1) }

/**
 * How likely a page is used again, learnt from pages of its class at each age, and what it is worth to keep it: the most uses
 * that can be expected for each reference it stays, over all times that one could keep it from now on.
 *
 * A lifetime begins with a use and ends with the next one, or is lost sight of. Both those that ended and those that go on say
 * at which ages a page was at risk (as Kaplan and Meier count), so what was given up early does not bend the estimate.
 */
export class ReuseStatistics {
  private readonly reuses: Float64Array
  private readonly losses: Float64Array
  /** At risk at the age or older, filled in by learn(). */
  private readonly atRisk: Float64Array
  private readonly worths: Float64Array
  private readonly commonHazard = new Float64Array(AGE_BINS)
  private readonly hazard = new Float64Array(AGE_BINS)
  private readonly widths = Float64Array.from({ length: AGE_BINS }, (_, bin) => binStart(bin + 1) - binStart(bin))

  constructor(private readonly classes: number) {
    this.reuses = new Float64Array(classes * AGE_BINS)
    this.losses = new Float64Array(classes * AGE_BINS)
    this.atRisk = new Float64Array(classes * AGE_BINS)
    this.worths = new Float64Array(classes * AGE_BINS)
  }

  reused(kind: number, age: number): void { this.reuses[kind * AGE_BINS + ageBin(age)]!++ }

  lost(kind: number, age: number): void { this.losses[kind * AGE_BINS + ageBin(age)]!++ }

  /** Expected uses for each reference that a page of this class and age is kept. */
  worth(kind: number, age: number): number { return this.worths[kind * AGE_BINS + ageBin(age)]! }

  /** Forgets a part of what was seen: `share` is what stays. */
  fade(share: number): void {
    for (let at = 0; at < this.reuses.length; at++) {
      this.reuses[at]! *= share
      this.losses[at]! *= share
    }
  }

  /**
   * Works out the worths. `alive` has the lifetimes that go on, by class and bin of their age; ages between `youngest` and
   * `oldest` are asked about.
   */
  learn(alive: Float64Array, youngest: number, oldest: number): void {
    const from = ageBin(youngest)
    const to = ageBin(oldest)
    this.countAtRisk(alive)
    this.expectCommon()
    for (let kind = 0; kind < this.classes; kind++) {
      const row = kind * AGE_BINS
      for (let bin = from; bin <= to; bin++) {
        const expected = this.reuses[row + bin]! + PRIOR_LIFETIMES * this.commonHazard[bin]!
        this.hazard[bin] = Math.min(HAZARD_MAX, expected / (this.atRisk[row + bin]! + PRIOR_LIFETIMES))
      }
      for (let bin = from; bin <= to; bin++) this.worths[row + bin] = this.worthFrom(bin, to)
      this.worths.fill(this.worths[row + from]!, row, row + from)
      this.worths.fill(this.worths[row + to]!, row + to, row + AGE_BINS)
    }
  }

  private countAtRisk(alive: Float64Array): void {
    for (let kind = 0; kind < this.classes; kind++) {
      let sum = 0
      for (let at = (kind + 1) * AGE_BINS - 1; at >= kind * AGE_BINS; at--) {
        sum += this.reuses[at]! + this.losses[at]! + alive[at]!
        this.atRisk[at] = sum
      }
    }
  }

  private expectCommon(): void {
    for (let bin = 0; bin < AGE_BINS; bin++) {
      let reuses = PRIOR_LIFETIMES * PRIOR_HAZARD
      let atRisk = PRIOR_LIFETIMES
      for (let at = bin; at < this.reuses.length; at += AGE_BINS) {
        reuses += this.reuses[at]!
        atRisk += this.atRisk[at]!
      }
      this.commonHazard[bin] = Math.min(HAZARD_MAX, reuses / atRisk)
    }
  }

  private worthFrom(bin: number, to: number): number {
    let best = 0
    let alive = 1
    let uses = 0
    let kept = 0
    for (let at = bin; at <= to && alive > 0.02; at++) {
      const ends = alive * this.hazard[at]!
      uses += ends
      kept += (alive - ends / 2) * this.widths[at]!
      alive -= ends
      best = Math.max(best, uses / kept)
    }
    return best
  }
}
