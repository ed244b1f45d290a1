import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { NativeBench } from '../../transfer/native-binding.js'
import type { ArmSample, BenchArm, BenchOp } from './bench-arm.js'

export interface FileLoopArmOptions {
  readonly bench: NativeBench
  readonly directory: string
  readonly pageBytes: number
  readonly pages: number
  readonly threads: number
  readonly direct: boolean
  readonly steps: ReadonlySet<BenchOp>
}

/** The file layout's work as a plain C++ loop: the same files with the same record block and the same way to a name, on as many threads, and nothing above them. */
export class FileLoopArm implements BenchArm {
  readonly name = 'cpp-loop'
  readonly steps: ReadonlySet<BenchOp>

  constructor(private readonly options: FileLoopArmOptions) { this.steps = options.steps }

  async run(op: BenchOp, round: number): Promise<ArmSample> {
    const { bench, pageBytes, pages, threads, direct } = this.options
    const directory = this.folder(round)
    await mkdir(directory, { recursive: true, mode: 0o700 })
    return await bench.fileLoop({ directory, op: op === 'read' ? 'read' : 'write', pageBytes, pages, threads, direct, replace: false })
  }

  async discard(round: number): Promise<void> { await rm(this.folder(round), { recursive: true, force: true }) }

  /** Each round has a directory of its own: the loop's names are the same every time. */
  private folder(round: number): string { return join(this.options.directory, `round-${round}`) }
}
