import type { NativeBench } from '../../transfer/native-binding.js'
import type { ArmSample, BenchArm, BenchOp } from './bench-arm.js'

export interface DeviceLimitArmOptions {
  readonly bench: NativeBench
  readonly directory: string
  readonly pageBytes: number
  readonly pages: number
  readonly queueDepth: number
  readonly steps: ReadonlySet<BenchOp>
}

/** What the device gives at most: one native ring over one large file that was written before. No names, no checks, no JavaScript. */
export class DeviceLimitArm implements BenchArm {
  readonly name = 'device-limit'
  readonly steps: ReadonlySet<BenchOp>

  constructor(private readonly options: DeviceLimitArmOptions) { this.steps = options.steps }

  async run(op: BenchOp): Promise<ArmSample> {
    const { bench, directory, pageBytes, pages, queueDepth } = this.options
    return await bench.deviceLimit({ directory, op: op === 'read' ? 'read' : 'write', pageBytes, bytes: pageBytes * pages, queueDepth })
  }

  /** The file stays for the next round: laying it out anew would be measured as well. */
  async discard(): Promise<void> { /* it goes with its directory */ }
}
