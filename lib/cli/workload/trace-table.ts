import type { TraceReader, TraceSummary } from './trace-reader.js'

/** A whole trace in typed arrays: pages numbered from 0 in the order they first occur, and when each reference's page is used next. */
export class TraceTable {
  private constructor(
    /** Pages of all requests, one after the other. */
    readonly pages: Int32Array,
    /** Where each request begins in `pages`, and one more for the end. */
    readonly starts: Int32Array,
    readonly distinctPages: number,
  ) {}

  /** Reads the trace; `summary` is that of the same reader. */
  static async read(reader: TraceReader, summary: TraceSummary): Promise<TraceTable> {
    const pages = new Int32Array(summary.references)
    const starts = new Int32Array(summary.requests + 1)
    const numbers = new Map<number, number>()
    let request = 0
    let at = 0
    for await (const { blockIds } of reader.requests()) {
      for (const id of blockIds) {
        let page = numbers.get(id)
        if (page === undefined) numbers.set(id, page = numbers.size)
        pages[at++] = page
      }
      starts[++request] = at
    }
    return new TraceTable(pages, starts, numbers.size)
  }

  get requests(): number { return this.starts.length - 1 }

  /** For each reference, the number of the next reference to the same page; Infinity where there is none. */
  nextUses(): Float64Array {
    const uses = new Float64Array(this.pages.length)
    const next = new Float64Array(this.distinctPages).fill(Number.POSITIVE_INFINITY)
    for (let at = this.pages.length - 1; at >= 0; at--) {
      const page = this.pages[at]!
      uses[at] = next[page]!
      next[page] = at
    }
    return uses
  }
}
