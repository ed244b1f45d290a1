import { setTimeout as delay } from 'node:timers/promises'
import { HiCacheNixl, type ReadOutcome, type Tensor } from '../../lib/index.js'
import { FakeS3, type FakeRequest } from '../support/fake-s3.js'
import { fakeOptions } from '../support/fake-s3-cache.js'
import type { FakeTrouble } from '../support/fake-s3-faults.js'
import { ABSENT, ObjectsModel } from './objects-model.js'
import { Random } from './random.js'
import { TrialPages, trialKeys } from './trial-pages.js'
import { Tally, type TrialOptions, type TrialReport } from './trial.js'

const MIB = 1024 * 1024
const CACHES = 2
/** Calls at a time. */
const LANES = 16
/** After so many calls something about the server changes. */
const PHASE_CALLS = 250
const TIMEOUT_MS = 1500
const SMALL = new TrialPages([4096, 40_000, 65_536])
/** In two parts. */
const LARGE = new TrialPages([5 * MIB + 4096, 5 * MIB + 70_000])

/** What is told of a page when something was wrong with it. */
const HISTORY_MAX = 40

const pagesOf = (key: string): TrialPages => key.startsWith('large') ? LARGE : SMALL

/** Two caches on one bucket of a server at which everything goes wrong now and then, and what they may say of it. */
class ObjectsTrial {
  readonly #server = new FakeS3()
  readonly #caches: HiCacheNixl[] = []
  readonly #keys = trialKeys('page', 60)
  readonly #large = trialKeys('large', 2)
  readonly #model = new ObjectsModel([...this.#keys, ...this.#large])
  readonly #tally = new Tally()
  readonly #random: Random
  readonly #options: TrialOptions
  #rate = 0
  #down = false
  #clockSetAt = 0
  #calls = 0
  #version = 0
  /** The latest calls and requests of each page. */
  readonly #history = new Map<string, (() => string)[]>()

  constructor(options: TrialOptions) {
    this.#options = options
    this.#random = new Random(options.seed)
  }

