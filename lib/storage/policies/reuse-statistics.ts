/** Bins of ages, four for each doubling: enough for 2^28 references. What is older is in the last one. */
export const AGE_BINS = 108
/** Runs that the expectation taken over from the wider class weighs as much as: pages of a run live and die together. */
const PRIOR_RUNS = 3
const PRIOR_LIFETIMES_MIN = 16
/**
 * What is expected of the youngest bin as long as nothing is known. An older bin is expected to be like the one before it: equal
 * chances for each doubling of the age are the order of recency, and an age nobody has seen yet is no better than those seen.
 */
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
  private readonly groupAtRisk: Float64Array
  private readonly worths: Float64Array
  private readonly kindsOf: number[][] = []
  /** Expected of all classes in row 0, and of each group in the rows behind it. */
  private readonly expected: Float64Array
  /** Lifetimes that an expectation weighs as much as. */
  private prior = PRIOR_LIFETIMES_MIN
  private readonly hazard = new Float64Array(AGE_BINS)
  private readonly widths = Float64Array.from({ length: AGE_BINS }, (_, bin) => binStart(bin + 1) - binStart(bin))

  /** `groupOf`: for each class the group of like ones whose experience counts where its own is small. Groups are numbered from 0. */
  constructor(private readonly groupOf: readonly number[]) {
    const classes = groupOf.length
    groupOf.forEach((group, kind) => (this.kindsOf[group] ??= []).push(kind))
    this.expected = new Float64Array((this.kindsOf.length + 1) * AGE_BINS)
    this.groupAtRisk = new Float64Array(this.kindsOf.length)
    this.reuses = new Float64Array(classes * AGE_BINS)
    this.losses = new Float64Array(classes * AGE_BINS)
    this.atRisk = new Float64Array(classes * AGE_BINS)
    this.worths = new Float64Array(classes * AGE_BINS)
  }

  reused(kind: number, age: number): void { this.reuses[kind * AGE_BINS + ageBin(age)]!++ }

  lost(kind: number, age: number): void { this.losses[kind * AGE_BINS + ageBin(age)]!++ }

  /** Expected uses for each reference that a page of this class is kept, at an age of this bin. */
  worth(kind: number, bin: number): number { return this.worths[kind * AGE_BINS + bin]! }

  /** Forgets a part of what was seen: `share` is what stays. */
  fade(share: number): void {
    for (let at = 0; at < this.reuses.length; at++) {
      this.reuses[at]! *= share
      this.losses[at]! *= share
    }
  }

  /**
   * Works out the worths. `alive` has the lifetimes that go on, by class and bin of their age; ages between `youngest` and
   * `oldest` are asked about. `runLength`: how many pages come at once, on average.
   */
  learn(alive: Float64Array, youngest: number, oldest: number, runLength: number): void {
    this.prior = Math.max(PRIOR_LIFETIMES_MIN, PRIOR_RUNS * runLength)
    const from = ageBin(youngest)
    const to = ageBin(oldest)
    this.countAtRisk(alive)
    this.sumUp(to)
    for (let kind = 0; kind < this.groupOf.length; kind++) {
      const row = kind * AGE_BINS
      // A class without pages is not asked about.
      if (this.atRisk[row] === 0) continue
      const group = (this.groupOf[kind]! + 1) * AGE_BINS
      for (let bin = from; bin <= to; bin++) {
        const reuses = this.reuses[row + bin]! + this.prior * this.expected[group + bin]!
        this.hazard[bin] = Math.min(HAZARD_MAX, reuses / (this.atRisk[row + bin]! + this.prior))
      }
      for (let bin = from; bin <= to; bin++) this.worths[row + bin] = this.worthFrom(bin, to)
      this.worths.fill(this.worths[row + from]!, row, row + from)
      this.worths.fill(this.worths[row + to]!, row + to, row + AGE_BINS)
    }
  }

  private countAtRisk(alive: Float64Array): void {
    for (let kind = 0; kind < this.groupOf.length; kind++) {
      let sum = 0
      for (let at = (kind + 1) * AGE_BINS - 1; at >= kind * AGE_BINS; at--) {
        sum += this.reuses[at]! + this.losses[at]! + alive[at]!
        this.atRisk[at] = sum
      }
    }
  }

  /** What to expect of any page, and of one of each group: what was seen there, and where that is little, what holds for any. */
  private sumUp(to: number): void {
    const { expected, prior, reuses, atRisk } = this
    let before = PRIOR_HAZARD
    for (let bin = 0; bin <= to; bin++) {
      let allReuses = prior * before
      let allAtRisk = prior
      for (let group = 0; group < this.kindsOf.length; group++) {
        let groupReuses = 0
        let groupAtRisk = 0
        for (const kind of this.kindsOf[group]!) {
          groupReuses += reuses[kind * AGE_BINS + bin]!
          groupAtRisk += atRisk[kind * AGE_BINS + bin]!
        }
        allReuses += groupReuses
        allAtRisk += groupAtRisk
        expected[(group + 1) * AGE_BINS + bin] = groupReuses
        this.groupAtRisk[group] = groupAtRisk
      }
      before = Math.min(HAZARD_MAX, allReuses / allAtRisk)
      expected[bin] = before
      for (let group = 0; group < this.kindsOf.length; group++) {
        const at = (group + 1) * AGE_BINS + bin
        expected[at] = Math.min(HAZARD_MAX, (expected[at]! + prior * before) / (this.groupAtRisk[group]! + prior))
      }
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
