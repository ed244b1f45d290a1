import { HiCacheError } from '../error.js'
import { roundUp, type Arena } from '../memory/arena.js'
import { deviceError, type DeviceMemory } from '../memory/device-memory.js'
import type { Slot } from '../memory/slot.js'
import type { PageToRead, PageToWrite } from '../storage/page-store.js'
import type { ReadOutcome, WriteOutcome } from '../storage/outcome.js'
import type { Target } from '../memory/tensor.js'
import type { CallScope } from '../transfer/call-scope.js'
import type { NativeCuda } from '../transfer/native-binding.js'
import type { RequestMemory } from '../transfer/transfer-request.js'

/** Bytes that one step of a call has in staging memory at most, and of the arena: callers may hold two thirds of that. A page that is larger is a step by itself. */
const STEP_BYTES = 32 * 1024 * 1024
const STEP_SHARE = 1 / 4
/** Steps of a call under way at once: while one is copied, another one is on its way to or from storage. */
const STEPS_AT_ONCE = 2

/** Where a page's bytes are, or are wanted, in the memory of a GPU. It is pinned by whoever made this. */
export interface DevicePlace { readonly memory: DeviceMemory; readonly offset: number }

export interface DeviceTransferParts {
  readonly arena: Arena
  readonly cuda: NativeCuda
  /** Steps of a call, in the layout in use. The memory of their pages is staging memory; each outcome comes once. */
  readonly write: (scope: CallScope, pages: readonly PageToWrite[], end: (index: number, outcome: WriteOutcome) => void) => void
  readonly read: (scope: CallScope, pages: readonly PageToRead[], end: (index: number, outcome: ReadOutcome<Target>, length: number) => void) => void
}

type Settle<Outcome> = (index: number, outcome: Outcome, length: number) => void
interface Step<Page> { readonly indices: number[]; readonly pages: Page[]; readonly places: DevicePlace[]; bytes: number; /** What was asked for before it, of its pages. */ before: Promise<unknown> | null }

/**
 * Pages of a GPU's memory by way of this host's: copied into pinned slots of the arena and stored from there, or read into slots, checked, and copied out. So they have checksums like all
 * others, and every plugin serves them.
 */
export class DeviceTransfers {
  readonly #o: DeviceTransferParts
  readonly #stopped = new AbortController()
  /** Calls under way. */
  readonly #calls = new Set<Promise<void>>()
  /** Writes that storage has not heard of yet, by page: the last one of each. */
  readonly #coming = new Map<string, Promise<void>>()
  #pinned: Promise<boolean> | null = null

