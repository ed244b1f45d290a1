import { join } from 'node:path'
import type { OpenOptions } from '../../lib/index.js'
import type { EngineName } from '../../lib/transfer/native-binding.js'
import { inTurns } from '../support/busy-children.js'
import { JournalState } from './journal.js'
import type { KillTask } from './kill-child.js'
import { Random } from './random.js'
import { SegmentFiles } from './segment-files.js'
import { TrialProcess } from './trial-process.js'
import { Tally, usableEngines, type TrialOptions, type TrialReport } from './trial.js'
import { trialKeys } from './trial-pages.js'

const MIB = 1024 * 1024
const KILLS_PER_STORY = 25
/** Processes that are up at a time: as many as the smallest machine we know has cores. */
const AT_ONCE = 2

interface Kind { readonly name: string; readonly share: number; readonly writers: number; readonly sizes: readonly number[]; readonly capacity: number; readonly keys: number; readonly stays: KillTask['stays'] }

/** Each kind of story shows something else, and all show that no byte is wrong. */
const KINDS: readonly Kind[] = [
  // There is room for all: nothing may be missing.
  { name: 'room', share: 0.3, writers: 1, sizes: [4096, 20_000, 65_536, 100_000], capacity: 96 * MIB, keys: 200, stays: 'all' },
  // Pages of one size, least recently used first: those used last are there, and as many fit at the end as at the beginning.
  { name: 'recent', share: 0.3, writers: 1, sizes: [50_000], capacity: 12 * MIB, keys: 600, stays: 'recent' },
  // Sizes that change, with far too little room: segments are reassigned all the time.
  { name: 'crowded', share: 0.2, writers: 1, sizes: [4096, 20_000, 65_536, 100_000, 262_144], capacity: 12 * MIB, keys: 600, stays: 'any' },
  { name: 'several, room', share: 0.1, writers: 3, sizes: [4096, 65_536], capacity: 128 * MIB, keys: 60, stays: 'all' },
  { name: 'several, crowded', share: 0.1, writers: 3, sizes: [4096, 50_000, 65_536], capacity: 24 * MIB, keys: 250, stays: 'any' }
]

/** A writer that is killed and starts again. */
class Writer {
  current: TrialProcess | null = null
  constructor(readonly task: Omit<KillTask, 'role' | 'seed'>) {}

  start(role: KillTask['role'], seed: number): TrialProcess {
    const task: KillTask = { ...this.task, role, seed }
    return this.current = new TrialProcess('./kill-child.js', task)
  }
}

class KillTrial {
  readonly tally = new Tally()
  readonly #options: TrialOptions
  readonly #engines: readonly EngineName[]
  /** How long an opening took last: kills in its midst are aimed by it. */
  #openMs = 300

  constructor(options: TrialOptions, engines: readonly EngineName[]) {
    this.#options = options
    this.#engines = engines
  }

