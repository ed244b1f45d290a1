/**
 * A process of the kill trial: opens the store, checks that it holds what the journal says, and loads it until it is killed (or, as told, fills it and counts what
 * fits). What is wrong goes to stderr, and the process ends with code 3.
 */
import { writeSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { HiCacheNixl, type OpenOptions } from '../../lib/index.js'
import { Journal, JournalState } from './journal.js'
import { MixedLoad } from './mixed-load.js'
import { Random } from './random.js'
import { checkStore } from './store-check.js'
import { TrialPages, trialKeys } from './trial-pages.js'
import { say, taskOf } from './trial-process.js'

export interface KillTask {
  readonly options: OpenOptions
  /** load: until it is killed. fill: counts what fits, in a store of its own. end: checks, counts what fits if `fits` is given, closes. */
  readonly role: 'load' | 'fill' | 'end'
  /** Its own first; those of the others count at the end. */
  readonly journals: readonly string[]
  readonly keys: readonly string[]
  readonly others: readonly string[]
  readonly sizes: readonly number[]
  /** Must every page stay (all), those used last (recent), or none (any)? */
  readonly stays: 'all' | 'recent' | 'any'
  /** Pages that the store holds, if they have one size. */
  readonly fits: number
  readonly capacity: number
  readonly seed: number
  readonly writer: number
  readonly writers: number
}

/** Of the pages that fit, this share must be there when they were used last: some room is in preparation, or held by what is in flight. */
const RECENT_SHARE = 0.7
const LANES = 4
/** Within 50 ms, says the store, another process's pages can be seen; machines stall. */
const LATE_MS = 250
const FREE_MS = 10_000

function fail(violations: readonly string[]): never {
  writeSync(2, violations.map(what => `VIOLATION ${what}\n`).join(''))
  process.exit(3)
}

/** Writes new pages until nothing but eviction can have made room for the last ones; counts those that are there, and the slots that are kept ready, of which there are now more and now less. */
async function fill(cache: HiCacheNixl, task: KillTask, name: string): Promise<number> {
  const pages = new TrialPages(task.sizes)
  const keys = trialKeys(name, Math.ceil(3 * task.capacity / task.sizes[0]!))
  for (let at = 0; at < keys.length; at += 8) {
    const part = keys.slice(at, at + 8)
    const outcomes = await cache.write(part.map(key => [key, pages.page(key, 1)] as const))
    for (const outcome of outcomes) if (!outcome.ok) fail([`${outcome.key} does not fit: ${outcome.status}: ${outcome.error.message}`])
  }
  let fits = 0
  for (const key of keys) if (await cache.exists(key)) fits++
  // What was evicted last is free in a moment; what never is has leaked.
  const leaked = (): number => cache.stats().segment_slots! - cache.stats().segment_slots_free! - cache.stats().segment_pages!
  for (const end = performance.now() + FREE_MS; leaked() > 0 && performance.now() < end;) await delay(5)
  return fits + cache.stats().segment_slots_free!
}

async function main(task: KillTask): Promise<void> {
  const pages = new TrialPages(task.sizes)
  const random = new Random(task.seed)
  const cache = await HiCacheNixl.open(task.options)
  void say({ open: true })
  if (task.role === 'fill') {
    await say({ fits: await fill(cache, task, 'first') })
    await cache.close()
    process.disconnect(); return;
  }
  const journal = new Journal(task.journals[0]!)
  // Writers that share a directory and give up pages all the time: docs/decisions.md, 'the newest copy wins', says among whom.
  const olderMayReturn = task.writers > 1 && task.stays === 'any'
  let older = 0
  const known = new Map<string, number | null>()
  let lastVersion = task.writer
  let required = 0
  let late = 0
  const losses: Record<string, number> = {}
  for (const [i, path] of task.journals.entries()) {
    const state = JournalState.ofFiles([path])
    const check = await checkStore(cache, state, {
      pages, absentReasons: olderMayReturn ? ['absent', 'stale'] : ['absent'], ...(task.writers > 1 ? { lateMs: LATE_MS } : {}),
      anyVersion: (key, version) => {
        // A delete in another writer's segments is a request, which a writer that is killed does not hear.
        const maybe = olderMayReturn || (task.writers > 1 && state.keys.get(key)!.mayBeAbsent)
        const known = maybe && state.begun.has(`${key} ${version}`)
        if (known) older++
        return known
      },
      mustBeThere: (_key, key) => task.stays === 'all' || (task.stays === 'recent' && state.usedSince(key) < task.fits * RECENT_SHARE - LANES * 8)
    })
    if (check.violations.length > 0) fail(check.violations)
    required += check.required
    late += check.late
    for (const [reason, count] of Object.entries(check.misses)) losses[reason] = (losses[reason] ?? 0) + count
    if (i > 0) continue
    if (check.found.size > 0) journal.write(...[...check.found].map(([key, version]) => `o ${key} ${version ?? '-'}`))
    for (const [key, version] of check.found) known.set(key, version)
    while (lastVersion <= state.lastVersion) lastVersion += task.writers
  }
  if (task.role === 'end') {
    const fits = task.fits > 0 ? await fill(cache, task, 'last') : 0
    await cache.close()
    await say({ end: true, required, late, older, losses, fits })
    process.disconnect(); return;
  }
  await say({ ready: true, required, late, older })
  const load = new MixedLoad(cache, journal.write, {
    pages, keys: task.keys, others: task.others, random, lastVersion, versionStep: task.writers, known, evicting: task.stays !== 'all', ...(task.writers > 1 ? { mayReturn: olderMayReturn ? 'older' : 'deleted' } : {}), lanes: LANES, calls: Infinity,
    onCall: () => {
      if (load.violations.length > 0) fail(load.violations)
      void say({ call: true })
    }
  })
  await load.run()
}

await main(taskOf<KillTask>()).catch((error: unknown) => fail([error instanceof Error ? error.stack ?? error.message : String(error)]))
