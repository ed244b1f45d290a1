import { createHash } from 'node:crypto'
import { HiCacheError } from '../../error.js'
import type { HiCacheNixl, ReadOutcome, Source, WriteOutcome } from '../../index.js'
import type { ArmSample, BenchArm } from './bench-arm.js'
import { MainThreadWatch } from './main-thread-watch.js'
import { PageContent } from './page-content.js'

/** How often resident memory is looked at while an arm runs. */
const RSS_EVERY_MS = 25

export interface HiCacheArmOptions {
  readonly name: string
  readonly cache: HiCacheNixl
  readonly pageBytes: number
  readonly pages: number
  /** Pages of one call, and calls at once. */
  readonly batch: number
  readonly inFlight: number
  /** At least batch x inFlight of them: arena tensors (zero copy) or ordinary memory (one copy). Each is source and target of many pages. */
  readonly buffers: readonly Source[]
  /** The bytes of the same buffers. */
  readonly bytes: readonly Uint8Array[]
}

/** This package, through its public calls. */
export class HiCacheArm implements BenchArm {
  readonly name: string
  private readonly content: PageContent
  private readonly watch = new MainThreadWatch()

  constructor(private readonly options: HiCacheArmOptions) {
    this.name = options.name
    this.content = new PageContent(options.pageBytes)
  }

  async write(round: number): Promise<ArmSample> {
    // Contents depend on the buffer, so that what is read back can be checked; filling also touches the memory before the clock starts.
    this.options.bytes.forEach((bytes, buffer) => this.content.fill(bytes, buffer))
    return await this.timed(round, async pages => await this.options.cache.write(pages), outcome => outcome.status === 'stored')
  }

  async read(round: number): Promise<ArmSample> {
    for (const bytes of this.options.bytes) bytes.fill(0)
    const sample = await this.timed(round, async pages => await this.options.cache.read(pages), outcome => outcome.ok)
    const used = Math.min(this.options.batch * this.options.inFlight, this.options.pages)
    for (let buffer = 0; buffer < used; buffer++) {
      // All pages that went through a buffer have the same content: the last one speaks for them.
      const wrong = this.content.wrongBytes(this.options.bytes[buffer]!, buffer)
      if (wrong > 0) throw new HiCacheError('ERR_CORRUPT', `${this.name}: ${wrong} wrong bytes in a page that was read as a hit`)
    }
    return sample
  }

  async discard(round: number): Promise<void> {
    for (let start = 0; start < this.options.pages; start += 1024) {
      const keys = Array.from({ length: Math.min(1024, this.options.pages - start) }, (_, index) => this.key(round, start + index))
      await Promise.all(keys.map(async key => await this.options.cache.delete(key)))
    }
  }

  private key(round: number, page: number): string { return createHash('sha256').update(`${this.name} ${round} ${page}`).digest('hex') }

  private async timed<Outcome extends ReadOutcome<Source> | WriteOutcome>(
    round: number, call: (pages: (readonly [string, Source])[]) => Promise<Outcome[]>, good: (outcome: Outcome) => boolean,
  ): Promise<ArmSample> {
    const { pages, batch, inFlight, buffers, pageBytes } = this.options
    // A page goes through the same buffer when it is read as when it was written, so its content follows from the buffer's number.
    const batches: (readonly [string, Source])[][] = []
    for (let start = 0; start < pages; start += batch) {
      const first = start / batch % inFlight * batch
      batches.push(Array.from({ length: Math.min(batch, pages - start) }, (_, index) => [this.key(round, start + index), buffers[first + index]!] as const))
    }
    const latencyUs = new Float64Array(pages)
    let failed: Outcome | undefined
    const lane = async (first: number): Promise<void> => {
      for (let number = first; number < batches.length; number += inFlight) {
        const list = batches[number]!
        const started = performance.now()
        const outcomes = await call(list)
        latencyUs.fill((performance.now() - started) * 1000, number * batch, number * batch + list.length)
        failed ??= outcomes.find(outcome => !good(outcome))
      }
    }

    let rssBytes = process.memoryUsage.rss()
    const sampler = setInterval(() => { rssBytes = Math.max(rssBytes, process.memoryUsage.rss()) }, RSS_EVERY_MS)
    this.watch.start()
    const cpu = process.cpuUsage()
    const started = performance.now()
    await Promise.all(Array.from({ length: inFlight }, async (_, first) => await lane(first)))
    const seconds = (performance.now() - started) / 1000
    const { user, system } = process.cpuUsage(cpu)
    const { callbackMs, stallMs } = this.watch.stop()
    clearInterval(sampler)
    rssBytes = Math.max(rssBytes, process.memoryUsage.rss())
    if (failed !== undefined) throw unexpected(this.name, failed)
    return { bytes: pages * pageBytes, seconds, cpuSeconds: (user + system) / 1e6, latencyUs, longestCallbackMs: callbackMs, longestStallMs: stallMs, rssBytes }
  }
}

/** A benchmark over pages that did not arrive measures nothing. */
function unexpected(arm: string, outcome: ReadOutcome<Source> | WriteOutcome): HiCacheError {
  const detail = outcome.ok ? outcome.status : outcome.status === 'miss' ? `miss (${outcome.reason})` : outcome.error.message
  return new HiCacheError('ERR_IO', `${arm}: page ${outcome.key} ended as ${detail}`, { key: outcome.key })
}
