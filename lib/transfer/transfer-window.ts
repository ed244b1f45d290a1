const MIB = 1024 * 1024

/** The least window: about one batch (128 pages of 64 KiB), so that a batch does not wait for the half of itself. */
export const WINDOW_BYTES_MIN = 8 * MIB
/** And never less than the device moves in this time, which is what a batch's answer and the next batch take on a busy machine: noise must not make the device run dry. */
export const WINDOW_MS_MIN = 24
/** Eight such batches. */
export const WINDOW_BYTES_START = 64 * MIB
/** The cap. Ten times what a fast NVMe drive needs; more only makes reads wait. */
export const WINDOW_BYTES_MAX = 96 * MIB

/** How much larger or smaller a size on trial is. */
const STEP = 1.5
/** A larger window stays when it moves this much more than the better of two measurements of the present one. */
const GAIN_MIN = 1.05
/** A smaller one stays when it moves at least this much of the worse of the two. */
const LOSS_MAX = 0.97
/** What is measured at a time: so many windows and batches, and no less than a few ticks of any clock. */
const EPOCH_WINDOWS = 8
const EPOCH_BATCHES = 16
const EPOCH_MS = 20
/** Measurements between two trials, once trials change nothing any more: trials cost latency or throughput while they last. */
const REST_EPOCHS_MAX = 64
/** The device has become another when its throughput changes this much by itself. */
const CHANGE = 1.3

/**
 * How many bytes may be in flight at once: as few as carry the throughput that more would not raise. Beyond that point more bytes in flight only wait longer, and all else on the
 * device with them.
 *
 * It tries sizes: a measurement of the present size, one of a larger or smaller size, one of the present size again. A larger one that moves clearly more stays, a smaller one that moves as much
 * stays. Only throughput is measured, as latency is bytes in flight by throughput. Times with less work than the window would take say nothing and are left out.
 */
export class TransferWindow {
  readonly #floor: number
  readonly #cap: number
  /** The size that was found last. */
  #found: number
  /** The size that is tried now. */
  #trial = 0
  #phase: 'resting' | 'trying' | 'comparing' = 'resting'
  #grow = true
  #rejected = 0
  #rest = 0
  #restLeft = 0
  /** Bytes a millisecond of the found size before a trial, and of the trial. */
  #before = 0
  #tried = 0
  #limited = false
  /** Bytes that ended since something waited for the window. */
  #loose = 0
  /** Bytes that were under way under another size, and are not measured. */
  #settling: number
  #epochBytes = 0
  #epochBatches = 0
  #epochStart = 0

  constructor({ start = WINDOW_BYTES_START, floor = WINDOW_BYTES_MIN, cap = WINDOW_BYTES_MAX }: { start?: number; floor?: number; cap?: number } = {}) {
    this.#cap = Math.max(1, Math.floor(cap))
    this.#floor = Math.min(floor, this.#cap)
    this.#found = Math.min(Math.max(start, this.#floor), this.#cap)
    this.#settling = this.#found
  }

  /** Bytes that may be in flight now. */
  get bytes(): number { return this.#phase === 'trying' ? this.#trial : this.#found }

  /** Something waits that would go if the window were larger. To be said again after every ended(). */
  held(): void { this.#limited = true }

  /** A batch of `bytes` ended at `now` (milliseconds). */
  ended(bytes: number, now: number): void {
    this.#loose = this.#limited ? 0 : this.#loose + bytes
    this.#limited = false
    if (this.#loose >= this.bytes) {
      // A whole window without a queue behind it: it was not what set the pace. (Batches that end together do not ask for it each.)
      this.#phase = 'resting'
      this.#restart()
      return
    }
    if (this.#settling > 0) {
      this.#settling -= bytes
      this.#epochStart = now
      return
    }
    this.#epochBytes += bytes
    this.#epochBatches++
    const took = now - this.#epochStart
    if (this.#epochBytes < EPOCH_WINDOWS * this.bytes || this.#epochBatches < EPOCH_BATCHES || took < EPOCH_MS) return
    const rate = this.#epochBytes / took
    this.#epochBytes = 0
    this.#epochBatches = 0
    this.#epochStart = now
    this.#measured(rate)
  }

  #measured(rate: number): void {
    switch (this.#phase) {
      case 'resting': {
        const changed = this.#before > 0 && (rate > this.#before * CHANGE || rate * CHANGE < this.#before)
        if (this.#restLeft-- > 0 && !changed) return
        if (changed) this.#rest = 0
        this.#before = rate
        this.#trial = this.#next()
        if (this.#trial === this.#found) return
        this.#phase = 'trying'
        break
      }
      case 'trying':
        this.#tried = rate
        this.#phase = 'comparing'
        break
      case 'comparing': {
        const better = this.#grow ? this.#tried > Math.max(this.#before, rate) * GAIN_MIN : this.#tried >= Math.min(this.#before, rate) * LOSS_MAX
        this.#phase = 'resting'
        this.#before = better ? this.#tried : rate
        if (better) {
          this.#found = this.#trial
          this.#rejected = 0
          this.#rest = 0
        } else {
          this.#grow = !this.#grow
          // Neither more nor less was better.
          if (++this.#rejected >= 2) this.#rest = Math.min(REST_EPOCHS_MAX, Math.max(1, this.#rest * 2))
        }
        this.#restLeft = this.#rest
      }
    }
    this.#restart()
  }

  /** The size to try: in the direction that was good last, or in the other one at either end. */
  #next(): number {
    const up = Math.min(this.#cap, Math.ceil(this.#found * STEP))
    const least = Math.min(this.#found, Math.max(this.#floor, Math.floor(this.#before * WINDOW_MS_MIN)))
    const down = Math.max(least, Math.floor(this.#found / STEP))
    if (this.#grow ? up === this.#found : down === this.#found) this.#grow = !this.#grow
    return this.#grow ? up : down
  }

  #restart(): void {
    this.#settling = this.bytes
    this.#epochBytes = 0
    this.#epochBatches = 0
  }
}
