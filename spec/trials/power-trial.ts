import { mkdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { loadAddon } from '../../lib/transfer/load-addon.js'
import { inTurns } from '../support/busy-children.js'
import { CrashImages, differences, writeImage, type DiskImage } from './crash-images.js'
import type { ImageExpectation, ImageTask } from './image-child.js'
import { JournalState, type KeyState } from './journal.js'
import type { PowerTask } from './power-child.js'
import { Random } from './random.js'
import { readRecording } from './recording.js'
import { slotsOf } from './segment-files.js'
import { TrialPages, trialKeys } from './trial-pages.js'
import { TrialProcess } from './trial-process.js'
import { Tally, usableEngines, type TrialOptions, type TrialReport } from './trial.js'

const MIB = 1024 * 1024
const IMAGES_PER_RECORDING = 20
const AT_ONCE = 2
const SIZES = [4096, 20_000, 65_536]
/** What a cache without model and ranks puts behind its keys. */
const SUFFIX = '__0_1'

/** Pages that had a record, as every process saw it at that moment, by key and checksum: what was acknowledged and is not among them has been evicted. */
function recordedPages(seen: DiskImage): Set<string> {
  const found = new Set<string>()
  for (const [path, content] of seen) {
    if (content === null || !path.endsWith('.index')) continue
    for (const { state, key, checksum } of slotsOf(content)) if (state === 'page') found.add(`${key.slice(0, -SUFFIX.length)} ${checksum}`)
  }
  return found
}

/**
 * Records a store under load and cuts its power `count` times, at any moment or just after an answer: the images are opened, and hold no wrong byte; with fsync
 * `batch` they hold every page that was acknowledged and not evicted since.
 */
export async function powerTrial(options: TrialOptions): Promise<TrialReport> {
  const tally = new Tally()
  const pages = new TrialPages(SIZES)
  const engines = await usableEngines()
  const recordings = Math.ceil(options.count / IMAGES_PER_RECORDING)
  await inTurns(recordings, AT_ONCE, async number => {
    if (tally.violations.length > 20) return
    const images = Math.min(IMAGES_PER_RECORDING, options.count - number * IMAGES_PER_RECORDING)
    const random = new Random(options.seed * 1009 + number)
    // One in four is a store that never synchronises: it may lose everything, and still shows no wrong byte.
    const batch = number % 4 !== 3
    const evicting = number % 2 === 1
    const where = `recording ${number} (fsync ${batch ? 'batch' : 'never'}, ${evicting ? 'evicting' : 'room for all'}, seed ${options.seed})`
    const folder = realpathSync(await options.directory())
    const storageDir = join(folder, 'store')
    mkdirSync(storageDir, { mode: 0o700 })
    const common = { env: {}, storageLayout: 'segment', capacity: (evicting ? 8 : 32) * MIB, segmentBytes: MIB, arenaBytes: 16 * MIB, timeoutMs: 60_000 } as const
    const task: PowerTask = {
      options: { ...common, storageDir, fsync: batch ? 'batch' : 'never', engine: engines[number % engines.length]!, leaseMs: 0, workers: 1 + number % 2 },
      log: join(folder, 'log'), keys: trialKeys('page', evicting ? 300 : 80), sizes: SIZES, evicting, calls: evicting ? 150 : 60, openings: 1 + number % 3 % 2, seed: random.seed()
    }
    const child = new TrialProcess('./power-child.js', task)
    const recorded = await child.says('recorded')
    const { code, signal, stderr } = await child.ended
    if (recorded === null || code !== 0) { tally.wrong(where, [`recording it ended with ${code ?? signal}: ${stderr}`]); return; }
    tally.wrong(`${where}, while it was recorded`, recorded.violations as string[])

    const events = readRecording(task.log, storageDir)
    tally.add('recorded events', events.length)
    const whole = new CrashImages(events)
    whole.advance(events.length)
    tally.wrong(`${where}: the recorder missed something`, differences(whole.seen(), storageDir).filter(what => what.startsWith('segments')))
    rmSync(storageDir, { recursive: true })

    // Half of the cuts come just after an answer: then what it promised is at stake.
    const answers = events.flatMap((event, i) => event.kind === 'mark' && event.text.startsWith('s ') ? [i + 1] : [])
    const cuts = Array.from({ length: images }, () => answers.length > 0 && random.chance(0.5) ? random.pick(answers) : random.below(events.length + 1)).sort((a, b) => a - b)
    const at = new CrashImages(events)
    const lines: string[] = []
    const state = new JournalState()
    const paths = cuts.map((cut, i) => {
      at.advance(cut, line => {
        lines.push(line)
        state.add(line)
      })
      const path = join(folder, `image-${i}-at-${cut}`)
      writeImage(at.image(random), path)
      const there = evicting ? recordedPages(at.seen()) : null
      // The version that was acknowledged stands before those that are under way.
      const isThere = (key: string, { versions: [version] }: KeyState): boolean => there === null || there.has(`${key} ${loadAddon().crc64(pages.page(key, version!))}`)
      const required = !batch ? [] : [...state.keys].filter(([key, known]) => !known.mayBeAbsent && isThere(key, known)).map(([key]) => key)
      const expectation: ImageExpectation = { lines, required, older: true }
      writeFileSync(`${path}.json`, JSON.stringify(expectation))
      return path
    })
    const look: ImageTask = { images: paths, sizes: SIZES, options: { ...common, fsync: 'never', workers: 1 } }
    const looking = new TrialProcess('./image-child.js', look)
    const ended = await looking.ended
    for (const message of looking.said) {
      if (!('violations' in message)) continue
      tally.add('images')
      for (const name of ['there', 'required', 'revived', 'corrupt'] as const) tally.add(`pages ${name}`, Number(message[name] ?? 0))
      tally.wrong(`${where}, ${String(message.image)}`, message.violations as string[])
    }
    if (ended.code !== 0 || ended.stderr !== '' || !looking.said.some(message => 'end' in message)) {
      const last = looking.said.findLast(message => 'at' in message)
      tally.wrong(`${where}, ${String(last?.at)}`, [`the process ended with ${ended.code ?? ended.signal}: ${ended.stderr}`])
    }
    // What went wrong can be looked at, if the directory stays.
    if (tally.violations.length === 0) for (const path of paths) rmSync(path, { recursive: true })
    rmSync(task.log)
    options.onProgress?.(`${where}: ${images} images, ${tally.violations.length} violations so far`)
  })
  return tally
}
