import { join } from 'node:path'
import type { OpenOptions } from '../../lib/index.js'
import type { SharingCommand, SharingTask } from './sharing-child.js'
import { trialKeys } from './trial-pages.js'
import { TrialProcess } from './trial-process.js'
import { Tally, type TrialOptions, type TrialReport } from './trial.js'

const MIB = 1024 * 1024
const SIZES = [65_536, 40_000]

/** A process that writes or reads as it is told. */
class Sharer {
  readonly #child: TrialProcess
  readonly #tally: Tally
  readonly #name: string

  constructor(name: string, task: SharingTask, tally: Tally) {
    this.#name = name
    this.#tally = tally
    this.#child = new TrialProcess('./sharing-child.js', task)
  }

  async ready(): Promise<boolean> { return await this.#child.says('ready') !== null || this.#gone() }

  /** Tells it, and waits for the answer; null when it has ended. */
  async ask(command: SharingCommand, answer: string = command.command): Promise<Record<string, unknown> | null> {
    this.#child.said.length = 0
    this.#child.tell(command)
    const said = await this.#child.says(answer)
    if (said === null) await this.#gone()
    return said
  }

  tell(command: SharingCommand): void { this.#child.tell(command) }

  async close(): Promise<void> {
    await this.ask({ command: 'close' })
    const { code, signal, stderr } = await this.#child.ended
    if (code !== 0 || stderr !== '') this.#tally.wrong(this.#name, [`it ended with ${code ?? signal}: ${stderr}`])
  }

  async #gone(): Promise<false> {
    const { code, signal, stderr } = await this.#child.ended
    this.#tally.wrong(this.#name, [`it ended with ${code ?? signal}: ${stderr}`])
    return false
  }
}

function wrongIn(seen: Record<string, number | string>): string[] {
  const allowed = ['absent', 'stale']
  return Object.entries(seen).filter(([, found]) => typeof found === 'string' && !allowed.includes(found)).map(([key, found]) => `${key} is ${found}`)
}

/**
 * A process reads while another one writes `count` times over all pages, far more than there is room for: what is read is whole, or a miss. Every round also holds one read
 * in its midst until its pages have been overwritten: it must not answer with what it holds.
 */
export async function overtakeTrial(options: TrialOptions): Promise<TrialReport> {
  const tally = new Tally()
  const folder = await options.directory()
  const common: OpenOptions = {
    env: {}, storageDir: join(folder, 'store'), storageLayout: 'segment', capacity: 16 * MIB, segmentBytes: MIB, arenaBytes: 32 * MIB, leaseMs: 0, evictionPolicy: 'lru', workers: 1
  }
  const keys = trialKeys('page', 400)
  const tasks = [0, 1].map((i): SharingTask => ({ options: common, keys, sizes: SIZES, seed: options.seed + i, firstVersion: 1 + i, versionStep: 2 }))
  const writer = new Sharer('the writer', tasks[0]!, tally)
  const reader = new Sharer('the reader', tasks[1]!, tally)
  if (!await writer.ready() || !await reader.ready()) return tally
  for (let round = 0; round < options.count; round++) {
    reader.tell({ command: 'read' })
    const written = await writer.ask({ command: 'write', rounds: 1 })
    const read = await reader.ask({ command: 'stop' })
    if (written === null || read === null) return tally
    tally.wrong(`round ${round}, the writer`, written.failed as string[])
    for (const [name, count] of Object.entries(read.counts as Record<string, number>)) {
      tally.add(name, count)
      if (!['hit', 'absent', 'stale'].includes(name)) tally.wrong(`round ${round}, the reader`, [`${count} times ${name}`])
    }
    // Pages that are there now, and will not be once all have been written again.
    const now = await writer.ask({ command: 'look', keys })
    if (now === null) return tally
    const before = now.seen as Record<string, number | string>
    const there = Object.entries(before).filter(([, found]) => typeof found === 'number').map(([key]) => key).slice(-4)
    const holding = await reader.ask({ command: 'hold', keys: there })
    if (holding === null || await writer.ask({ command: 'write', rounds: 1 }) === null) return tally
    const released = await reader.ask({ command: 'release' })
    if (released === null) return tally
    const seen = released.seen as Record<string, number | string>
    tally.wrong(`round ${round}, what was held`, wrongIn(seen))
    tally.add('reads held', Number(released.struck))
    // A read that finds itself overtaken looks once more: it ends as a miss, or with what has been written since.
    for (const key of there) tally.add(seen[key] === before[key] ? 'reads held that were in time' : 'reads held that were overtaken')
    options.onProgress?.(`round ${round}: ${JSON.stringify(tally.counts)}`)
  }
  await writer.close()
  await reader.close()
  return tally
}

/** How long two writers that write no more may go on seeing different versions. */
const CONVERGE_MS_MAX = 5000

/** Two processes write the same pages, `count` times over: each page ends as what one of the two wrote last, whole, the same for both, and for a third one that opens the store after them. */
export async function writersTrial(options: TrialOptions): Promise<TrialReport> {
  const tally = new Tally()
  const folder = await options.directory()
  const keys = trialKeys('page', 100)
  const task = (i: number): SharingTask => ({
    options: {
      env: {}, storageDir: join(folder, 'store'), storageLayout: 'segment', capacity: 64 * MIB, segmentBytes: MIB, arenaBytes: 32 * MIB, workers: 1
    }, keys, sizes: SIZES, seed: options.seed + i, firstVersion: 1 + i, versionStep: 2
  })
  const writers = [0, 1].map(i => new Sharer(`writer ${i}`, task(i), tally))
  if (!await writers[0]!.ready() || !await writers[1]!.ready()) return tally
  const views: Record<string, number | string>[] = []
  const check = (name: string, last: readonly Record<string, number>[], seen: Record<string, number | string>): void => {
    views.push(seen)
    tally.wrong(name, keys.filter(key => !last.some(versions => versions[key] === seen[key]))
      .map(key => `${key} is ${seen[key]}, and was last written as ${last.map(versions => versions[key]).join(' and ')}`))
    tally.add('pages looked at', keys.length)
  }
  let last: Record<string, number>[] = []
  for (let round = 0; round < options.count; round++) {
    const written = await Promise.all(writers.map(writer => writer.ask({ command: 'write', rounds: 1 })))
    if (written.includes(null)) return tally
    last = written.map(one => one!.last as Record<string, number>)
    written.forEach((one, i) => { tally.wrong(`round ${round}, writer ${i}`, one!.failed as string[]) })
    for (const [i, writer] of writers.entries()) {
      const looked = await writer.ask({ command: 'look', keys })
      if (looked === null) return tally
      check(`round ${round}, seen by writer ${i}`, last, looked.seen as Record<string, number | string>)
    }
    const [a, b] = views.slice(-2)
    tally.add('pages that both see alike', keys.filter(key => a![key] === b![key]).length)
  }
  // Once each has heard of the other, they see the same.
  let apart = keys
  for (const until = performance.now() + CONVERGE_MS_MAX; apart.length > 0 && performance.now() < until;) {
    const looked = await Promise.all(writers.map(writer => writer.ask({ command: 'look', keys })))
    if (looked.includes(null)) return tally
    const [a, b] = looked.map(one => one!.seen as Record<string, number | string>)
    apart = keys.filter(key => a![key] !== b![key])
  }
  tally.wrong('in the end', apart.map(key => `${key} is not the same for both`))
  for (const writer of writers) await writer.close()
  const third = new Sharer('the third', task(2), tally)
  if (!await third.ready()) return tally
  const looked = await third.ask({ command: 'look', keys })
  if (looked === null) return tally
  check('seen by the third', last, looked.seen as Record<string, number | string>)
  await third.close()
  return tally
}
