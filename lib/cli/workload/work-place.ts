import type { OpenOptions } from '../../index.js'

/** Where one run of replay, demo or bench keeps its pages. */
export interface WorkPlace {
  /** For people. */
  readonly paths: readonly string[]
  /** It was made for this run: remove() takes all of it. */
  readonly fresh: boolean
  /** What leads a cache there. */
  readonly open: Partial<OpenOptions>
  /** Throws ERR_IO when it has less room than that, before anything is written. */
  requireSpace(bytes: number, what: string): Promise<void>
  /** Removes all of it, if it was made for this run. */
  remove(): Promise<void>
  close(): void
}
