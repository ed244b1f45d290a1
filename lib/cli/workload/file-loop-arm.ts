import type { NativeBench } from '../../transfer/native-binding.js'
import type { ArmSample, BenchArm, BenchOp } from './bench-arm.js'

export interface FileLoopArmOptions {
  readonly bench: NativeBench
  readonly directory: string
  readonly pageBytes: number
  readonly pages: number
  readonly threads: number
  readonly direct: boolean
}

/** The file layout's work as a plain C++ loop: the same files with the same record block and the same way to a name, on as many threads, and nothing above them. */
export class FileLoopArm implements BenchArm {
  readonly name = 'cpp-loop'

  constructor(private readonly options: FileLoopArmOptions) {}

  async write(): Promise<ArmSample> { return await this.run('write') }

  async read(): Promise<ArmSample> { return await this.run('read') }

  async discard(): Promise<void> { await this.options.bench.cleanup(this.options.directory) }

  private async run(op: BenchOp): Promise<ArmSample> {
    const { bench, directory, pageBytes, pages, threads, direct } = this.options
    return await bench.fileLoop({ directory, op, pageBytes, pages, threads, direct, replace: false })
  }
}
