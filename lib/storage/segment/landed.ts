import type { Segment } from './segment.js'

/** A page that a call has written or found: where in the index it was then. For the policy, when all pages of the call are through (or when room is short, before that). */
export interface Landed {
  /** Entry of the page index, -1 = none. */
  readonly entry: number
  readonly segment: Segment | null
  readonly slot: number
  readonly generation: number
  readonly written: boolean
}
