import { createHash } from 'node:crypto'
import { HiCacheError } from '../../error.js'
import type { HiCacheNixl, ReadOutcome, Source, Target, WriteOutcome } from '../../index.js'
import type { ArmSample, BenchArm, BenchOp } from './bench-arm.js'
import { MainThreadWatch } from './main-thread-watch.js'
import { StampedBuffers } from './stamped-buffers.js'

/** How often resident memory is looked at while an arm runs. */
const RSS_EVERY_MS = 25
/** Calls that ask whether pages are there, while none of it is timed. */
const PRESENCE_CALLS = 256

export interface HiCacheArmOptions {
  readonly name: string
  readonly cache: HiCacheNixl
  readonly pageBytes: number
  readonly pages: number
  /** Pages of one call, and calls at once. */
  readonly batch: number
  readonly inFlight: number
  /** batch x inFlight of them, and those of a mix's reads: arena tensors (zero copy) or ordinary memory (one copy). Each is source and target of many pages. */
  readonly buffers: readonly Target[]
  /** The bytes of the same buffers. */
  readonly bytes: readonly Uint8Array[]
  /**
   * The store makes room itself (segment layout): nothing is removed here. What is read is then not what this round wrote, of which a policy may have given up a part for the pages of
   * another arm, but pages that are there from the first round on and are read in every one: those that a store keeps.
   */
  readonly recycles: boolean
  /** Removes all that a round stored, in one go; without it pages are deleted one by one. */
  readonly removeAll?: () => Promise<void>
  /** Of a mix: pages written in all, pages being written at any time, and pages being read, one a call. */
  readonly mix: { readonly pages: number; readonly writes: number; readonly reads: number }
  /** Keys to look up in a round. */
  readonly lookups: number
  /**
   * Does the bench watch the main thread and the memory meanwhile? Its timers are processor time that no other contestant has: next to nothing where a round takes the device's
   * time, a tenth of the whole where a slow server makes it long. Default true.
   */
  readonly watches?: boolean
  readonly steps: ReadonlySet<BenchOp>
}

/** Pages of one call, with the buffer of each. */
interface Call {
  readonly number: number
  readonly entries: (readonly [string, Target])[]
  readonly pages: number[]
  readonly firstBuffer: number
}

/** Pages are told apart by what wrote them. */
const KINDS = ['write', 'set', 'one-batch-write', 'mix', 'kept'] as const
/** A page that is to be kept may make room for another one of its own kind before it has been read for the first time. */
const KEEP_TRIES = 3
type Kind = typeof KINDS[number]

/** This package, through its public calls. */
export class HiCacheArm implements BenchArm {
  readonly name: string
  readonly steps: ReadonlySet<BenchOp>
  private readonly stamped: StampedBuffers
  private readonly watch = new MainThreadWatch()

  constructor(private readonly options: HiCacheArmOptions) {
    this.name = options.name
    this.steps = options.steps
    this.stamped = new StampedBuffers(options.bytes, options.pageBytes)
  }

  async run(op: BenchOp, round: number): Promise<ArmSample> {
    const { inFlight } = this.options
    switch (op) {
      case 'write': return await this.writeCalls('write', round, inFlight)
      case 'one-batch-write': return await this.writeCalls('one-batch-write', round, 1)
      case 'set': return await this.setCalls(round)
      case 'read': return await this.readCalls(round, inFlight)
      case 'one-batch-read': return await this.readCalls(round, 1)
      case 'get': return await this.getCalls(round)
      case 'mix': return await this.mix(round)
      case 'lookup': return await this.lookup(round)
    }
  }

  async discard(round: number): Promise<void> {
    const { recycles, cache, mix } = this.options
    if (recycles) return
    if (this.options.removeAll !== undefined) {
      await this.options.removeAll()
      return
    }
    for (const kind of KINDS) {
      if (kind === 'kept' || !this.steps.has(kind)) continue
      const pages = kind === 'mix' ? mix.pages : this.options.pages
      for (let start = 0; start < pages; start += 1024) {
        const keys = Array.from({ length: Math.min(1024, pages - start) }, (_, index) => this.key(kind, round, start + index))
        await Promise.all(keys.map(async key => await cache.delete(key)))
      }
    }
  }

  // Writes --------------------------------------------------------------------------------------------------------------------------------

  private async writeCalls(kind: Kind, round: number, lanes: number): Promise<ArmSample> {
    // Contents depend on the buffer, so that what is read back can be checked; filling also touches the memory before the clock starts.
    this.stamped.fill(buffer => buffer)
    return await this.timed(this.calls(kind, round), lanes, async call => {
      this.stamp(kind, round, call)
      for (const outcome of await this.options.cache.write(call.entries)) this.expectStored(outcome)
    })
  }

