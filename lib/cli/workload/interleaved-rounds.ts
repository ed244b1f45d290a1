import { ArmSummary } from './arm-summary.js'
import { STEPS, type BenchArm, type BenchOp } from './bench-arm.js'

export interface RoundsOptions {
  readonly rounds: number
  /** Arms that may be left out when they fail in the unmeasured round: comparisons that this system cannot run. */
  readonly optional: ReadonlySet<BenchArm>
  /** Leave the rounds' pages to the caller to remove. Default: they are removed at the end of their round. */
  readonly keep?: boolean
  readonly signal?: AbortSignal
  /** Before every single measurement, those of the unmeasured round 0 included. */
  onStep?(arm: BenchArm, op: BenchOp, round: number): void
  onLeftOut?(arm: BenchArm, error: unknown): void
}

/**
 * Runs arms side by side: in every round each arm runs once, in an order that moves on by one from round to round, so that no arm always has
 * the first turn. Round 0 is not counted: it opens files, compiles code and touches memory for the first time.
 */
export class InterleavedRounds {
  private arms: readonly BenchArm[]
  private readonly summaries = new Map<string, ArmSummary>()

  constructor(arms: readonly BenchArm[]) { this.arms = arms }

  /** Undefined for an arm that was left out, and for a step that it has no part in. */
  summary(arm: BenchArm, op: BenchOp): ArmSummary | undefined { return this.summaries.get(`${op} ${arm.name}`) }

  async run(options: RoundsOptions): Promise<void> {
    for (let round = 0; round <= options.rounds; round++) {
      const order = this.arms.map((_, index) => this.arms[(index + round) % this.arms.length]!)
      try {
        // Reads come after the writes of all arms, so that no arm reads what its device or kernel has just seen more recently than another.
        for (const op of STEPS) {
          for (const arm of order) {
            if (arm.steps.has(op) && this.arms.includes(arm)) await this.step(arm, op, round, options)
          }
        }
      } finally {
        if (options.keep !== true) for (const arm of order) await arm.discard(round)
      }
    }
  }

  private async step(arm: BenchArm, op: BenchOp, round: number, options: RoundsOptions): Promise<void> {
    options.signal?.throwIfAborted()
    options.onStep?.(arm, op, round)
    try {
      const sample = await arm.run(op, round)
      if (round === 0) return
      const key = `${op} ${arm.name}`
      if (!this.summaries.has(key)) this.summaries.set(key, new ArmSummary(arm.name, op))
      this.summaries.get(key)!.add(sample)
    } catch (error) {
      if (round > 0 || !options.optional.has(arm)) throw error
      this.arms = this.arms.filter(other => other !== arm)
      options.onLeftOut?.(arm, error)
    }
  }
}
