import { ArmSummary } from './arm-summary.js'
import type { BenchArm, BenchOp } from './bench-arm.js'

export interface RoundsOptions {
  readonly rounds: number
  readonly ops: readonly BenchOp[]
  readonly signal?: AbortSignal
  /** Before every single measurement, the first of them the unmeasured ones. */
  onStep?(arm: BenchArm, op: BenchOp, round: number): void
}

/**
 * Runs arms side by side: in every round each arm runs once, in an order that moves on by one from round to round, so that no arm always follows
 * the same neighbour. Round 0 is not counted: it opens files, compiles code and touches memory for the first time.
 */
export class InterleavedRounds {
  readonly writes: ReadonlyMap<BenchArm, ArmSummary>
  readonly reads: ReadonlyMap<BenchArm, ArmSummary>

  constructor(readonly arms: readonly BenchArm[]) {
    this.writes = new Map(arms.map(arm => [arm, new ArmSummary(arm.name, 'write')]))
    this.reads = new Map(arms.map(arm => [arm, new ArmSummary(arm.name, 'read')]))
  }

  /** Steps that run() takes, for a progress bar. */
  static steps(arms: number, rounds: number): number { return arms * 2 * (rounds + 1) }

  async run(options: RoundsOptions): Promise<void> {
    for (let round = 0; round <= options.rounds; round++) {
      const order = this.arms.map((_, index) => this.arms[(index + round) % this.arms.length]!)
      try {
        // Reads come after all writes: an arm's pages have left every cache by then as far as they ever will.
        for (const op of ['write', 'read'] as const) {
          for (const arm of order) {
            options.signal?.throwIfAborted()
            options.onStep?.(arm, op, round)
            // What is only read has to be written first all the same.
            if (op === 'read' && !options.ops.includes('read')) continue
            const sample = await arm[op](round)
            if (round > 0 && options.ops.includes(op)) (op === 'write' ? this.writes : this.reads).get(arm)!.add(sample)
          }
        }
      } finally {
        for (const arm of order) await arm.discard(round)
      }
    }
  }
}
