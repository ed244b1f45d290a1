import type { Health } from '../observe/health.js'

/** One request this often is let through to a directory that does not answer, to see whether it is back. */
const PROBE_EVERY_MS = 1000

/**
 * Which directories answer. One whose operations passed their deadline inside the file system, with nothing answered since, is sick:
 * its pages are `unavailable` at once, instead of every request waiting for a deadline of its own.
 */
export class DirectoryWatch {
  readonly #paths: readonly string[]
  readonly #health: Health
  /** When each directory may be tried next (performance.now()); 0 = it answers. */
  readonly #tryAt: number[]

  constructor(paths: readonly string[], health: Health) {
    this.#paths = paths
    this.#health = health
    this.#tryAt = paths.map(() => 0)
  }

  /** Shall a request to this directory be answered without trying? */
  unavailable(directory: number): boolean {
    const tryAt = this.#tryAt[directory]!
    if (tryAt === 0) return false
    const now = performance.now()
    if (now < tryAt) return true
    this.#tryAt[directory] = now + PROBE_EVERY_MS
    return false
  }

  readonly hear = (directory: number, event: 'answered' | 'deadline'): void => {
    const path = this.#paths[directory]!
    if (event === 'answered') {
      if (this.#tryAt[directory] !== 0) this.#health.clear(`directory:${path}`)
      this.#tryAt[directory] = 0
    } else {
      this.#tryAt[directory] = performance.now() + PROBE_EVERY_MS
      this.#health.raise(`directory:${path}`, `The storage directory ${path} does not answer: operations passed their deadline. Its pages are unavailable until it does.`)
    }
  }
}