  /** One set() a page, all those of a batch in one turn. */
  private async setCalls(round: number): Promise<ArmSample> {
    this.stamped.fill(buffer => buffer)
    return await this.timed(this.calls('set', round), this.options.inFlight, async (call, latencyUs) => {
      this.stamp('set', round, call)
      await Promise.all(call.entries.map(async ([key, source], index) => {
        const started = performance.now()
        if (!await this.options.cache.set(key, source)) throw new HiCacheError('ERR_IO', `${this.name}: set() did not store page ${key}`, { key })
        latencyUs[call.pages[index]!] = (performance.now() - started) * 1000
      }))
    })
  }

  private stamp(kind: Kind, round: number, call: Call): void {
    call.pages.forEach((page, index) => this.stamped.stamp(call.firstBuffer + index, StampedBuffers.stamp(round, KINDS.indexOf(kind), page)))
  }

  private expectStored(outcome: WriteOutcome): void {
    if (!outcome.ok || outcome.status !== 'stored') throw unexpected(this.name, outcome)
  }

  // Reads ---------------------------------------------------------------------------------------------------------------------------------

  private async readCalls(round: number, lanes: number): Promise<ArmSample> {
    const calls = await this.readableCalls(round)
    this.stamped.clear()
    const last = new Map<number, number>()
    let missed = 0
    const sample = await this.timed(calls, lanes, async call => {
      const outcomes = await this.options.cache.read(call.entries)
      outcomes.forEach((outcome, index) => {
        const buffer = this.bufferOf(call.pages[index]!)
        if (this.missed(outcome)) missed++
        else this.expectPage(round, call.pages[index]!, buffer, last)
      })
    })
    return this.checked(round, sample, missed, last)
  }

  /** One get() a page, all those of a batch in one turn. */
  private async getCalls(round: number): Promise<ArmSample> {
    const calls = await this.readableCalls(round)
    this.stamped.clear()
    const last = new Map<number, number>()
    let missed = 0
    const sample = await this.timed(calls, this.options.inFlight, async (call, latencyUs) => {
      await Promise.all(call.entries.map(async ([key, target], index) => {
        const page = call.pages[index]!
        const started = performance.now()
        const found = await this.options.cache.get(key, target)
        latencyUs[page] = (performance.now() - started) * 1000
        if (found === null && !this.options.recycles) throw new HiCacheError('ERR_IO', `${this.name}: get() did not find page ${key}`, { key })
        if (found === null) missed++
        else this.expectPage(round, page, this.bufferOf(page), last)
      }))
    })
    return this.checked(round, sample, missed, last)
  }

  /** True for a page that made room for another one meanwhile; throws for whatever else is no hit. */
  private missed(outcome: ReadOutcome<unknown>): boolean {
    if (outcome.ok) return false
    if (this.options.recycles && outcome.status === 'miss' && outcome.reason !== 'corrupt') return true
    throw unexpected(this.name, outcome)
  }

  private expectPage(round: number, page: number, buffer: number, last: Map<number, number>): void {
    if (!this.stamped.has(buffer, this.readStamp(round, page))) throw new HiCacheError('ERR_CORRUPT', `${this.name}: page ${page} was read as a hit, with another page's bytes`)
    last.set(buffer, page)
  }

  /** The last page of each buffer speaks, with all its bytes, for those that came through it before. */
  private checked(round: number, sample: ArmSample, missed: number, last: ReadonlyMap<number, number>): ArmSample {
    for (const [buffer, page] of last) {
      const wrong = this.stamped.wrongBytes(buffer, this.bufferOf(page), this.readStamp(round, page))
      if (wrong > 0) throw new HiCacheError('ERR_CORRUPT', `${this.name}: ${wrong} wrong bytes in page ${page}, which was read as a hit`)
    }
    const bytes = sample.bytes - missed * this.options.pageBytes
    if (bytes < this.options.pages * this.options.pageBytes / 2) throw tooFew(this.name)
    return { ...sample, bytes }
  }

  /** Pages that are read are those of the round, or those that the store keeps. */
  private readKey(round: number, page: number): string { return this.options.recycles ? this.key('kept', 0, page) : this.key('write', round, page) }

  private readStamp(round: number, page: number): number {
    return this.options.recycles ? StampedBuffers.stamp(0, KINDS.indexOf('kept'), page) : StampedBuffers.stamp(round, KINDS.indexOf('write'), page)
  }

  private async readableCalls(round: number): Promise<Call[]> {
    const readable = await this.readable()
    return this.options.recycles ? this.calls('kept', 0, page => readable[page] === 1) : this.calls('write', round)
  }

