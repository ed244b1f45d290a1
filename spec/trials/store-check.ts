import type { HiCacheNixl } from '../../lib/index.js'
import type { JournalState, KeyState } from './journal.js'
import type { TrialPages } from './trial-pages.js'

export interface CheckOptions {
  readonly pages: TrialPages
  /** Must this page be there? It has been acknowledged, and nothing is under way. */
  readonly mustBeThere: (key: string, state: KeyState) => boolean
  /** Reasons of misses that count as absent: `corrupt` where the record of a page that was never acknowledged may have outlived its bytes. */
  readonly absentReasons: readonly string[]
  /** Milliseconds after which a page that was absent is asked for once more: another process may have adopted its folder at this moment, and a miss is what lets ours see it. */
  readonly lateMs?: number
  /** May any version that was ever written be there (a delete that was not synchronised is undone)? */
  readonly anyVersion?: (key: string, version: number) => boolean
}

export interface CheckResult {
  /** What was found: a version, or null. */
  readonly found: Map<string, number | null>
  readonly violations: string[]
  readonly required: number
  /** Pages that were absent at first. */
  readonly late: number
  readonly misses: Record<string, number>
}

const AT_ONCE = 32

/** Reads every page that a journal knows, the one used last at last, and compares. */
export async function checkStore(cache: HiCacheNixl, state: JournalState, options: CheckOptions): Promise<CheckResult> {
  const found = new Map<string, number | null>()
  const violations: string[] = []
  const misses: Record<string, number> = {}
  let required = 0
  let late = 0
  const keys = state.byUse()
  for (let at = 0; at < keys.length; at += AT_ONCE) {
    const part = keys.slice(at, at + AT_ONCE)
    const outcomes = await cache.read(part.map(([key]) => key))
    if (options.lateMs !== undefined && outcomes.some((outcome, i) => !outcome.ok && part[i]![1].versions.size > 0)) {
      await new Promise(resolve => { setTimeout(resolve, options.lateMs) })
      const again = await cache.read(part.map(([key]) => key))
      again.forEach((outcome, i) => {
        if (outcome.ok && !outcomes[i]!.ok) late++
        outcomes[i] = outcome
      })
    }
    const there = await Promise.all(part.map(([key]) => cache.exists(key)))
    outcomes.forEach((outcome, i) => {
      const [key, expected] = part[i]!
      const must = !expected.mayBeAbsent && options.mustBeThere(key, expected)
      const may = `expected ${[...expected.versions].join(' or ')}${must ? '' : ' or nothing'}; its journal: ${expected.history.join(', ')}`
      if (must) required++
      if (outcome.ok) {
        const version = options.pages.versionOf(key, outcome.value)
        found.set(key, version)
        if (version === null) violations.push(`${key} has wrong bytes (${may})`)
        else if (!expected.versions.has(version) && options.anyVersion?.(key, version) !== true) violations.push(`${key} has version ${version} (${may})`)
        if (must && !there[i]) violations.push(`${key} was read and is then said not to be there`)
        return
      }
      found.set(key, null)
      const reason = outcome.status === 'miss' ? outcome.reason : `${outcome.status}: ${outcome.error.message}`
      misses[reason] = (misses[reason] ?? 0) + 1
      if (must) violations.push(`${key} is lost: ${reason} (${may})`)
      else if (!options.absentReasons.includes(reason)) violations.push(`${key} was a miss: ${reason} (${may})`)
    })
  }
  return { found, violations, required, late, misses }
}
