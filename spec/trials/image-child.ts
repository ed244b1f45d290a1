/** A process that opens what crash images left, one after the other, and compares; it says which one it is at, so that a crash has a name. */
import { readFileSync } from 'node:fs'
import { HiCacheError, HiCacheNixl, type OpenOptions } from '../../lib/index.js'
import { JournalState } from './journal.js'
import { checkStore } from './store-check.js'
import { TrialPages, trialKeys } from './trial-pages.js'
import { say, taskOf } from './trial-process.js'

export interface ImageTask {
  readonly images: readonly string[]
  readonly options: OpenOptions
  readonly sizes: readonly number[]
}

/** What may be found in an image; beside it, as JSON. */
export interface ImageExpectation {
  readonly lines: readonly string[]
  /** Keys that were acknowledged and must be there. */
  readonly required: readonly string[]
  /** An older version may be there where nothing is required: what said that it is gone was not synchronised. */
  readonly older: boolean
}

/** Stores new pages and reads them back: a store that opened is one that works. */
async function useStore(cache: HiCacheNixl, pages: TrialPages): Promise<string[]> {
  const keys = trialKeys('afterwards', 12)
  const written = await cache.write(keys.map(key => [key, pages.page(key, 1)] as const))
  const read = await cache.read(keys)
  return written.flatMap((outcome, i) => {
    const back = read[i]!
    if (!outcome.ok) return [`${outcome.key} cannot be stored: ${outcome.status}: ${outcome.error.message}`]
    if (!back.ok) return [`${outcome.key}, just stored, is a miss: ${back.status === 'miss' ? back.reason : back.error.message}`]
    return pages.versionOf(back.key, back.value) === 1 ? [] : [`${outcome.key}, just stored, has wrong bytes`]
  })
}

async function look(task: ImageTask, image: string): Promise<void> {
  const pages = new TrialPages(task.sizes)
  const expected = JSON.parse(readFileSync(`${image}.json`, 'utf8')) as ImageExpectation
  const state = new JournalState()
  for (const line of expected.lines) state.add(line)
  const required = new Set(expected.required)
  let revived = 0
  let cache: HiCacheNixl
  try {
    cache = await HiCacheNixl.open({ ...task.options, storageDir: image })
  } catch (error) {
    await say({ image, violations: [`it does not open: ${HiCacheError.is(error) ? `${error.code}: ` : ''}${String(error)}`] }); return;
  }
  const { violations, misses, found } = await checkStore(cache, state, {
    pages, mustBeThere: key => required.has(key), absentReasons: ['absent', 'corrupt'],
    anyVersion: (key, version) => {
      const older = expected.older && !required.has(key) && state.begun.has(`${key} ${version}`)
      if (older) revived++
      return older
    }
  })
  violations.push(...await useStore(cache, pages))
  const { corrupt } = await cache.verify()
  await cache.close()
  let there = 0
  for (const version of found.values()) if (version !== null) there++
  await say({ image, violations, there, required: required.size, revived, corrupt: (misses.corrupt ?? 0) + corrupt })
}

const task = taskOf<ImageTask>()
for (const image of task.images) {
  await say({ at: image })
  await look(task, image)
}
await say({ end: true })
process.disconnect()
