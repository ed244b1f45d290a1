import type { Mark } from '../style.js'

/** One thing that was looked at. */
export interface Finding {
  readonly name: string
  readonly state: Mark
  /** What was found, in one line. */
  readonly value: string
  /** What to do about it; empty when there is nothing to do. */
  readonly remedy: string
}