  constructor(parts: DeviceTransferParts) { this.#o = parts }

  /** `indices`: what each page is called in `settle`. */
  write(scope: CallScope, pages: readonly PageToWrite[], places: readonly DevicePlace[], indices: readonly number[], settle: Settle<WriteOutcome>): void {
    const handedOver = new Map<Step<PageToWrite>, () => void>()
    const all = steps(pages, places, indices, this.#stepBytes, ({ length }) => length)
    for (const step of all) {
      step.before = this.before(step.pages)
      const coming = new Promise<void>(resolve => { handedOver.set(step, resolve) }).then(() => {
        for (const { storedKey } of step.pages) if (this.#coming.get(storedKey) === coming) this.#coming.delete(storedKey)
      })
      for (const { storedKey } of step.pages) this.#coming.set(storedKey, coming)
    }
    this.#inSteps(all, async step => {
      let stored: Promise<void> | undefined
      try {
        const store = await this.#stage(scope, step, settle)
        stored = store?.()
      } finally {
        handedOver.get(step)!()
      }
      await stored
    })
  }

  /** Nothing is on its way to storage from here, so before() has no answer for any page. */
  get quiet(): boolean { return this.#coming.size === 0 }

  /**
   * Resolves when storage knows of the writes of these pages that were asked for so far, null when it does. From there on it keeps the order of what is asked for; whatever comes after such a
   * write waits for this, so that it is not overtaken.
   */
  before(pages: Iterable<{ readonly storedKey: string }>): Promise<unknown> | null {
    if (this.#coming.size === 0) return null
    const coming = new Set<Promise<void>>()
    for (const { storedKey } of pages) {
      const one = this.#coming.get(storedKey)
      if (one) coming.add(one)
    }
    return coming.size === 0 ? null : Promise.all(coming)
  }

  /** Copies a step's pages into slots; answers what stores them. Null: they have ended. */
  async #stage(scope: CallScope, step: Step<PageToWrite>, settle: Settle<WriteOutcome>): Promise<(() => Promise<void>) | null> {
    if (step.before) await step.before
    const { slots, failure } = await this.#slots(scope, step.pages.map(({ length }) => length))
    if (!slots) {
      step.pages.forEach(({ key }, i) => { settle(step.indices[i]!, { ok: false, ...failure(key) }, 0) })
      return null
    }
    try {
      await this.#copy(step.places, slots, true)
    } catch (cause) {
      for (const slot of slots) slot.unpin()
      step.pages.forEach(({ key }, i) => {
        settle(step.indices[i]!, { ok: false, status: 'failed', key, error: deviceError(cause, `Copying ${JSON.stringify(key)} from the GPU failed`, key) }, 0)
      })
      return null
    }
    if (this.stopped) {
      this.#refuse(step, slots, settle)
      return null
    }
    const staged = step.pages.map((page, i) => ({ ...page, memory: this.#memory(slots[i]!) }))
    return () => new Promise<void>(resolve => {
      let left = staged.length
      this.#o.write(scope, staged, (i, outcome) => {
        slots[i]!.unpin()
        settle(step.indices[i]!, outcome, step.pages[i]!.length)
        if (--left === 0) resolve()
      })
    })
  }

  read(scope: CallScope, pages: readonly PageToRead[], places: readonly DevicePlace[], indices: readonly number[], settle: Settle<ReadOutcome<Target>>): void {
    const all = steps(pages, places, indices, this.#stepBytes, ({ exactLength }) => exactLength!)
    for (const step of all) step.before = this.before(step.pages)
    this.#inSteps(all, async step => {
      if (step.before) await step.before
      const { slots, failure } = await this.#slots(scope, step.pages.map(({ exactLength }) => exactLength!))
      if (!slots) {
        step.pages.forEach(({ key }, i) => { settle(step.indices[i]!, { ok: false, ...failure(key) }, 0) })
        return
      }
      if (this.stopped) { this.#refuse(step, slots, settle); return }
      const staged = step.pages.map((page, i) => ({ ...page, memory: this.#memory(slots[i]!) }))
      const outcomes = await new Promise<ReadOutcome<Target>[]>(resolve => {
        const all = new Array<ReadOutcome<Target>>(staged.length)
        let left = staged.length
        this.#o.read(scope, staged, (i, outcome) => {
          all[i] = outcome
          if (--left === 0) resolve(all)
        })
      })
      const hits = outcomes.flatMap((outcome, i) => outcome.ok ? [i] : [])
      let cause: unknown = null
      try {
        await this.#copy(hits.map(i => step.places[i]!), hits.map(i => slots[i]!), false)
      } catch (error) {
        cause = error
      }
      outcomes.forEach((outcome, i) => {
        slots[i]!.unpin()
        const { key, exactLength } = step.pages[i]!
        if (outcome.ok && cause !== null) {
          settle(step.indices[i]!, { ok: false, status: 'failed', key, error: deviceError(cause, `Copying ${JSON.stringify(key)} to the GPU failed`, key) }, 0)
        } else settle(step.indices[i]!, outcome, outcome.ok ? exactLength! : 0)
      })
    })
  }

  /** Resolves when every call has ended. */
  async idle(): Promise<void> {
    while (this.#calls.size > 0) await Promise.all(this.#calls)
  }

  /** No step begins any more, nor goes to storage: their pages end as cancelled. */
  stop(): void { this.#stopped.abort() }
  get stopped(): boolean { return this.#stopped.signal.aborted }

  /** The driver lets go of the arena. Before that ends. After stop(). */
  async close(): Promise<void> {
    // A copy may be under way, to or from the arena.
    await this.idle()
    if (this.#pinned !== null && await this.#pinned) await this.#o.cuda.unpin(this.#o.arena.region).catch(() => false)
  }

  /** The cache was closed meanwhile: nobody would hear of a transfer that begins now. */
  #refuse(step: Step<{ readonly key: string }>, slots: readonly Slot[], settle: (index: number, outcome: { ok: false; status: 'cancelled'; key: string; error: HiCacheError }, length: number) => void): void {
    for (const slot of slots) slot.unpin()
    step.pages.forEach(({ key }, i) => { settle(step.indices[i]!, { ok: false, status: 'cancelled', key, error: closed(key) }, 0) })
  }

  get #stepBytes(): number { return Math.min(STEP_BYTES, this.#o.arena.bytes * STEP_SHARE) }

  #memory(slot: Slot): RequestMemory {
    return { kind: 'direct', region: this.#o.arena.region, offset: slot.offset, owner: slot, bytes: slot.view() }
  }

  async #copy(places: readonly DevicePlace[], slots: readonly Slot[], toHost: boolean): Promise<void> {
    if (slots.length === 0) return
    this.#pinned ??= this.#o.cuda.pin(this.#o.arena.region).catch(() => false)
    await this.#pinned
    const copies = new Float64Array(slots.length * 5)
    slots.forEach((slot, i) => { copies.set([places[i]!.memory.region, places[i]!.offset, this.#o.arena.region, slot.offset, slot.bytes], i * 5) })
    await this.#o.cuda.copy(copies, toHost)
  }

  /** Slots for a step, all of them or none: two calls that each have half of what they want would wait for ever. Pinned. */
  async #slots(scope: CallScope, lengths: readonly number[]): Promise<{ slots: Slot[] | null; failure: (key: string) => { key: string } & FailureKind }> {
    const { arena } = this.#o
    const refuse = (status: FailureKind['status'], error: (key: string) => HiCacheError) => ({ slots: null, failure: (key: string) => ({ key, status, error: error(key) }) })
    if (lengths.some(length => length > arena.bytes / 2)) {
      return refuse('rejected', key => new HiCacheError('ERR_REJECTED', `A page of a GPU's memory takes staging memory of its size, at most half of the arena's ${arena.bytes} bytes: raise arenaBytes.`, { key }))
    }
    for (const until = performance.now() + scope.msLeft; ;) {
      if (scope.aborted) return refuse('cancelled', () => scope.abortError())
      if (this.stopped) return refuse('cancelled', closed)
      const slots = arena.allocateAll(lengths)
      if (slots) return { slots, failure: key => { throw new Error(key) } }
      const left = until - performance.now()
      if (left <= 0) return refuse('timeout', key => new HiCacheError('ERR_TIMEOUT', 'The arena had no room for staging memory within the deadline. Release arena tensors, or raise arenaBytes.', { key }))
      await arena.freed(left, scope.signal ? [this.#stopped.signal, scope.signal] : [this.#stopped.signal])
    }
  }

  #inSteps<Page>(all: readonly Step<Page>[], move: (step: Step<Page>) => Promise<void>): void {
    let next = 0
    const call = Promise.all(Array.from({ length: Math.min(STEPS_AT_ONCE, all.length) }, async () => {
      while (next < all.length) await move(all[next++]!)
    })).then(() => {}).finally(() => { this.#calls.delete(call) })
    this.#calls.add(call)
  }
}

/** Of what was under way, or came, when the cache was closed. */
export function closed(key: string): HiCacheError { return new HiCacheError('ERR_CLOSED', 'The cache was closed before the request ended.', { key }) }

interface FailureKind { readonly status: 'timeout' | 'cancelled' | 'rejected' | 'failed'; readonly error: HiCacheError }

function steps<Page>(pages: readonly Page[], places: readonly DevicePlace[], indices: readonly number[], bytesMax: number, lengthOf: (page: Page) => number): Step<Page>[] {
  const all: Step<Page>[] = []
  pages.forEach((page, i) => {
    // As the arena counts: a slot is whole blocks.
    const length = roundUp(lengthOf(page))
    let step = all.at(-1)
    if (step === undefined || step.bytes + length > bytesMax) all.push(step = { indices: [], pages: [], places: [], bytes: 0, before: null })
    step.indices.push(indices[i]!)
    step.pages.push(page)
    step.places.push(places[i]!)
    step.bytes += length
  })
  return all
}
