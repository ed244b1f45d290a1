import type { LeftOut, PeerReport, RunReport } from './bench-report.js'

/** One page size and one operation of this package on an object store. The limit is the C++ loop over libcurl. */
export interface ObjectRunReport extends RunReport {
  readonly pagesAtOnce: number
  /** The fastest client in JavaScript, by its median; null where none could run. */
  readonly bestPeer: string | null
  /** This package's rate over its, round by round. */
  readonly ratioToBestPeer: number | null
  readonly ratioToBestPeerMin: number | null
  readonly ratioToBestPeerMax: number | null
}

export interface ObjectBenchReport {
  readonly runs: ObjectRunReport[]
  readonly peers: PeerReport[]
  readonly leftOut: LeftOut[]
}
