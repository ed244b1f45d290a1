/** What goes wrong with a request. */
export type FakeTrouble =
  /** An error instead of the deed. With status 200 it is the body alone that says so, as CompleteMultipartUpload does. */
  | {
    readonly kind: 'answer'; readonly status: number; readonly code?: string; readonly retryAfter?: string
    readonly headers?: Readonly<Record<string, string>>
    /** Answered before the body has been read. Default false. */
    readonly early?: boolean
  }
  /** 307 TemporaryRedirect or 301 PermanentRedirect, to `endpoint`. */
  | { readonly kind: 'redirect'; readonly status: 301 | 307; readonly endpoint: string; readonly region?: string }
  /**
   * The connection is reset (RST): `before` any of the answer, the request having been read; in the midst of the `request`'s body or of the `answer`'s, after
   * `bytes` (default: half); or as soon as the deed is done, so that the `acknowledgement` is lost.
   */
  | { readonly kind: 'reset'; readonly when: 'before' | 'request' | 'answer' | 'acknowledgement'; readonly bytes?: number }
  /** Content-Length is right, but the connection ends in peace after `bytes` of the body (default: half). */
  | { readonly kind: 'short'; readonly bytes?: number }
  /**
   * Nothing moves until release(): the `request`'s body is not read; the deed is done and its `answer` kept back; or `bytes` (default: half) of the answer's
   * `body` are sent, and no more.
   */
  | { readonly kind: 'hold'; readonly when: 'request' | 'answer' | 'body'; readonly bytes?: number }
  /** One byte of the answer's body is another one. Default: that in the middle. */
  | { readonly kind: 'flip'; readonly at?: number }
  /** The answer has these headers instead of its own ('' = not at all): a wrong ETag, a wrong checksum, no metadata. */
  | { readonly kind: 'headers'; readonly headers: Readonly<Record<string, string>> }

export type FakeFault = FakeTrouble & {
  /** Default: any. */
  readonly method?: string
  /** Only keys that contain it. Default: any. */
  readonly match?: string
  /** Only requests with this query parameter: `partNumber`, `uploads`, `uploadId`, `list-type`, `delete`. Default: any request. */
  readonly query?: string
  /** Let so many pass, then strike so often (default 1; 0: until taken back). */
  readonly after?: number
  readonly times?: number
}

/** A fault that is planned. */
export class PlannedFault {
  readonly fault: FakeFault
  /** Resolves when it strikes for the first time. */
  readonly reached: Promise<void>
  /** How often it has. */
  struck = 0
  #seen = 0
  #over = false
  #strike: () => void = () => {}
  #open: () => void = () => {}
  readonly #gate: Promise<void>

  constructor(fault: FakeFault) {
    this.fault = fault
    this.reached = new Promise(resolve => { this.#strike = resolve })
    this.#gate = new Promise(resolve => { this.#open = resolve })
  }

  /** Does it strike this request? */
  strikes(method: string, key: string, query: ReadonlyMap<string, string>): boolean {
    const { fault } = this
    if (this.#over || (fault.method !== undefined && fault.method !== method) || (fault.match !== undefined && !key.includes(fault.match))) return false
    if (fault.query !== undefined && !query.has(fault.query)) return false
    if (this.#seen++ < (fault.after ?? 0) || (fault.times !== 0 && this.struck >= (fault.times ?? 1))) return false
    this.struck++
    this.#strike()
    return true
  }

  /** Lets go what it holds, and whatever it would hold later. */
  release(): void { this.#open() }
  get released(): Promise<void> { return this.#gate }

  /** Strikes no more, and lets go. Answers how often it struck: a fault that never did has tested nothing. */
  end(): number {
    this.#over = true
    this.release()
    return this.struck
  }
}
