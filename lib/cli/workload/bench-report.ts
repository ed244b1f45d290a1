import type { BenchOp } from './bench-arm.js'
import type { Checksum } from './bench-plan.js'

/** Against one contestant: medians over the rounds of this package's figure over the other's. */
export interface Against {
  /** Bytes a second, with the smallest and the largest round. */
  readonly speed: number
  readonly speedMin: number
  readonly speedMax: number
  /** The same, the other's time until its bytes have left the page cache counted; null where they never were in it. */
  readonly speedFlushed: number | null
  /** Processor seconds per GiB. */
  readonly cpu: number
  /** Time of a page. */
  readonly p50: number
  readonly p99: number
}

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
  /** off: what was read was not compared with its checksum. Writes compute it always. */
  readonly checksum: Checksum
  readonly mibPerSecond: number
  /** null where the device's limit was not measured. Of a mix, the limit is the C++ ring with the same mix. */
  readonly limitMibPerSecond: number | null
  readonly ratioToLimit: number | null
  readonly ratioMin: number | null
  readonly ratioMax: number | null
  readonly cpuSecondsPerGib: number
  /** Of a mix: of its reads. */
  readonly p50Us: number
  readonly p99Us: number
  readonly maxUs: number
  /** Of a whole call; null where a call is a page. */
  readonly callP50Us: number | null
  readonly callP99Us: number | null
  readonly against: Readonly<Record<string, Against>>
  readonly mix: MixReport | null
  /** Longest time that a callback held the main thread up in any measured round, and the same with the wait for a processor core. */
  readonly longestCallbackMs: number
  readonly longestStallMs: number
  /** Largest resident memory of the process while this ran, with what the others have left in it. */
  readonly peakRssBytes: number
  readonly arenaBytes: number
  /** Of the store; null where nothing limits it. */
  readonly capacityBytes: number | null
  readonly rounds: number
}

export interface MixReport {
  readonly writeBytesInFlight: number
  readonly readsInFlight: number
  readonly readMibPerSecond: number
  readonly writeMibPerSecond: number
  readonly writeP50Us: number
  readonly writeP99Us: number
}

/** What it is compared with. */
export interface PeerReport {
  readonly name: string
  readonly op: BenchOp
  readonly pageBytes: number
  readonly mibPerSecond: number
  /** Until the bytes have left the page cache; null where they never were in it. */
  readonly flushedMibPerSecond: number | null
  readonly cpuSecondsPerGib: number
  readonly p50Us: number
  readonly p99Us: number
  readonly mix: MixReport | null
  /** Against the device's limit, as for a run. */
  readonly ratioToLimit: number | null
  readonly ratioMin: number | null
  readonly ratioMax: number | null
}

/** batchExists() with keys that are page hashes, on the main thread. */
export interface LookupReport {
  readonly storageLayout: string
  readonly engine: string
  readonly pageBytes: number
  readonly workers: number
  /** Keys of one call, and pages of the store that are asked for in turn. */
  readonly batch: number
  readonly pages: number
  readonly lookupsPerSecond: number
  /** Against the processor time of the whole process: what one core gives. */
  readonly lookupsPerCpuSecond: number
  readonly callP50Us: number
  readonly callP99Us: number
  readonly rounds: number
}

/** Writes into a full store: one pass over its segments that are used again for the first time, against one after so many evictions. */
export interface ChurnReport {
  readonly storageLayout: string
  readonly engine: string
  readonly pageBytes: number
  readonly workers: number
  readonly zeroCopy: boolean
  readonly capacityBytes: number
  /** Pages given up before the last pass, the first pass included. */
  readonly evictions: number
  readonly firstMibPerSecond: number
  readonly lastMibPerSecond: number
  /** Last over first, and the same of their ratios to the device's limit, which was measured in between each time. */
  readonly ratio: number
  readonly ratioOfLimitRatios: number | null
  readonly firstRatioToLimit: number | null
  readonly lastRatioToLimit: number | null
  /** Chunks of a pass. */
  readonly rounds: number
}

export interface LeftOut { readonly name: string; readonly pageBytes: number; readonly reason: string }

export interface BenchReport {
  readonly runs: RunReport[]
  readonly peers: PeerReport[]
  readonly lookups: LookupReport[]
  readonly churn: ChurnReport[]
  /** Contestants that could not run here. */
  readonly leftOut: LeftOut[]
}

export function emptyReport(): BenchReport { return { runs: [], peers: [], lookups: [], churn: [], leftOut: [] } }

export function round1(value: number): number { return Math.round(value * 10) / 10 }
export function round3(value: number): number { return Math.round(value * 1000) / 1000 }
