import { closeSync, existsSync, openSync, readFileSync, writeSync } from 'node:fs'

/**
 * What one process does to pages. A line goes to the system before the call that it announces, or once the call has settled and before anything else
 * happens: whatever becomes of the process, what stands here has happened.
 *
 * | line | means |
 * |---|---|
 * | `b key version` | a set begins |
 * | `s key version` | it is stored |
 * | `n key version` | it is not, or nobody knows |
 * | `x key` | a delete begins |
 * | `d key` | it has settled |
 * | `r key` | a read begins |
 * | `o key version` | seen after a restart; `-` when it was not there |
 */
export type JournalLine = string

export class Journal {
  readonly #descriptor: number

  constructor(path: string) { this.#descriptor = openSync(path, 'a', 0o600) }

  /** Returns once the system has them. */
  readonly write = (...lines: readonly JournalLine[]): void => { writeSync(this.#descriptor, lines.map(line => `${line}\n`).join('')) }

  close(): void { closeSync(this.#descriptor) }
}

/** What may be found under a key. */
export interface KeyState {
  /** Any of these versions, whole. */
  versions: Set<number>
  /** It may also be absent: deleted, never acknowledged, or a call was under way. */
  mayBeAbsent: boolean
  /** When it was last acknowledged, counted in lines; -1: never. */
  acknowledgedAt: number
  /** When it was last used in any way. */
  usedAt: number
  /** Its last lines, with their numbers: what a violation is told with. */
  history: string[]
}

const HISTORY = 10

/** Reads journals: what must and what may be there now. */
export class JournalState {
  readonly keys = new Map<string, KeyState>()
  /** Every `key version` that ever began to be written. */
  readonly begun = new Set<string>()
  /** Greatest version of all. */
  lastVersion = 0
  acknowledged = 0
  #lines = 0

  static ofFiles(paths: readonly string[]): JournalState {
    const state = new JournalState()
    for (const path of paths) {
      if (!existsSync(path)) continue
      // What stands behind the last line's end never came to be a line.
      for (const line of readFileSync(path, 'utf8').split('\n').slice(0, -1)) state.add(line)
    }
    return state
  }

  add(line: JournalLine): void {
    const [what, key, word] = line.split(' ') as [string, string, string | undefined]
    const at = this.#lines++
    let state = this.keys.get(key)
    if (state === undefined) this.keys.set(key, state = { versions: new Set(), mayBeAbsent: true, acknowledgedAt: -1, usedAt: -1, history: [] })
    const version = Number(word)
    state.usedAt = at
    state.history.push(`${at}: ${what}${word === undefined ? '' : ` ${word}`}`)
    if (state.history.length > HISTORY) state.history.shift()
    switch (what) {
      case 'b':
        // A page that is replaced is there all the time: its successor is whole before it goes.
        state.versions.add(version)
        this.begun.add(`${key} ${word}`)
        this.lastVersion = Math.max(this.lastVersion, version)
        break
      case 's':
        state.versions = new Set([version])
        state.mayBeAbsent = false
        state.acknowledgedAt = at
        this.acknowledged++
        break
      case 'n':
      case 'x':
        state.mayBeAbsent = true
        break
      case 'd':
        state.versions.clear()
        state.mayBeAbsent = true
        state.acknowledgedAt = -1
        break
      case 'o':
        state.versions = new Set(word === '-' ? [] : [version])
        state.mayBeAbsent = word === '-'
        state.acknowledgedAt = word === '-' ? -1 : at
        break
      case 'r':
        break
      default:
        throw new Error(`A journal has the line ${JSON.stringify(line)}.`)
    }
  }

  /** How many other keys were used after this one was last acknowledged. */
  usedSince(state: KeyState): number {
    let count = 0
    for (const other of this.keys.values()) if (other !== state && other.usedAt > state.acknowledgedAt) count++
    return count
  }

  /** Keys in the order of their last use. */
  byUse(): [string, KeyState][] { return [...this.keys].sort(([, a], [, b]) => a.usedAt - b.usedAt) }
}
