/** A process whose writes, syncs and names are recorded while it loads a store, closes it, and perhaps opens it once more. */
import { HiCacheNixl, type OpenOptions } from '../../lib/index.js'
import { loadAddon } from '../../lib/transfer/load-addon.js'
import { MixedLoad } from './mixed-load.js'
import { Random } from './random.js'
import { TrialPages } from './trial-pages.js'
import { say, taskOf } from './trial-process.js'

export interface PowerTask {
  readonly options: OpenOptions & { readonly storageDir: string }
  readonly log: string
  readonly keys: readonly string[]
  readonly sizes: readonly number[]
  readonly evicting: boolean
  readonly calls: number
  readonly openings: number
  readonly seed: number
}

async function main(task: PowerTask): Promise<void> {
  const { recorder } = loadAddon()
  const pages = new TrialPages(task.sizes)
  const random = new Random(task.seed)
  const violations: string[] = []
  const known = new Map<string, number | null>()
  let lastVersion = 0
  recorder.start(task.log, task.options.storageDir)
  for (let opening = 0; opening < task.openings; opening++) {
    const cache = await HiCacheNixl.open(task.options)
    const load = new MixedLoad(cache, (...lines) => {
      for (const line of lines) {
        recorder.mark(line)
        const [what, key, version] = line.split(' ') as [string, string, string]
        if (what === 'b') lastVersion = Math.max(lastVersion, Number(version))
        if (what === 's') known.set(key, Number(version))
        if (what === 'd' || what === 'n') known.set(key, null)
      }
    }, { pages, keys: task.keys, others: [], random, lastVersion, versionStep: 1, known: new Map(known), evicting: task.evicting, lanes: 4, calls: task.calls })
    await load.run()
    violations.push(...load.violations)
    await cache.close()
  }
  recorder.stop()
  await say({ recorded: true, violations })
  process.disconnect()
}

await main(taskOf<PowerTask>())
