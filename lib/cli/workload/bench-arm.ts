/** What `--ops` takes. `churn` is no step of a round: it has a store and rounds of its own. */
export const OPS = ['write', 'read', 'set', 'get', 'one-batch', 'mix', 'lookup', 'churn'] as const
export type RequestedOp = typeof OPS[number]

/** The steps of a round, in their order: what is read has to be there. */
export const STEPS = ['write', 'set', 'one-batch-write', 'read', 'get', 'one-batch-read', 'mix', 'lookup'] as const
export type BenchOp = typeof STEPS[number]

/** What one arm did in one round. */
export interface ArmSample {
  readonly bytes: number
  readonly seconds: number
  readonly cpuSeconds: number
  /** From handing a page over until its outcome is known, for every page; pages of one call share the time of the call. Of a mix: of its reads. */
  readonly latencyUs: Float64Array
  /** The same for every call, where a call has several pages. */
  readonly callUs?: Float64Array
  /** What writing takes longer until the bytes have left the page cache, where they went there. */
  readonly flushSeconds?: number
  readonly mix?: { readonly readBytes: number; readonly writeBytes: number; readonly writeLatencyUs: Float64Array }
  /** Keys that were looked up. */
  readonly lookups?: number
  /** Longest time that the main thread was held up, where the arm works on it: by callbacks, and with the wait for a core. */
  readonly longestCallbackMs?: number
  readonly longestStallMs?: number
  /** Resident memory of the process while the arm ran, where it is this package's. */
  readonly rssBytes?: number
}

/** One thing that is measured beside others: the package, the device's limit, a plain loop. */
export interface BenchArm {
  readonly name: string
  /** What it takes part in. */
  readonly steps: ReadonlySet<BenchOp>
  /** Does one of its steps; the round's number makes new names. What it prepares before the clock starts is not counted. */
  run(op: BenchOp, round: number): Promise<ArmSample>
  /** Removes what the round stored. Not timed. */
  discard(round: number): Promise<void>
  close?(): Promise<void>
}

/** The steps that `--ops` means, without those that only prepare others. */
export function measuredSteps(ops: Iterable<RequestedOp>): ReadonlySet<BenchOp> {
  const steps = new Set<BenchOp>()
  for (const op of ops) {
    if (op === 'one-batch') steps.add('one-batch-write').add('one-batch-read')
    else if (op !== 'churn') steps.add(op)
  }
  return steps
}

/** Which of the device's two limits, or which of the two steps of others, an operation is compared with. */
export function baseOf(op: BenchOp): 'write' | 'read' | null {
  if (op === 'write' || op === 'set' || op === 'one-batch-write') return 'write'
  return op === 'read' || op === 'get' || op === 'one-batch-read' ? 'read' : null
}

/** Of this package: everything that is measured, and writing what the others need, where a store does not keep what is read (`keeps`). */
export function ownSteps(measured: ReadonlySet<BenchOp>, keeps: boolean): ReadonlySet<BenchOp> {
  const steps = new Set(measured)
  if (!keeps && readsPages(measured)) steps.add('write')
  return steps
}

/** Steps in which pages are read: what it costs to check them shows there and nowhere else. */
export const READING_STEPS: readonly BenchOp[] = ['read', 'get', 'one-batch-read', 'mix']

/** Is there anything that needs pages to be there? */
export function readsPages(measured: ReadonlySet<BenchOp>): boolean {
  return measured.has('lookup') || READING_STEPS.some(op => measured.has(op))
}

/** Of the device's limit. */
export function limitSteps(measured: ReadonlySet<BenchOp>): ReadonlySet<BenchOp> {
  return new Set([...measured].map(baseOf).filter(base => base !== null))
}

/** Of the others, which read what they wrote. */
export function peerSteps(measured: ReadonlySet<BenchOp>): ReadonlySet<BenchOp> {
  return new Set(measured.has('read') ? ['write', 'read'] as const : measured.has('write') ? ['write'] as const : [])
}

/** Of the C++ ring. */
export function ringSteps(measured: ReadonlySet<BenchOp>): ReadonlySet<BenchOp> {
  return new Set(measured.has('mix') ? ['mix'] as const : [])
}
