/**
 * The durability trials at length: node dist/spec/trials/run.js <trial> [--count N] [--seed S] [--keep]
 * Ends with 0 when nothing was wrong. docs/testing.md says what each shows.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { corruptTrial } from './corrupt-trial.js'
import { killTrial } from './kill-trial.js'
import { objectsTrial } from './objects-trial.js'
import { powerTrial } from './power-trial.js'
import { restartTrial } from './restart-trial.js'
import { overtakeTrial, writersTrial } from './sharing-trial.js'
import { endProcesses } from './trial-process.js'
import type { TrialOptions, TrialReport } from './trial.js'

/** With the count that the long version has. */
const TRIALS: Readonly<Record<string, readonly [number, (options: TrialOptions) => Promise<TrialReport>]>> = {
  kill: [1000, killTrial], power: [1000, powerTrial], corrupt: [2000, corruptTrial], overtake: [150, overtakeTrial], writers: [50, writersTrial], restart: [1_000_000, restartTrial],
  objects: [50_000, objectsTrial]
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { count: { type: 'string' }, seed: { type: 'string' }, keep: { type: 'boolean' } } })
  const [count, trial] = TRIALS[positionals[0] ?? ''] ?? []
  const wanted = Number(values.count ?? count)
  const seed = Number(values.seed ?? 1)
  if (trial === undefined || !Number.isSafeInteger(wanted) || wanted < 1 || !Number.isSafeInteger(seed)) {
    console.error(`usage: node dist/spec/trials/run.js ${Object.keys(TRIALS).join('|')} [--count N] [--seed S] [--keep]`)
    return 2
  }
  const directories: string[] = []
  const started = performance.now()
  try {
    const report = await trial({
      count: wanted, seed,
      directory: parent => {
        const path = mkdtempSync(join(parent ?? tmpdir(), 'hicache-trial-'))
        directories.push(path)
        return Promise.resolve(path)
      },
      onProgress: line => { console.error(`${Math.round((performance.now() - started) / 1000)} s: ${line}`) }
    })
    console.log(JSON.stringify({ trial: positionals[0], count: wanted, seed, seconds: Math.round((performance.now() - started) / 1000), ...report }, null, 2))
    return report.violations.length === 0 ? 0 : 1
  } finally {
    endProcesses()
    for (const path of directories) if (values.keep !== true) rmSync(path, { recursive: true, force: true })
  }
}

process.exitCode = await main()
