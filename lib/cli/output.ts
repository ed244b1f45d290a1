import type { Writable } from 'node:stream'

/**
 * stdout, for data only. A reader that goes away (`ls | head`) is not an error: what is written afterwards is dropped, and `closed` tells loops to stop.
 */
export class Output {
  readonly #stream: Writable & { isTTY?: boolean }
  readonly #gone = new AbortController()

  constructor(stream: Writable & { isTTY?: boolean }) {
    this.#stream = stream
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE' && error.code !== 'ERR_STREAM_DESTROYED') this.failure ??= error
      this.#gone.abort()
    })
  }

  /** Why stdout could not be written, other than because its reader went away (a full disk behind `>`). */
  failure: Error | undefined

  /** Whether anything was written. */
  started = false

  get isTTY(): boolean { return this.#stream.isTTY === true }

  /** Fires when nobody reads any more. */
  get closed(): AbortSignal { return this.#gone.signal }

  /** Resolves when the stream takes more. */
  async write(data: string | Uint8Array): Promise<void> {
    if (this.closed.aborted) return
    this.started = true
    if (this.#stream.write(data)) return
    await new Promise<void>((resolve) => {
      const done = (): void => {
        this.#stream.off('drain', done)
        this.closed.removeEventListener('abort', done)
        resolve()
      }
      this.#stream.once('drain', done)
      this.closed.addEventListener('abort', done)
    })
  }

  async line(text = ''): Promise<void> { await this.write(`${text}\n`) }

  /** The one JSON object of --json. */
  async json(value: object): Promise<void> { await this.write(`${JSON.stringify(value, jsonValue, 2)}\n`) }

  /** Resolves when all of it has been handed to the system. */
  async flush(): Promise<void> {
    if (this.closed.aborted) return
    await new Promise<void>((resolve) => {
      this.closed.addEventListener('abort', () => resolve(), { once: true })
      this.#stream.write('', () => resolve())
    })
  }
}

function jsonValue(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return value.toString()
  return value
}
