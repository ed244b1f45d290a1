export type BenchOp = 'read' | 'write'

/** What one arm did in one round. */
export interface ArmSample {
  readonly bytes: number
  readonly seconds: number
  readonly cpuSeconds: number
  /** From handing a page over until its outcome is known, for every page; pages of one batch share the time of the batch. */
  readonly latencyUs: Float64Array
  /** Longest time that the main thread was held up, where the arm works on it: by callbacks, and with the wait for a core. */
  readonly longestCallbackMs?: number
  readonly longestStallMs?: number
  /** Resident memory of the process while the arm ran, where it is this package's. */
  readonly rssBytes?: number
}

/** One thing that is measured beside others: the package, the device's limit, a plain loop. */
export interface BenchArm {
  readonly name: string
  /** Stores new pages; the round's number makes their names new. What it prepares before the clock starts is not counted. */
  write(round: number): Promise<ArmSample>
  /** Reads what `write` stored in the same round. */
  read(round: number): Promise<ArmSample>
  /** Removes what the round stored. Not timed. */
  discard(round: number): Promise<void>
}
