import { monitorEventLoopDelay, type IntervalHistogram } from 'node:perf_hooks'

/** The timer that measures comes once in this many milliseconds. */
const RESOLUTION_MS = 1

/**
 * The longest time that the main thread's event loop was held up. A native timer comes every millisecond; how much later than that it comes is how long
 * a callback (with its promise jobs) kept the thread. On a machine that is short of cores it also counts the time that the thread
 * waited for one: it never shows too little.
 */
export class MainThreadWatch {
  private readonly histogram: IntervalHistogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS })

  start(): void {
    this.histogram.reset()
    this.histogram.enable()
  }

  /** Milliseconds, 0 when the timer never came late. */
  stop(): number {
    this.histogram.disable()
    return this.histogram.count === 0 ? 0 : Math.max(0, this.histogram.max / 1e6 - RESOLUTION_MS)
  }
}