  async run(): Promise<TrialReport> {
    await this.#server.up()
    try {
      this.#server.chance = request => this.#trouble(request)
      for (let i = 0; i < CACHES; i++) this.#caches.push(await this.#open())
      await Promise.all(Array.from({ length: LANES }, async () => {
        while (this.#calls < this.#options.count) {
          if (++this.#calls % PHASE_CALLS === 0) await this.#change()
          await this.#call()
        }
      }))
      await this.#check()
    } finally {
      this.#server.chance = null
      this.#server.endFaults()
      await Promise.all(this.#caches.map(cache => cache.close()))
      await this.#server.down()
    }
    return this.#tally
  }

  #open(): Promise<HiCacheNixl> {
    return HiCacheNixl.open(fakeOptions(this.#server, { arenaBytes: 128 * MIB, timeoutMs: TIMEOUT_MS, obj: { crtMinLimit: 1, throughput_target_gbps: 10 } }))
  }

  /** What goes wrong with this request. */
  #trouble(request: FakeRequest): FakeTrouble | null {
    const { method, query } = request
    const random = this.#random
    let trouble: FakeTrouble | null = null
    this.#note(request.key, () => `${request.method} arrived ${request.arrivedAt.toFixed(1)}, ${request.bodyBytes} bytes, over ${request.socket}, ${JSON.stringify(trouble)}: ${request.status} ${request.outcome}`)
    trouble = this.#pickTrouble(random, method, query)
    return trouble
  }

  #pickTrouble(random: Random, method: string, query: ReadonlyMap<string, string>): FakeTrouble | null {
    if (!random.chance(this.#rate)) return null
    const troubles: FakeTrouble[] = [
      { kind: 'answer', status: 500 }, { kind: 'answer', status: 503, retryAfter: '0' }, { kind: 'answer', status: 429 }, { kind: 'answer', status: 500, early: true },
      { kind: 'reset', when: 'before' }, { kind: 'reset', when: 'acknowledgement' }
    ]
    if (method === 'PUT') troubles.push({ kind: 'reset', when: 'request' }, { kind: 'reset', when: 'request', bytes: 1000 })
    if (method === 'GET') troubles.push({ kind: 'short' }, { kind: 'short', bytes: 0 }, { kind: 'reset', when: 'answer' }, { kind: 'flip' }, { kind: 'flip', at: 0 })
    if (method === 'POST' && query.has('uploadId')) troubles.push({ kind: 'answer', status: 200, code: 'InternalError' })
    // These cost a call much of its time, or all of it.
    const slow: FakeTrouble[] = [{ kind: 'hold', when: method === 'GET' ? 'body' : 'answer' }, { kind: 'answer', status: 503, retryAfter: '1' }]
    const trouble = random.pick(random.chance(0.02) ? slow : troubles)
    this.#tally.add(`faults: ${trouble.kind}${'when' in trouble ? ` ${trouble.when}` : ''}`)
    return trouble
  }

  async #change(): Promise<void> {
    const random = this.#random
    this.#rate = random.pick([0, 0.02, 0.1, 0.3, 0.6])
    this.#server.bucket.conditionalWrites = random.pick(['honoured', 'honoured', 'ignored', 'refused'])
    const skew = random.pick([0, 0, 20, -20]) * 60_000
    // A request is signed anew once: its clock changes once in the time that it has.
    if (performance.now() - this.#clockSetAt > 2 * TIMEOUT_MS) {
      this.#server.clockSkewMs = skew
      this.#clockSetAt = performance.now()
    }
    const dropped = random.chance(0.5)
    if (dropped) this.#server.dropConnections()
    if (dropped && !this.#down && random.chance(0.5)) {
      this.#tally.add('outages')
      this.#down = true
      await this.#server.down()
      await delay(random.below(400))
      await this.#server.up()
      this.#down = false
    }
    this.#options.onProgress?.(`${this.#calls} calls: ${JSON.stringify(this.#tally.counts)}`)
  }

  async #call(): Promise<void> {
    const random = this.#random
    const key = random.chance(0.03) ? random.pick(this.#large) : random.pick(this.#keys)
    const cache = random.below(CACHES)
    if (random.chance(0.5) || this.#model.isChanging(key)) await this.#read(key, cache)
    else if (random.chance(0.2)) await this.#delete(key, cache)
    else await this.#write(key, cache)
  }

  async #read(key: string, cache: number): Promise<void> {
    const read = this.#model.read(key, cache)
    this.#noteCall(key, `cache ${cache} reads`)
    const [outcome] = await this.#caches[cache]!.read([key], this.#signal())
    const what = outcome!.ok ? 'hit' : outcome!.status === 'miss' ? outcome!.reason : outcome!.status
    this.#tally.add(`reads: ${what}`)
    const version = this.#versionOf(key, outcome!)
    this.#noteCall(key, `cache ${cache} has read: ${what} ${version}`)
    const violation = this.#model.found(read, version)
    if (violation !== null) this.#wrong([violation, ...(this.#history.get(key) ?? []).map(tell => tell())].join('\n    '))
    // Bytes that were wrong twice are `corrupt`. One whose length changes each time it is asked for is given up, and so is one in parts that is replaced in their midst.
    const restless = read.changes > 1 && (what === 'length' || what === 'stale')
    if (!restless && !['hit', 'absent', 'unavailable', 'corrupt', 'timeout', 'cancelled'].includes(what)) {
      this.#wrong(`a read of ${key} ended as ${what}, with ${read.changes} changes of the page meanwhile`)
    }
    if (what === 'unavailable') await this.#pause()
  }

  async #write(key: string, cache: number): Promise<void> {
    // Also what is there already.
    const known = [...this.#model.possible(key)].filter(version => version !== ABSENT)
    const version = known.length > 0 && this.#random.chance(0.2) ? this.#random.pick(known) : ++this.#version
    this.#model.begin(key, version)
    this.#noteCall(key, `cache ${cache} writes ${version}`)
    const [outcome] = await this.#caches[cache]!.write([[key, pagesOf(key).page(key, version)]], this.#signal())
    this.#tally.add(`writes: ${outcome!.status}`)
    if (!outcome!.ok) {
      if (!['rejected', 'timeout', 'cancelled'].includes(outcome!.status)) this.#wrong(`a write of ${key} ended as ${outcome!.status}: ${outcome!.error.message}`)
      await this.#quiet(key, cache)
    }
    this.#model.end(key, outcome!.ok)
    this.#noteCall(key, `cache ${cache} has written ${version}: ${outcome!.status}`)
    if (outcome!.status === 'rejected') await this.#pause()
  }

  async #delete(key: string, cache: number): Promise<void> {
    this.#model.begin(key, ABSENT)
    this.#noteCall(key, `cache ${cache} deletes`)
    const deleted = await this.#caches[cache]!.delete(key, this.#signal())
    this.#tally.add(`deletes: ${deleted}`)
    if (!deleted) await this.#quiet(key, cache)
    this.#model.end(key, deleted)
    this.#noteCall(key, `cache ${cache} has deleted: ${deleted}`)
  }

  /** Some calls are called off. */
  #signal(): { signal?: AbortSignal } { return this.#random.chance(0.03) ? { signal: AbortSignal.timeout(this.#random.below(20)) } : {} }

  /** Nothing of a change that failed is under way any more: native code has let go of its memory, and the server has seen the end of its requests. */
  async #quiet(key: string, cache: number): Promise<void> {
    const busy = (): boolean => this.#caches[cache]!.stats().arena_quarantined_bytes! > 0 || this.#server.requests.some(request => request.outcome === 'open' && request.key.startsWith(key))
    do {
      for (let turn = 0; turn < 3; turn++) await delay(5)
    } while (busy())
    // What has ended is not asked about again.
    if (this.#server.requests.length > 2000) this.#server.requests.splice(0, this.#server.requests.length, ...this.#server.requests.filter(({ outcome }) => outcome === 'open'))
  }

  #note(key: string, what: () => string): void {
    const name = key.split('_')[0]!
    const known = this.#history.get(name) ?? []
    if (known.length === 0) this.#history.set(name, known)
    known.push(what)
    if (known.length > HISTORY_MAX) known.shift()
  }

