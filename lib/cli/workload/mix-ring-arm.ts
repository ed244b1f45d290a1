import type { NativeBench } from '../../transfer/native-binding.js'
import type { ArmSample, BenchArm, BenchOp } from './bench-arm.js'

export interface MixRingArmOptions {
  readonly bench: NativeBench
  readonly directory: string
  readonly pageBytes: number
  readonly pages: number
  readonly writesInFlight: number
  readonly readsInFlight: number
  readonly steps: ReadonlySet<BenchOp>
}

/** One native ring that reads and writes at the same time, with as many pages of each in flight as the package has. */
export class MixRingArm implements BenchArm {
  readonly name = 'cpp-ring'
  readonly steps: ReadonlySet<BenchOp>

  constructor(private readonly options: MixRingArmOptions) { this.steps = options.steps }

  async run(): Promise<ArmSample> {
    const { bench, directory, pageBytes, pages, writesInFlight, readsInFlight } = this.options
    const { readBytes, writeBytes, writeLatencyUs, ...sample } = await bench.mixLoop({ directory, pageBytes, bytes: pageBytes * pages, writesInFlight, readsInFlight })
    return { ...sample, mix: { readBytes, writeBytes, writeLatencyUs } }
  }

  async discard(): Promise<void> { /* the file goes with its directory */ }
}
