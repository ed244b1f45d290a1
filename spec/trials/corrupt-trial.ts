import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { inTurns } from '../support/busy-children.js'
import type { CorruptTask } from './corrupt-child.js'
import { Random } from './random.js'
import { TrialProcess } from './trial-process.js'
import { Tally, type TrialOptions, type TrialReport } from './trial.js'

const MIB = 1024 * 1024
const PER_PROCESS = 25
const AT_ONCE = 2

/**
 * Damages the files of a store at random, `count` times: they are cut, zeroed, overwritten, appended to, exchanged, removed, and numbers in them are forged. Opened, read, written to
 * and verified, it shows no wrong byte, does not crash, and works.
 */
export async function corruptTrial(options: TrialOptions): Promise<TrialReport> {
  const tally = new Tally()
  const random = new Random(options.seed)
  const parents = [undefined, '/dev/shm'] as const
  const common = { options: { env: {}, storageLayout: 'segment', capacity: 16 * MIB, segmentBytes: MIB, arenaBytes: 16 * MIB, workers: 1, timeoutMs: 10_000 } } as const
  const folders = await Promise.all(parents.map(async parent => {
    const folder = await options.directory(parent)
    const task: CorruptTask = { ...common, older: join(folder, 'older'), template: join(folder, 'template'), copies: [] }
    const { code, signal, stderr } = await new TrialProcess('./corrupt-child.js', task).ended
    if (code !== 0) tally.wrong('building the store', [`it ended with ${code ?? signal}: ${stderr}`])
    return folder
  }))
  if (tally.violations.length > 0) return tally
  await inTurns(Math.ceil(options.count / PER_PROCESS), AT_ONCE, async number => {
    if (tally.violations.length > 20) return
    const folder = folders[number % folders.length]!
    const count = Math.min(PER_PROCESS, options.count - number * PER_PROCESS)
    const copies = Array.from({ length: count }, (_, i) => ({ directory: join(folder, `copy-${number}-${i}`), seed: random.seed(), whileOpen: i % 3 === 2 }))
    const task: CorruptTask = { ...common, older: join(folder, 'older'), template: join(folder, 'template'), copies }
    const child = new TrialProcess('./corrupt-child.js', task)
    const { code, signal, stderr } = await child.ended
    for (const message of child.said) {
      if (!('tried' in message)) continue
      tally.add('damages')
      for (const [name, times] of Object.entries(message.seen as Record<string, number>)) tally.add(name, times)
      tally.wrong(`${String(message.harmed)} (${String(message.tried)}, seed ${Number(message.seed)})`, message.violations as string[])
    }
    if (code !== 0 || stderr !== '' || !child.said.some(message => 'end' in message)) {
      const last = child.said.findLast(message => 'at' in message)
      tally.wrong(`${String(last?.harmed)} (${String(last?.at)}, seed ${Number(last?.seed)})`, [`the process ended with ${code ?? signal}: ${stderr}`])
    }
    for (const { directory } of copies) rmSync(directory, { recursive: true, force: true })
    options.onProgress?.(`${(number + 1) * PER_PROCESS} damages, ${tally.violations.length} violations so far`)
  })
  return tally
}