  #noteCall(key: string, what: string): void {
    const at = performance.now().toFixed(1)
    this.#note(key, () => `${at} ${what}`)
  }

  /** An endpoint that is down is not worth all the calls. */
  async #pause(): Promise<void> { await delay(50) }

  /** With a server that is sound: all that was acknowledged is there, the same for both caches and for one that is new. */
  async #check(): Promise<void> {
    this.#rate = 0
    this.#server.endFaults()
    this.#server.clockSkewMs = 0
    this.#caches.push(await this.#open())
    for (const [cache, opened] of this.#caches.entries()) {
      const name = cache === CACHES ? 'a new cache' : `cache ${cache}`
      for (const until = performance.now() + 20_000; !await opened.set('probe', new Uint8Array(1)) && performance.now() < until;) await this.#pause()
      if (opened.health().status !== 'ok') this.#wrong(`${name} says in the end: ${opened.health().reasons.join(' ')}`)
      for (const key of [...this.#keys, ...this.#large]) {
        const read = this.#model.read(key, cache)
        const [outcome] = await opened.read([key])
        const version = this.#versionOf(key, outcome!)
        this.#wrong(this.#model.found(read, version))
        if (version === null) this.#wrong(`${key} cannot be read in the end: ${JSON.stringify(outcome)}`)
        this.#tally.add(version === ABSENT ? 'in the end: absent' : 'in the end: there')
      }
      const used = opened.stats().arena_used_bytes
      if (used !== 0) this.#wrong(`${name} has ${used} bytes of its arena in use`)
    }
    const { corrupt, ok } = await this.#caches[0]!.verify()
    if (corrupt > 0 || ok === 0) this.#wrong(`verify() finds ${corrupt} corrupt and ${ok} good pages`)
  }

  /** null: it could not be told. */
  #versionOf(key: string, outcome: ReadOutcome<Tensor>): number | null {
    if (!outcome.ok) return outcome.status === 'miss' && outcome.reason === 'absent' ? ABSENT : null
    const version = pagesOf(key).versionOf(key, outcome.value)
    if (version === null || !outcome.verified) this.#wrong(`${key} has WRONG BYTES`)
    return version
  }

  #wrong(what: string | null): void { if (what !== null) this.#tally.wrong(`call ${this.#calls}`, [what]) }
}

/** `count` calls (reads, writes, deletes) of two caches on a bucket whose server fails at random: no byte is ever wrong, no page is lost that was acknowledged. */
export async function objectsTrial(options: TrialOptions): Promise<TrialReport> { return await new ObjectsTrial(options).run() }
