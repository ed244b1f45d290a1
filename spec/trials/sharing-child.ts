/** One of two processes on a directory: writes, or reads what the other one writes, as the parent tells it. */
import { HiCacheNixl, type OpenOptions, type ReadOutcome, type Tensor } from '../../lib/index.js'
import { loadAddon } from '../../lib/transfer/load-addon.js'
import { Random } from './random.js'
import { TrialPages } from './trial-pages.js'
import { say, taskOf } from './trial-process.js'

export interface SharingTask {
  readonly options: OpenOptions
  readonly keys: readonly string[]
  readonly sizes: readonly number[]
  readonly seed: number
  /** Versions are this one and every `versionStep`th after it. */
  readonly firstVersion: number
  readonly versionStep: number
}

/** What the parent asks for; each is answered by an object that has the command's name. */
export type SharingCommand =
  /** Writes all keys `rounds` times, each time in another order. Answers the last version of each. */
  | { readonly command: 'write'; readonly rounds: number }
  /** Reads random keys until `stop`. */
  | { readonly command: 'read' }
  | { readonly command: 'stop' }
  /** Reads these keys once and answers the version of each, or the reason of its miss. */
  | { readonly command: 'look'; readonly keys: readonly string[] }
  /** Begins to read these keys once they are there, and keeps what the engine brings back from being looked at until `release`. */
  | { readonly command: 'hold'; readonly keys: readonly string[] }
  | { readonly command: 'release' }
  | { readonly command: 'close' }

const BATCH = 16
const COMPLETIONS: Readonly<Record<string, string>> = { io_uring: 'ring.complete', aio: 'aio.complete', posix_aio: 'paio.complete' }

const task = taskOf<SharingTask>()
const pages = new TrialPages(task.sizes)
const random = new Random(task.seed)
const cache = await HiCacheNixl.open(task.options)
let version = task.firstVersion
let reading = false
let held: Promise<ReadOutcome<Tensor>[]> | null = null

type Seen = Record<string, number | string>

async function look(keys: readonly string[]): Promise<Seen> {
  return seenIn(await cache.read(keys))
}

function seenIn(outcomes: readonly ReadOutcome<Tensor>[]): Seen {
  return Object.fromEntries(outcomes.map(outcome => [outcome.key, outcome.ok
    ? pages.versionOf(outcome.key, outcome.value) ?? 'WRONG'
    : outcome.status === 'miss' ? outcome.reason : `${outcome.status}: ${outcome.error.message}`]))
}

async function write(rounds: number): Promise<void> {
  const last: Record<string, number> = {}
  const failed: string[] = []
  for (let round = 0; round < rounds; round++) {
    const order = [...task.keys].map(key => [random.below(2 ** 30), key] as const).sort(([a], [b]) => a - b).map(([, key]) => key)
    for (let at = 0; at < order.length; at += BATCH) {
      const part = order.slice(at, at + BATCH)
      const outcomes = await cache.write(part.map(key => {
        last[key] = version
        const page = [key, pages.page(key, version)] as const
        version += task.versionStep
        return page
      }))
      for (const outcome of outcomes) if (!outcome.ok) failed.push(`${outcome.key}: ${outcome.status}: ${outcome.error.message}`)
    }
  }
  await say({ write: true, last, failed })
}

async function readOn(): Promise<void> {
  const counts: Record<string, number> = {}
  reading = true
  while (reading) {
    const keys = [...new Set(Array.from({ length: BATCH }, () => random.pick(task.keys)))]
    for (const found of Object.values(await look(keys))) {
      const name = typeof found === 'number' ? 'hit' : found
      counts[name] = (counts[name] ?? 0) + 1
    }
  }
  await say({ stop: true, counts })
}

async function hold(keys: readonly string[]): Promise<void> {
  while (await cache.batchExists(keys) < keys.length) await new Promise(resolve => { setTimeout(resolve, 5) })
  loadAddon().setFaults([{ point: COMPLETIONS[cache.selection.engine]!, match: 'segments/', hang: true, times: 0 }])
  held = cache.read(keys)
  // The batch is with the worker within this turn's messages; a page that went on to the engine is held there.
  await new Promise(resolve => { setTimeout(resolve, 100) })
  await say({ hold: true, engine: cache.directories[0]!.engine })
}

async function release(): Promise<void> {
  const [struck] = loadAddon().clearFaults()
  await say({ release: true, struck, seen: seenIn(await held!) })
}

async function obey(message: SharingCommand): Promise<void> {
  switch (message.command) {
    case 'write': await write(message.rounds); return
    case 'read': await readOn(); return
    case 'stop': reading = false; return
    case 'look': await say({ look: true, seen: await look(message.keys) }); return
    case 'hold': await hold(message.keys); return
    case 'release': await release(); return
    case 'close':
      await cache.close()
      await say({ close: true })
      process.disconnect()
  }
}

process.on('message', message => { void obey(message as SharingCommand) })
await say({ ready: true })