  /** 1 for each page that can be read. Stores those that are to be kept and are not there. */
  private async readable(): Promise<Uint8Array> {
    const { recycles, cache, pages } = this.options
    if (!recycles) return new Uint8Array(pages).fill(1)
    for (let attempt = 0; ; attempt++) {
      const present = await this.present()
      if (attempt === KEEP_TRIES || !present.includes(0)) return present
      this.stamped.fill(buffer => buffer)
      for (const call of this.calls('kept', 0, page => present[page] === 0)) {
        call.pages.forEach(page => this.stamped.stamp(this.bufferOf(page), this.readStamp(0, page)))
        for (const outcome of await cache.write(call.entries)) if (!outcome.ok) throw unexpected(this.name, outcome)
      }
    }
  }

  private async present(): Promise<Uint8Array> {
    const { cache, pages } = this.options
    const present = new Uint8Array(pages)
    for (let start = 0; start < pages; start += PRESENCE_CALLS) {
      await Promise.all(Array.from({ length: Math.min(PRESENCE_CALLS, pages - start) }, async (_, index) => {
        present[start + index] = await cache.exists(this.readKey(0, start + index)) ? 1 : 0
      }))
    }
    return present
  }

  // Mix -----------------------------------------------------------------------------------------------------------------------------------

  /** Reads of single pages for as long as the full load of writes lasts. Writes of no page at all: as many reads as there are pages. */
  private async mix(round: number): Promise<ArmSample> {
    const { cache, pages, pageBytes, batch, inFlight, buffers, mix } = this.options
    const present = await this.readable()
    const readable = [...present.keys()].filter(page => present[page] === 1)
    if (readable.length * 2 < pages) throw tooFew(this.name)
    const firstReader = batch * inFlight
    this.stamped.fill(buffer => buffer)
    const writers = mix.writes === 0 ? 0 : Math.min(inFlight, mix.writes)
    const writeBatch = writers === 0 ? 0 : Math.min(batch, Math.floor(mix.writes / writers))
    const writeLatency: number[] = []
    const readLatency: number[] = []
    let nextWrite = 0
    let reads = 0
    let full = true
    let missed = 0
    const last = new Map<number, number>()

    const write = async (lane: number): Promise<void> => {
      while (full) {
        if (nextWrite + writeBatch > mix.pages) {
          full = false
          return
        }
        const start = nextWrite
        nextWrite += writeBatch
        const entries: (readonly [string, Source])[] = []
        for (let index = 0; index < writeBatch; index++) {
          this.stamped.stamp(lane * batch + index, StampedBuffers.stamp(round, 3, start + index))
          entries.push([this.key('mix', round, start + index), buffers[lane * batch + index]!])
        }
        const started = performance.now()
        const outcomes = await cache.write(entries)
        const took = (performance.now() - started) * 1000
        for (const outcome of outcomes) {
          this.expectStored(outcome)
          writeLatency.push(took)
        }
      }
    }
    const read = async (reader: number): Promise<void> => {
      // Places in an order that no read-ahead follows, each reader its own.
      let state = (round * 64 + reader + 1) * 0x9e3779b1 >>> 0
      while (full && (writers > 0 || reads < pages)) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0
        const page = readable[Math.floor(state / 2 ** 32 * readable.length)]!
        const buffer = firstReader + reader
        reads++
        const started = performance.now()
        const [outcome] = await cache.read([[this.readKey(round, page), buffers[buffer]!] as const])
        const took = (performance.now() - started) * 1000
        if (this.missed(outcome!)) missed++
        else {
          this.expectPage(round, page, buffer, last)
          if (full) readLatency.push(took)
        }
      }
    }
    const watched = await this.watched(async () => {
      await Promise.all([...Array.from({ length: writers }, async (_, lane) => await write(lane)), ...Array.from({ length: mix.reads }, async (_, reader) => await read(reader))])
    })
    this.checked(round, { ...watched, bytes: pages * pageBytes, latencyUs: new Float64Array(0) }, 0, last)
    const readBytes = (reads - missed) * pageBytes
    const writeBytes = nextWrite * pageBytes
    if (missed * 2 > reads) throw tooFew(this.name)
    return { ...watched, bytes: readBytes + writeBytes, latencyUs: Float64Array.from(readLatency), mix: { readBytes, writeBytes, writeLatencyUs: Float64Array.from(writeLatency) } }
  }

  // Lookups -------------------------------------------------------------------------------------------------------------------------------

  private async lookup(round: number): Promise<ArmSample> {
    const { cache, lookups, batch, recycles } = this.options
    const lists = (await this.readableCalls(round)).map(call => call.entries.map(([key]) => key))
    const callUs: number[] = []
    let done = 0
    const watched = await this.watched(async () => {
      for (let number = 0; done < lookups; number = (number + 1) % lists.length) {
        const keys = lists[number]!
        const started = performance.now()
        const run = await cache.batchExists(keys)
        callUs.push((performance.now() - started) * 1000)
        if (run !== keys.length && !recycles) throw new HiCacheError('ERR_IO', `${this.name}: ${run} of ${keys.length} pages found`)
        done += keys.length
      }
    })
    return { ...watched, bytes: 0, lookups: done, latencyUs: Float64Array.from(callUs, value => value / batch), callUs: Float64Array.from(callUs) }
  }

  // -----------------------------------------------------------------------------------------------------------------------------------------

  private key(kind: Kind, round: number, page: number): string { return createHash('sha256').update(`${this.name} ${kind} ${round} ${page}`).digest('hex') }

  /** A page goes through the same buffer whenever it is moved in calls, so its content follows from the buffer's number. */
  private bufferOf(page: number): number { return Math.floor(page / this.options.batch) % this.options.inFlight * this.options.batch + page % this.options.batch }

  private calls(kind: Kind, round: number, has: (page: number) => boolean = () => true): Call[] {
    const { pages, batch, buffers } = this.options
    const calls: Call[] = []
    for (let start = 0; start < pages; start += batch) {
      const call: Call = { number: calls.length, entries: [], pages: [], firstBuffer: this.bufferOf(start) }
      for (let page = start; page < Math.min(start + batch, pages); page++) {
        if (!has(page)) continue
        call.pages.push(page)
        call.entries.push([this.key(kind, round, page), buffers[this.bufferOf(page)]!])
      }
      if (call.pages.length > 0) calls.push(call)
    }
    if (calls.length === 0) throw tooFew(this.name)
    return calls
  }

  /** Calls of one buffer come one after the other: those of a lane. With one lane, all do. */
  private async timed(calls: readonly Call[], lanes: number, move: (call: Call, latencyUs: Float64Array) => Promise<void>): Promise<ArmSample> {
    const { inFlight, batch, pageBytes, pages } = this.options
    const latencyUs = new Float64Array(pages)
    const callUs = new Float64Array(calls.length)
    const queues: number[][] = Array.from({ length: lanes }, () => [])
    calls.forEach((call, index) => queues[call.firstBuffer / batch % inFlight % lanes]!.push(index))
    const watched = await this.watched(async () => {
      await Promise.all(queues.map(async queue => {
        for (const index of queue) {
          const call = calls[index]!
          const started = performance.now()
          await move(call, latencyUs)
          callUs[index] = (performance.now() - started) * 1000
          // Pages that have times of their own keep them.
          for (const page of call.pages) if (latencyUs[page] === 0) latencyUs[page] = callUs[index]
        }
      }))
    })
    const moved = calls.reduce((sum, call) => sum + call.pages.length, 0)
    return { ...watched, bytes: moved * pageBytes, latencyUs: moved === pages ? latencyUs : latencyUs.filter(value => value > 0), callUs }
  }

  /** Time, processor time, and where they are watched memory and the main thread's longest turn. */
  private async watched(work: () => Promise<void>): Promise<Omit<ArmSample, 'bytes' | 'latencyUs'>> {
    const watches = this.options.watches !== false
    let rssBytes = process.memoryUsage.rss()
    const sampler = watches ? setInterval(() => { rssBytes = Math.max(rssBytes, process.memoryUsage.rss()) }, RSS_EVERY_MS) : undefined
    if (watches) this.watch.start()
    try {
      const cpu = process.cpuUsage()
      const started = performance.now()
      await work()
      const seconds = (performance.now() - started) / 1000
      const { user, system } = process.cpuUsage(cpu)
      rssBytes = Math.max(rssBytes, process.memoryUsage.rss())
      const measured = { seconds, cpuSeconds: (user + system) / 1e6, rssBytes }
      if (!watches) return measured
      const { callbackMs, stallMs } = this.watch.stop()
      return { ...measured, longestCallbackMs: callbackMs, longestStallMs: stallMs }
    } finally {
      if (watches) this.watch.stop()
      clearInterval(sampler)
    }
  }
}

/** A benchmark over pages that did not arrive measures nothing. */
function unexpected(arm: string, outcome: ReadOutcome<unknown> | WriteOutcome): HiCacheError {
  const detail = outcome.ok ? outcome.status : outcome.status === 'miss' ? `miss (${outcome.reason})` : outcome.error.message
  return new HiCacheError('ERR_IO', `${arm}: page ${outcome.key} ended as ${detail}`, { key: outcome.key })
}

function tooFew(arm: string): HiCacheError {
  return new HiCacheError('ERR_IO', `${arm}: most of the pages that are read made room for others; give the stores more room with --capacity`)
}
