/**
 * A process that damages copies of a store at random, one after the other, before it opens them or while they are open, and uses them; it says where it is, so that a
 * crash has a name. Or builds the store that is copied.
 */
import { cpSync, constants } from 'node:fs'
import { HiCacheError, HiCacheNixl, type OpenOptions } from '../../lib/index.js'
import { damage } from './damage.js'
import { Random } from './random.js'
import { TrialPages, trialKeys } from './trial-pages.js'
import { say, taskOf } from './trial-process.js'

export interface CorruptTask {
  readonly options: OpenOptions
  /** Where the store is built: its earlier state, and how it is in the end. */
  readonly older: string
  readonly template: string
  /** Copies to damage; none: build. */
  readonly copies: readonly { readonly directory: string; readonly seed: number; readonly whileOpen: boolean }[]
}

const pages = new TrialPages([4096, 30_000, 65_536])
const keys = trialKeys('page', 60)
const NEW = trialKeys('new', 8)

async function build(task: CorruptTask): Promise<void> {
  for (const [directory, version] of [[task.older, 1], [task.template, 2]] as const) {
    if (version === 2) cpSync(task.older, task.template, { recursive: true })
    const cache = await HiCacheNixl.open({ ...task.options, storageDir: directory })
    // Some keep their first version, some are there from the beginning only.
    const written = await cache.write(keys.slice(version === 1 ? 0 : 20, version === 1 ? 40 : 60).map(key => [key, pages.page(key, version)] as const))
    for (const outcome of written) if (!outcome.ok) throw outcome.error
    for (const key of keys.slice(30, 34)) await cache.delete(key)
    await cache.close()
  }
}

/** Reads everything; what is there is a whole version. */
async function readAll(cache: HiCacheNixl, seen: Record<string, number>): Promise<string[]> {
  const violations: string[] = []
  for (const outcome of await cache.read([...keys, ...NEW])) {
    const name = outcome.ok ? 'hit' : outcome.status === 'miss' ? outcome.reason : outcome.error.code
    seen[name] = (seen[name] ?? 0) + 1
    if (outcome.ok && pages.versionOf(outcome.key, outcome.value) === null) violations.push(`${outcome.key} has wrong bytes`)
  }
  return violations
}

async function attempt(task: CorruptTask, { directory, seed, whileOpen }: CorruptTask['copies'][number]): Promise<void> {
  const random = new Random(seed)
  const violations: string[] = []
  const seen: Record<string, number> = {}
  cpSync(task.template, directory, { recursive: true, mode: constants.COPYFILE_FICLONE })
  const harm = (): string => {
    const { file, what } = damage(directory, task.older, random)
    return `${file}: ${what}`
  }
  let harmed = whileOpen ? '' : harm()
  if (!whileOpen) await say({ at: directory, harmed, seed })
  const open = async (): Promise<HiCacheNixl | null> => {
    try {
      return await HiCacheNixl.open({ ...task.options, storageDir: directory })
    } catch (error) {
      if (!HiCacheError.is(error)) violations.push(`open() threw what is not ours: ${String(error)}`)
      const name = HiCacheError.is(error) ? `refused: ${error.code} ${error.errno ?? ''}` : 'refused'
      seen[name] = (seen[name] ?? 0) + 1
      // Only what says of which version all of it is may keep a store from opening.
      if (!harmed.includes('FORMAT') && !whileOpen) violations.push(`it does not open: ${String(error)}`)
      return null
    }
  }
  for (const opening of [1, 2]) {
    const cache = await open()
    if (cache === null) break
    if (opening === 1 && whileOpen) {
      if (random.chance(0.5)) violations.push(...await readAll(cache, seen))
      harmed = harm()
      await say({ at: directory, harmed, seed })
    }
    violations.push(...await readAll(cache, seen))
    // Of what was damaged before it was opened nothing may come back: pages that are stored now are there, now and after the next opening.
    if (opening === 2 && !whileOpen) {
      for (const outcome of await cache.read(NEW)) if (!outcome.ok) violations.push(`${outcome.key}, stored after the damage, is gone at the next opening: ${outcome.status === 'miss' ? outcome.reason : outcome.error.message}`)
    }
    const version = 10 + opening
    for (const outcome of await cache.write(NEW.map(key => [key, pages.page(key, version)] as const))) {
      if (!outcome.ok && !whileOpen) violations.push(`${outcome.key} cannot be stored: ${outcome.error.message}`)
      if (!outcome.ok) seen[`not stored: ${outcome.error.code}`] = (seen[`not stored: ${outcome.error.code}`] ?? 0) + 1
    }
    for (const outcome of await cache.read(NEW)) {
      const got = outcome.ok ? pages.versionOf(outcome.key, outcome.value) : null
      if (outcome.ok ? got === null : !whileOpen) violations.push(`${outcome.key}, just stored, is ${outcome.ok ? 'wrong' : outcome.status === 'miss' ? outcome.reason : outcome.error.message}`)
    }
    const report = await cache.verify()
    seen.corrupt = (seen.corrupt ?? 0) + report.corrupt
    await cache.close()
  }
  await say({ tried: directory, violations, seen, harmed, seed })
}

async function main(task: CorruptTask): Promise<void> {
  if (task.copies.length === 0) await build(task)
  for (const copy of task.copies) await attempt(task, copy)
  await say({ end: true })
  process.disconnect()
}

await main(taskOf<CorruptTask>())
