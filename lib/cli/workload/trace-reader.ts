import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import { HiCacheError } from '../../error.js'

/** One request of a trace: the blocks of its prompt, in order. Equal ids mean an equal prefix up to there. */
export interface TraceRequest { readonly line: number; readonly blockIds: readonly number[] }

/** What a trace asks of a cache, known after one pass over it. */
export interface TraceSummary { readonly requests: number; readonly references: number; readonly distinctBlocks: number; readonly longestRequest: number }

/**
 * Reads a trace of chat requests: one JSON object a line with `hash_ids`, an array of whole numbers from 0. Other keys are ignored, as are blank lines.
 * The file is streamed; anything else is an error that says the line.
 */
export class TraceReader {
  /** `limit`: at most that many requests. Default: all. */
  constructor(readonly file: string, readonly limit: number = Number.POSITIVE_INFINITY) {}

  /** Throws HiCacheError `ERR_ARGUMENT` for a malformed line or a file that cannot be read. */
  async *requests(): AsyncGenerator<TraceRequest, void, undefined> {
    if (this.limit <= 0) return
    const input = createReadStream(this.file)
    const lines = createInterface({ input, crlfDelay: Infinity })
    let line = 0
    let requests = 0
    try {
      for await (const text of lines) {
        line++
        if (text.trim() === '') continue
        yield { line, blockIds: this.parse(text, line) }
        if (++requests >= this.limit) return
      }
    } catch (cause) {
      if (HiCacheError.is(cause)) throw cause
      const { message, code } = cause as NodeJS.ErrnoException
      throw new HiCacheError('ERR_ARGUMENT', `cannot read the trace '${this.file}': ${message}`, { cause, ...(code === undefined ? {} : { errno: code }) })
    } finally {
      lines.close()
      input.destroy()
    }
  }

  /** One pass over the trace, without any cache: sizes, and every line checked before anything is written. */
  async summarise(): Promise<TraceSummary> {
    const blocks = new Set<number>()
    let requests = 0
    let references = 0
    let longestRequest = 0
    for await (const request of this.requests()) {
      requests++
      references += request.blockIds.length
      longestRequest = Math.max(longestRequest, request.blockIds.length)
      for (const id of request.blockIds) blocks.add(id)
    }
    return { requests, references, distinctBlocks: blocks.size, longestRequest }
  }

  private parse(text: string, line: number): number[] {
    const refuse = (what: string, cause?: unknown): HiCacheError =>
      new HiCacheError('ERR_ARGUMENT', `${this.file}:${line}: ${what}`, { where: { file: this.file, line, column: 1 }, ...(cause === undefined ? {} : { cause }) })
    let value: unknown
    try {
      value = JSON.parse(text)
    } catch (cause) {
      throw refuse(`not a JSON object: ${(cause as Error).message}`, cause)
    }
    const ids = typeof value === 'object' && value !== null ? (value as { hash_ids?: unknown }).hash_ids : undefined
    if (!Array.isArray(ids)) throw refuse('expected an object with an array "hash_ids", one block id for each block of the prompt')
    const wrong = ids.findIndex(id => !Number.isSafeInteger(id) || (id as number) < 0)
    if (wrong >= 0) throw refuse(`hash_ids[${wrong}] must be a whole number from 0, found ${JSON.stringify(ids[wrong])}`)
    return ids as number[]
  }
}
