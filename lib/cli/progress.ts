import { formatBytes, formatCount, formatDuration } from './format.js'

/** The part of a tty.WriteStream (or of any stream) that a progress display needs. */
export interface ProgressStream {
  write(text: string): unknown
  readonly isTTY?: boolean
  readonly columns?: number
}

export interface ProgressOptions {
  /** What is being done, in a word or two: `verify`, `bench`. */
  readonly label: string
  /** How much there is to do; without it the display counts up. */
  readonly total?: number
  /** What is counted: 'bytes' are shown as MiB and the like, anything else as a number with this word. Default 'bytes'. */
  readonly unit?: string
  /** Default process.stderr. */
  readonly stream?: ProgressStream
  /** Shows nothing at all. */
  readonly quiet?: boolean
  /** Whether the stream is a terminal. Default stream.isTTY. */
  readonly terminal?: boolean
  /** Least time between two redraws on a terminal. Default 100. */
  readonly redrawMs?: number
  /** Least time between two lines in a log. Default 5000. */
  readonly lineMs?: number
  /** Milliseconds of a monotonic clock. Default performance.now. */
  readonly now?: () => number
}

/**
 * Progress on stderr: one line that is redrawn on a terminal, a plain line every few seconds in a log, nothing with `quiet`. It costs a comparison per
 * update, so update it as often as there is something new. It has no timer: nothing has to be cleaned up when an error ends the work.
 */
export class Progress {
  readonly #label: string
  #total: number | undefined
  readonly #unit: string
  readonly #stream: ProgressStream
  readonly #terminal: boolean
  readonly #quiet: boolean
  readonly #everyMs: number
  readonly #now: () => number
  readonly #startedMs: number
  #shownMs: number
  #done = 0
  #note = ''
  #drawn = false
  #finished = false

  constructor(options: ProgressOptions) {
    this.#label = options.label
    this.#total = options.total
    this.#unit = options.unit ?? 'bytes'
    this.#stream = options.stream ?? process.stderr
    this.#terminal = options.terminal ?? this.#stream.isTTY === true
    this.#quiet = options.quiet ?? false
    this.#everyMs = this.#terminal ? options.redrawMs ?? 100 : options.lineMs ?? 5000
    this.#now = options.now ?? (() => performance.now())
    this.#startedMs = this.#now()
    // A terminal shows the bar at once; a log gets its first line when there is something to tell.
    this.#shownMs = this.#terminal ? -Infinity : this.#startedMs
  }

  /** Sets how much is done, and optionally a short remark behind the figures (`hit rate 36.6 %`). */
  update(done: number, note?: string): void {
    this.#done = done
    if (note !== undefined) this.#note = note
    if (this.#quiet || this.#finished) return
    const now = this.#now()
    if (now - this.#shownMs < this.#everyMs) return
    this.#shownMs = now
    this.#show(now)
  }

  add(more: number, note?: string): void { this.update(this.#done + more, note) }

  /** There is a bar to be seen, for which finding out the total is worth some work. */
  get drawsBar(): boolean { return this.#terminal && !this.#quiet }

  /** When it turns out to be another amount. */
  setTotal(total: number): void { this.#total = total }

  /** A line of its own, above the bar. */
  log(line: string): void {
    if (this.#quiet) return
    this.#erase()
    this.#stream.write(`${line}\n`)
    if (this.#terminal && !this.#finished) this.#show(this.#now())
  }

  /** Takes the bar away; leaves `summary`, if there is one, as a line. Idempotent. Call it on failure too, so that the error does not stand behind the bar. */
  finish(summary?: string): void {
    if (this.#finished) return
    this.#finished = true
    if (this.#quiet) return
    this.#erase()
    if (summary !== undefined) this.#stream.write(`${summary}\n`)
  }

  #erase(): void {
    if (!this.#drawn) return
    this.#stream.write('\r\u001b[2K')
    this.#drawn = false
  }

  #show(now: number): void {
    const seconds = (now - this.#startedMs) / 1000
    const amount = (value: number): string => this.#unit === 'bytes' ? formatBytes(value) : formatCount(value)
    const unit = this.#unit === 'bytes' ? '' : ` ${this.#unit}`
    const total = this.#total
    const fraction = total !== undefined && total > 0 ? Math.min(1, this.#done / total) : undefined

    const parts: string[] = []
    if (total !== undefined) parts.push(`${amount(this.#done)} / ${amount(total)}${unit}`)
    else if (this.#done > 0) parts.push(`${amount(this.#done)}${unit}`)
    const rate = seconds > 0 ? this.#done / seconds : 0
    if (rate > 0) parts.push(`${amount(rate)}${unit}/s`)
    if (fraction !== undefined && fraction > 0 && fraction < 1 && seconds >= 1) {
      parts.push(`${formatDuration(seconds / fraction - seconds)} left`)
    } else if (seconds >= 1) {
      parts.push(formatDuration(seconds))
    }
    if (this.#note !== '') parts.push(this.#note)
    const percent = fraction === undefined ? '' : `${String(Math.floor(fraction * 100)).padStart(3)} %`

    if (!this.#terminal) {
      this.#stream.write(`${this.#label}:${percent} ${parts.join(', ')}\n`)
      return
    }
    const text = `${percent === '' ? '' : `${percent}  `}${parts.join('  ')}`
    // A terminal that does not know its width says 0.
    const columns = this.#stream.columns === undefined || this.#stream.columns < 1 ? 80 : this.#stream.columns
    const room = columns - this.#label.length - text.length - 6
    const bar = fraction === undefined || room < 10 ? '' : ` ${drawBar(fraction, Math.min(30, room))}`
    // One column stays free: a full line would wrap, and the next redraw would erase only its second half.
    const line = `${this.#label}${bar}  ${text}`.slice(0, columns - 1)
    this.#stream.write(`\r\u001b[2K${line}`)
    this.#drawn = true
  }
}

/** Eighths of a block give eight steps a column. */
function drawBar(fraction: number, width: number): string {
  const eighths = Math.round(fraction * width * 8)
  const full = eighths >> 3
  const rest = eighths & 7
  const tip = rest === 0 ? '' : String.fromCodePoint(0x2590 - rest)
  return `\u2595${('\u2588'.repeat(full) + tip).padEnd(width)}\u258f`
}