  async story(kind: Kind, kills: number, number: number): Promise<void> {
    const random = new Random(this.#options.seed * 1009 + number)
    const where = `story ${number} (${kind.name}, seed ${this.#options.seed})`
    const folder = await this.#options.directory(number % 5 === 4 ? '/dev/shm' : undefined)
    const storageDir = join(folder, 'store')
    const options: OpenOptions = {
      env: {}, storageDir, storageLayout: 'segment', capacity: kind.capacity, segmentBytes: MIB, arenaBytes: 16 * MIB, leaseMs: 0, timeoutMs: 60_000,
      evictionPolicy: kind.stays === 'recent' ? 'lru' : 'prefix-aware', fsync: number % 4 === 3 ? 'batch' : 'never', engine: this.#engines[number % this.#engines.length]!,
      workers: 1 + number % 2
    }
    const journals = Array.from({ length: kind.writers }, (_, i) => join(folder, `journal-${i}`))
    const keys = journals.map((_path, i) => trialKeys(`page${i}`, kind.keys))
    const common = { options, sizes: kind.sizes, stays: kind.stays, capacity: kind.capacity, writers: kind.writers, fits: 0 }
    let fits = 0
    if (kind.stays === 'recent') {
      const filling = new Writer({ ...common, journals: [], keys: [], others: [], writer: 0 }).start('fill', 1)
      fits = Number((await filling.says('fits'))?.fits ?? 0)
      if (!await this.#endsWell(filling, `${where}, filling`)) return
      this.tally.add('pages that fit', fits)
    }
    const writers = journals.map((path, i) => new Writer({ ...common, fits, journals: [path], keys: keys[i]!, others: keys.filter((_keys, at) => at !== i).flat(), writer: i }))
    for (const writer of writers) writer.start('load', random.seed())
    if (kind.writers > 1) await Promise.all(writers.map(writer => writer.current!.says('ready')))
    for (let kill = 0; kill < kills; kill++) {
      const writer = random.pick(writers)
      const child = writer.current!
      const place = `${where}, kill ${kill}`
      if (random.chance(0.2)) {
        // In the midst of opening, adopting, checking.
        await pause(random.below(this.#openMs * 1.2))
        this.tally.add('kills while it opened')
      } else {
        const started = performance.now()
        await child.says('ready')
        if (child.said.length > 0) this.#openMs = Math.max(50, 0.8 * this.#openMs + 0.2 * (performance.now() - started))
        // After so many calls, and then in the midst of one.
        await child.says('call', 1 + random.below(120))
        await pause(random.below(20))
      }
      child.kill()
      const { code, signal, stderr } = await child.ended
      this.tally.add('kills')
      if (kind.writers > 1) this.tally.add('kills among several')
      for (const message of child.said) this.#count(message)
      if (signal !== 'SIGKILL' || stderr !== '') this.tally.wrong(place, [`it ended with ${code ?? signal}: ${stderr}`])
      this.#checkSpace(storageDir, kind.capacity, place)
      if (this.tally.violations.length > 20) break
      writer.start('load', random.seed())
    }
    for (const writer of writers) {
      writer.current!.kill()
      await writer.current!.ended
    }
    const last = new Writer({ ...common, fits, journals, keys: keys[0]!, others: [], writer: 0 }).start('end', random.seed())
    const end = await last.says('end')
    if (!await this.#endsWell(last, `${where}, the end`)) return
    this.#count(end!)
    if (end!.fits !== fits) this.tally.wrong(where, [`${Number(end!.fits)} pages fit at the end, ${fits} did at the beginning`])
    this.#checkSpace(storageDir, kind.capacity, `${where}, the end`)
    this.tally.wrong(`${where}, left behind`, new SegmentFiles(storageDir).leftovers())
    for (const path of journals) this.tally.add('pages acknowledged', JournalState.ofFiles([path]).acknowledged)
    this.#options.onProgress?.(`${where}: ${kills} kills, ${this.tally.violations.length} violations so far`)
  }

  async #endsWell(child: TrialProcess, where: string): Promise<boolean> {
    const { code, signal, stderr } = await child.ended
    if (code !== 0 || stderr !== '') this.tally.wrong(where, [`it ended with ${code ?? signal}: ${stderr}`])
    return code === 0
  }

  #count(message: Record<string, unknown>): void {
    if (typeof message.required === 'number') this.tally.add('pages required', message.required)
    if (typeof message.late === 'number') this.tally.add('pages seen at the second look', message.late)
    if (typeof message.older === 'number') this.tally.add('older versions that came back', message.older)
  }

  #checkSpace(storageDir: string, capacity: number, where: string): void {
    let bytes
    try {
      bytes = new SegmentFiles(storageDir).allocatedBytes()
    } catch {
      // Killed before it had made anything, or a folder that was merged at this moment.
      return
    }
    if (bytes > capacity) this.tally.wrong(where, [`${bytes} bytes are taken on the disk, ${capacity} are allowed`])
  }
}

async function pause(ms: number): Promise<void> { await new Promise(resolve => { setTimeout(resolve, ms) }) }

/**
 * Kills processes with SIGKILL at random moments of a mixed load, `count` times, and looks after each at what the next one finds: no wrong byte, every page that was
 * acknowledged there or evicted by rule, no more bytes on the disk than allowed, and as many pages fit as before.
 */
export async function killTrial(options: TrialOptions): Promise<TrialReport> {
  const trial = new KillTrial(options, await usableEngines())
  const stories: [Kind, number][] = []
  for (const kind of KINDS) {
    for (let left = Math.max(1, Math.round(options.count * kind.share)); left > 0; left -= KILLS_PER_STORY) stories.push([kind, Math.min(left, KILLS_PER_STORY)])
  }
  await inTurns(stories.length, AT_ONCE, async i => {
    if (trial.tally.violations.length <= 20) await trial.story(...stories[i]!, i)
  })
  return trial.tally
}
