/**
 * A process that writes and reads pages without a pause, until it ends as it was told, with transfers in flight. Started by busy-children.ts; says `ready` once, and
 * `busy` after every batch.
 */
import { HiCacheNixl, type OpenOptions } from '../../lib/index.js'
import { loadAddon } from '../../lib/transfer/load-addon.js'
import type { Fault } from '../../lib/transfer/native-binding.js'
import { isWhole, versionedPage } from './versioned-pages.js'

export interface BusyTask {
  readonly options: OpenOptions
  readonly keys: readonly string[]
  readonly pageBytes: number
  /** How it ends: by process.exit(7), by an exception that nobody catches, by its main module's end (the transfers end first), or not by itself. */
  readonly end: 'exit' | 'throw' | 'return' | 'never'
  /** After how many batches. */
  readonly batches: number
  /** Turns of the event loop after that. */
  readonly turns: number
  readonly seed: number
  /** Write by temporary names, as on a file system without O_TMPFILE. */
  readonly named?: boolean
  /** Planned before the first batch. */
  readonly faults?: readonly Fault[]
}

const PAGES = 8

async function main(task: BusyTask): Promise<void> {
  const cache = await HiCacheNixl.open({ env: {}, arenaBytes: 16 * 1024 * 1024, storageLayout: 'file', directoryScheme: 'flat', ...task.options })
  if (task.named === true) {
    // The second open of a write is that of the new file; what it answers is remembered by the one worker's store.
    loadAddon().setFaults([{ point: 'open', match: 'named', errno: 'EOPNOTSUPP', after: 1 }])
    await cache.set('named', new Uint8Array(1))
    loadAddon().clearFaults()
  }
  if (task.faults) loadAddon().setFaults(task.faults)
  let state = task.seed
  const random = (below: number): number => {
    state = Math.imul(state ^ state >>> 15, 0x2c1b3c6d) + 0x9e3779b9 | 0
    return (state >>> 0) % below
  }
  const say = (text: string): void => { if (process.connected) process.send!(text) }
  let batches = 0
  let over = false
  const end = (): void => {
    if (task.end === 'exit') process.exit(7)
    if (task.end === 'throw') throw new Error('thrown on purpose')
    over = true
    process.disconnect()
  }
  const wait = (turns: number): void => {
    if (turns === 0) end()
    else setImmediate(() => { wait(turns - 1) })
  }
  const work = async (): Promise<void> => {
    while (!over) {
      const keys = Array.from({ length: PAGES }, () => task.keys[random(task.keys.length)]!)
      if (random(3) === 0) {
        for (const outcome of await cache.read(keys)) {
          if (outcome.ok && !isWhole(outcome.key, outcome.value, task.pageBytes)) say(`WRONG BYTES in ${outcome.key}`)
        }
      } else {
        await cache.write(keys.map(key => [key, versionedPage(key, random(2 ** 31), task.pageBytes)]))
      }
      say('busy')
      // What is answered at once, because its directory or endpoint is held for dead, gives nothing else a turn.
      await new Promise(resolve => { setImmediate(resolve) })
      if (batches++ === task.batches && task.end !== 'never') wait(task.turns)
    }
  }
  say('ready')
  // Three at a time: when it ends, others are under way.
  await Promise.all([work(), work(), work()])
}

await main(JSON.parse(process.argv[2]!) as BusyTask)
