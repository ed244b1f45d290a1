import type { BenchOp } from './bench-arm.js'

/** One configuration of this package and one operation. Rates and times are medians over the rounds. */
export interface RunReport {
  readonly storageLayout: string
  readonly engine: string
  readonly op: BenchOp
  readonly pageBytes: number
  readonly batch: number
  readonly workers: number
  readonly zeroCopy: boolean
  readonly inFlight: number
  readonly checksum: boolean
  readonly mibPerSecond: number
  /** null where the device's limit was not measured. */
  readonly limitMibPerSecond: number | null
  readonly ratioToLimit: number | null
  readonly ratioMin: number | null
  readonly ratioMax: number | null
  readonly cpuSecondsPerGib: number
  readonly p50Us: number
  readonly p99Us: number
  readonly maxUs: number
  /** Medians of the rounds' ratios; null where the other did not run. */
  readonly ratioToCppLoop: number | null
  readonly ratioToFsPromises: number | null
  readonly ratioToFsPromisesDirect: number | null
  /** Longest time that a callback held the main thread up in any measured round, and the same with the wait for a processor core. */
  readonly longestCallbackMs: number
  readonly longestStallMs: number
  /** Largest resident memory of the process while this ran, with what the others have left in it. */
  readonly peakRssBytes: number
  readonly arenaBytes: number
  readonly rounds: number
}

/** What it is compared with. */
export interface PeerReport {
  readonly name: string
  readonly op: BenchOp
  readonly pageBytes: number
  readonly mibPerSecond: number
  readonly cpuSecondsPerGib: number
  readonly p50Us: number
  readonly p99Us: number
  /** Against the device's limit, as for a run. */
  readonly ratioToLimit: number | null
  readonly ratioMin: number | null
  readonly ratioMax: number | null
}

export interface BenchReport { readonly runs: readonly RunReport[]; readonly peers: readonly PeerReport[] }
