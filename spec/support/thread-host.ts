/**
 * A process whose threads each open a cache and are ended with transfers in flight, again and again. It exits with 0 and one line of JSON when it has lived through all of it;
 * whatever native code does wrong at such an end takes it down. Started by thread-end.spec.ts.
 */
import { readdirSync, readlinkSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { HiCacheNixl, type OpenOptions } from '../../lib/index.js'
import { loadAddon } from '../../lib/transfer/load-addon.js'
import type { Fault } from '../../lib/transfer/native-binding.js'
import type { BusyThreadTask } from './busy-thread.js'
import { isWhole } from './versioned-pages.js'

export interface HostTask {
  readonly options: OpenOptions
  readonly rounds: number
  readonly keys: readonly string[]
  readonly pageBytes: number
  /** What hangs while every third thread is ended; it is let go after the thread's end. */
  readonly hang: readonly Fault[]
}
export interface HostReport { readonly descriptors: number; readonly descriptorsBefore: number; readonly whole: number; readonly absent: number; readonly other: number; readonly exitCodes: number[] }

const BUSY_THREAD = fileURLToPath(new URL('./busy-thread.js', import.meta.url))
/** Without those of modules: Node leaves one open that a thread was reading when it was terminated. */
const descriptors = (): number => readdirSync('/proc/self/fd').filter(descriptor => {
  try {
    return !/\.c?js$/.test(readlinkSync(`/proc/self/fd/${descriptor}`))
  } catch {
    return false // That of this listing.
  }
}).length

/** When threads are ended, after how many batches, and what of it hangs: nothing, what was given up at its deadline, or what nobody has given up yet. */
async function round(task: HostTask, index: number): Promise<number> {
  const end = (['terminated', 'exit', 'throw'] as const)[index % 3]!
  const hang = index % 3 !== 0 ? 'nothing' : (['given up', 'under way', 'nothing'] as const)[index / 3 % 3]!
  const options = { ...task.options, ...(hang === 'given up' ? { timeoutMs: 100 } : {}) }
  const thread = new Worker(BUSY_THREAD, { workerData: { options, keys: task.keys, pageBytes: task.pageBytes, end } satisfies BusyThreadTask })
  thread.on('error', () => {})
  const exit = new Promise<number>(resolve => { thread.on('exit', resolve) })
  const busy = async (): Promise<void> => { await Promise.race([new Promise(resolve => { thread.once('message', resolve) }), exit]) }
  for (let batch = 0; batch <= index % 4; batch++) await busy()
  if (hang !== 'nothing') loadAddon().setFaults(task.hang)
  if (hang === 'given up') await busy()
  // Any moment will do; it should not be the same one each time.
  if (hang === 'under way') await new Promise(resolve => { setTimeout(resolve, 20 + 7 * index) })
  if (end === 'terminated') void thread.terminate()
  const code = await exit
  // What was withheld comes only now, when its thread and the memory of its cache are gone.
  if (hang !== 'nothing') loadAddon().clearFaults()
  return code
}

async function main(task: HostTask): Promise<void> {
  loadAddon()
  const exitCodes: number[] = []
  exitCodes.push(await round(task, 1))
  const descriptorsBefore = descriptors()
  for (let index = 0; index < task.rounds; index++) exitCodes.push(await round(task, index))
  const end = performance.now() + 10_000
  while (descriptors() > descriptorsBefore && performance.now() < end) await new Promise(resolve => { setTimeout(resolve, 10) })
  const open = descriptors()
  const cache = await HiCacheNixl.open({ env: {}, arenaBytes: 16 * 1024 * 1024, storageLayout: 'file', directoryScheme: 'flat', ...task.options })
  // Whatever deadline the rounds have: this is about what they left.
  const timeoutMs = 20_000
  let whole = 0
  let absent = 0
  let other = 0
  for (const outcome of await cache.read(task.keys, { timeoutMs })) {
    if (outcome.ok && isWhole(outcome.key, outcome.value, task.pageBytes)) whole++
    else if (!outcome.ok && outcome.status === 'miss' && outcome.reason === 'absent') absent++
    else other++
  }
  await cache.close()
  process.stdout.write(JSON.stringify({ descriptors: open, descriptorsBefore, whole, absent, other, exitCodes } satisfies HostReport))
}

await main(JSON.parse(process.argv[2]!) as HostTask)
