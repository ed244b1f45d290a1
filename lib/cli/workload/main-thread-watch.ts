import { closeSync, openSync, readSync } from 'node:fs'

const EVERY_MS = 1

/** The longest time that the main thread was held up, in milliseconds. */
export interface HeldUp {
  /** By callbacks (with their promise jobs and collections of garbage): what was spent waiting for a processor core is taken off. */
  readonly callbackMs: number
  /** All in all, the wait for a core included. */
  readonly stallMs: number
}

/**
 * Watches how long the event loop of the calling thread is kept from its next turn. A timer should come every millisecond; how much later it comes is how
 * long callbacks kept the thread, or other threads the core. The kernel counts the latter (schedstat's run delay), so both can be told
 * apart: on a machine with fewer cores than busy threads only the former says something about the code. Where the kernel does not count, both are the same.
 * What it shows for a callback may be too much (several that ran in one turn of the loop), never too little.
 */
export class MainThreadWatch {
  private readonly text = Buffer.alloc(128)
  private file = -1
  private timer: NodeJS.Timeout | null = null
  private lastMs = 0
  private lastDelayMs = 0
  private callbackMs = 0
  private stallMs = 0

  start(): void {
    this.callbackMs = 0
    this.stallMs = 0
    try {
      // The link leads to the thread that opens it.
      this.file = openSync('/proc/thread-self/schedstat', 'r')
    } catch {
      this.file = -1
    }
    this.lastMs = performance.now()
    this.lastDelayMs = this.runDelayMs()
    this.timer = setInterval(() => this.look(), EVERY_MS)
  }

  stop(): HeldUp {
    this.look()
    if (this.timer !== null) clearInterval(this.timer)
    this.timer = null
    if (this.file >= 0) closeSync(this.file)
    this.file = -1
    return { callbackMs: this.callbackMs, stallMs: this.stallMs }
  }

  private look(): void {
    const now = performance.now()
    const delay = this.runDelayMs()
    const late = now - this.lastMs - EVERY_MS
    this.stallMs = Math.max(this.stallMs, late)
    this.callbackMs = Math.max(this.callbackMs, late - (delay - this.lastDelayMs))
    this.lastMs = now
    this.lastDelayMs = delay
  }

  /** Milliseconds that this thread has been ready to run and had no core. */
  private runDelayMs(): number {
    if (this.file < 0) return 0
    const length = readSync(this.file, this.text, 0, this.text.length, 0)
    return Number(this.text.toString('latin1', 0, length).split(' ')[1]) / 1e6
  }
}
