import type { HiCacheNixl } from '../../lib/index.js'
import type { JournalLine } from './journal.js'
import type { Random } from './random.js'
import type { TrialPages } from './trial-pages.js'

export interface LoadOptions {
  readonly pages: TrialPages
  /** Pages that this load alone writes and deletes. */
  readonly keys: readonly string[]
  /** Pages of other writers: read, and looked at. */
  readonly others: readonly string[]
  readonly random: Random
  /** Versions begin after this one and are `versionStep` apart. */
  readonly lastVersion: number
  readonly versionStep: number
  /** What is there before the load begins. */
  readonly known: ReadonlyMap<string, number | null>
  /** Pages may be evicted at any time. */
  readonly evicting: boolean
  /** What lies in another writer's segments may be found again until its owner has heard that it is gone: a page that was deleted, or an older version once the newer one is evicted. */
  readonly mayReturn?: 'deleted' | 'older'
  readonly lanes: number
  /** Calls to make; infinite: until the process ends. */
  readonly calls: number
  readonly onCall?: () => void
}

const BATCH = 8

/**
 * Sets, gets, batches, deletes and lookups of pages, in several lanes. Each key is one lane's, so that what was acknowledged last is known exactly; every
 * lane checks what it reads down to the last byte.
 */
export class MixedLoad {
  /** What was wrong. */
  readonly violations: string[] = []
  /** Outcomes that a load may have and a trial wants to know of. */
  readonly notStored = new Map<string, number>()
  readonly counts = { sets: 0, hits: 0, misses: 0, deletes: 0, lookups: 0, stale: 0, others: 0 }
  readonly #cache: HiCacheNixl
  readonly #log: (...lines: JournalLine[]) => void
  readonly #options: LoadOptions
  readonly #known: Map<string, number | null | 'unknown'>
  #version: number
  #calls = 0

  constructor(cache: HiCacheNixl, log: (...lines: JournalLine[]) => void, options: LoadOptions) {
    this.#cache = cache
    this.#log = log
    this.#options = options
    this.#version = options.lastVersion
    this.#known = new Map(options.known)
  }

  async run(): Promise<void> {
    const { keys, lanes } = this.#options
    const own = Array.from({ length: lanes }, (_, lane) => keys.filter((_key, i) => i % lanes === lane))
    await Promise.all(own.map(keysOfLane => this.#lane(keysOfLane)))
  }

  async #lane(keys: readonly string[]): Promise<void> {
    const { random, calls, onCall } = this.#options
    while (this.#calls++ < calls) {
      const kind = random.below(100)
      if (kind < 25) await this.#write([random.pick(keys)])
      else if (kind < 50) await this.#write(this.#some(keys, 1 + random.below(BATCH)))
      else if (kind < 70) await this.#read(this.#some(keys, 1 + random.below(BATCH)))
      else if (kind < 80) await this.#readOthers()
      else if (kind < 90) await this.#lookUp(this.#some(keys, 1 + random.below(BATCH)))
      else await this.#delete(random.pick(keys))
      onCall?.()
    }
  }

  #some(keys: readonly string[], count: number): string[] {
    return [...new Set(Array.from({ length: count }, () => this.#options.random.pick(keys)))]
  }

  async #write(keys: readonly string[]): Promise<void> {
    const { pages, versionStep } = this.#options
    const versions = keys.map(() => this.#version += versionStep)
    this.#log(...keys.map((key, i) => `b ${key} ${versions[i]}`))
    const outcomes = await this.#cache.write(keys.map((key, i) => [key, pages.page(key, versions[i]!)] as const))
    this.#log(...outcomes.map(({ ok, key }, i) => `${ok ? 's' : 'n'} ${key} ${versions[i]}`))
    outcomes.forEach((outcome, i) => {
      this.#known.set(outcome.key, outcome.ok ? versions[i]! : 'unknown')
      if (outcome.ok) this.counts.sets++
      else this.notStored.set(`${outcome.status}: ${outcome.error.message}`, (this.notStored.get(`${outcome.status}: ${outcome.error.message}`) ?? 0) + 1)
    })
  }

  async #read(keys: readonly string[]): Promise<void> {
    const { pages, evicting } = this.#options
    this.#log(...keys.map(key => `r ${key}`))
    for (const outcome of await this.#cache.read(keys)) {
      const known = this.#known.get(outcome.key) ?? null
      const expected = `${outcome.key}, of which version ${known} is there,`
      if (outcome.ok) {
        this.counts.hits++
        const version = pages.versionOf(outcome.key, outcome.value)
        if (version === null) this.#wrong(`${expected} has wrong bytes`)
        else if (known !== 'unknown' && version !== known && !this.#mayReturn(known, version)) this.#wrong(`${expected} was read as version ${version}`)
      } else if (outcome.status !== 'miss') {
        this.#wrong(`${expected} could not be read: ${outcome.status}: ${outcome.error.message}`)
      } else {
        this.counts.misses++
        if (outcome.reason !== 'absent') this.#wrong(`${expected} was a miss: ${outcome.reason}`)
        else if (!evicting && typeof known === 'number') this.#wrong(`${expected} was absent, and nothing has to be evicted`)
      }
    }
  }

  async #readOthers(): Promise<void> {
    const { others, pages, keys } = this.#options
    for (const outcome of await this.#cache.read(this.#some(others.length > 0 ? others : keys, BATCH))) {
      this.counts.others++
      if (outcome.ok) {
        if (pages.versionOf(outcome.key, outcome.value) === null) this.#wrong(`${outcome.key}, of another writer, has wrong bytes`)
      } else if (outcome.status !== 'miss') {
        this.#wrong(`${outcome.key}, of another writer, could not be read: ${outcome.status}: ${outcome.error.message}`)
      } else if (outcome.reason === 'stale') {
        this.counts.stale++
      } else if (outcome.reason !== 'absent') {
        this.#wrong(`${outcome.key}, of another writer, was a miss: ${outcome.reason}`)
      }
    }
  }

  async #lookUp(keys: readonly string[]): Promise<void> {
    const there = await this.#cache.batchExists(keys)
    this.counts.lookups += keys.length
    const { evicting } = this.#options
    keys.forEach((key, i) => {
      const known = this.#known.get(key) ?? null
      if (i < there && known === null && this.#options.mayReturn === undefined) this.#wrong(`${key} is said to be there, and is not`)
      if (i === there && typeof known === 'number' && !evicting) this.#wrong(`${key} is said not to be there, and is`)
    })
  }

  async #delete(key: string): Promise<void> {
    this.#log(`x ${key}`)
    await this.#cache.delete(key)
    this.#log(`d ${key}`)
    this.counts.deletes++
    this.#known.set(key, null)
  }

  #mayReturn(known: number | null, version: number): boolean {
    const { mayReturn } = this.#options
    return known === null ? mayReturn !== undefined : mayReturn === 'older' && version < known
  }

  #wrong(what: string): void { this.violations.push(what) }
}
