import type { NativeBench, ObjectEndpoint } from '../../transfer/native-binding.js'
import type { ArmSample, BenchArm, BenchOp } from './bench-arm.js'
import { objectKey } from './object-peer.js'

export interface CurlLoopArmOptions {
  readonly bench: NativeBench
  readonly endpoint: ObjectEndpoint
  readonly prefix: string
  readonly pageBytes: number
  readonly pages: number
  readonly concurrency: number
  readonly steps: ReadonlySet<BenchOp>
  /** Removes what the arm stored. */
  removeAll(): Promise<void>
}

/** One C++ loop over libcurl: what the server and the library give where nothing stands above them. */
export class CurlLoopArm implements BenchArm {
  readonly name = 'cpp-curl'
  readonly steps: ReadonlySet<BenchOp>

  constructor(private readonly options: CurlLoopArmOptions) { this.steps = options.steps }

  async run(op: BenchOp, round: number): Promise<ArmSample> {
    const { bench, endpoint, prefix, pageBytes, pages, concurrency } = this.options
    // The numbers of the pages follow the prefix: the round's folder, as for the others.
    const ofRound = objectKey(prefix, round, 0).slice(0, -1)
    return await bench.curlLoop({ endpoint, op: op === 'write' ? 'put' : 'get', pageBytes, pages, concurrency, prefix: ofRound })
  }

  async discard(): Promise<void> { await this.options.removeAll() }
}
