import type { Health } from '../observe/health.js'
import { textOfMeta } from '../storage/object/object-refusal.js'

/** One request this often is let through to a directory that does not answer, to see whether it is back. */
const PROBE_EVERY_MS = 1000

/** What is watched, for messages. */
export type WatchedKind = 'storage directory' | 'endpoint'

/**
 * Which directories (or the endpoint of an object store) answer. One whose operations passed their deadline, with nothing answered since, or that said itself that it
 * cannot, is sick: its pages are `unavailable` at once, instead of every request waiting for a deadline of its own.
 */
export class DirectoryWatch {
  readonly #names: readonly string[]
  readonly #health: Health
  readonly #kind: WatchedKind
  /** When each directory may be tried next (performance.now()); 0 = it answers. */
  readonly #tryAt: number[]
  /** What is known about why it does not, behind a colon; empty when nothing is. */
  readonly #why: string[]

  constructor(names: readonly string[], health: Health, kind: WatchedKind = 'storage directory') {
    this.#names = names
    this.#health = health
    this.#kind = kind
    this.#tryAt = names.map(() => 0)
    this.#why = names.map(() => '')
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

  /** Why a request to it was answered without trying, as a sentence. */
  reason(directory: number): string { return `The ${this.#kind} ${this.#names[directory]!} does not answer${this.#why[directory]!}.` }

  readonly hear = (directory: number, event: 'answered' | 'deadline' | 'unavailable', why?: { readonly status: number; readonly meta: Uint8Array }): void => {
    const name = this.#names[directory]!
    const cause = `directory:${name}`
    if (event === 'answered') {
      if (this.#tryAt[directory] !== 0) this.#health.clear(cause)
      this.#tryAt[directory] = 0
      return
    }
    this.#tryAt[directory] = performance.now() + PROBE_EVERY_MS
    if (event === 'deadline') {
      this.#why[directory] = ''
      this.#health.raise(cause, `The ${this.#kind} ${name} does not answer: operations passed their deadline. Its pages are unavailable until it does.`)
    } else {
      const text = textOfMeta(why?.meta ?? null)
      const said = why !== undefined && why.status > 0 ? `it says ${why.status}${text === '' ? '' : ` ${text}`}` : text
      this.#why[directory] = said === '' ? '' : `: ${said.replace(/\.$/, '')}`
      this.#health.raise(cause, `The ${this.#kind} ${name} does not answer${this.#why[directory]}. Its pages are unavailable until it does.`)
    }
  }
}
