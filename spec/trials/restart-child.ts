/** A process that fills a store with small pages, or opens it and says what that took. */
import { createHash } from 'node:crypto'
import { HiCacheNixl } from '../../lib/index.js'
import { RESTART_PAGE_BYTES } from './restart-trial.js'
import { say, taskOf } from './trial-process.js'

export interface RestartTask {
  readonly storageDir: string
  readonly capacity: number
  readonly pages: number
  /** Fill it; then close it in order, or go on until killed. */
  readonly fill: boolean
  readonly close: boolean
}

const BATCH = 128
const BATCHES = 8
const SAMPLE = 1000

const keyOf = (page: number): string => createHash('sha256').update(`page ${page}`).digest('hex')

async function fill(cache: HiCacheNixl, pages: number): Promise<number> {
  let next = 0
  let stored = 0
  const lane = async (): Promise<void> => {
    const tensors = Array.from({ length: BATCH }, () => cache.allocate({ dtype: 'uint8', shape: [RESTART_PAGE_BYTES] }))
    while (next < pages) {
      const first = next
      next += BATCH
      const batch = tensors.slice(0, Math.min(BATCH, pages - first)).map((tensor, i) => {
        new DataView(tensor.data.buffer, tensor.data.byteOffset).setUint32(0, first + i)
        return [keyOf(first + i), tensor] as const
      })
      const outcomes = await cache.write(batch)
      stored += outcomes.filter(({ ok }) => ok).length
    }
    for (const tensor of tensors) tensor.release()
  }
  await Promise.all(Array.from({ length: BATCHES }, lane))
  return stored
}

/** Pages of the sample that are not there or not right. */
async function wrong(cache: HiCacheNixl, pages: number): Promise<number> {
  let bad = 0
  for (let i = 0; i < SAMPLE; i++) {
    const page = Math.floor(i * pages / SAMPLE)
    const [outcome] = await cache.read([keyOf(page)])
    const data = outcome!.ok ? (outcome!.value as { data: Uint8Array }).data : null
    if (data?.byteLength !== RESTART_PAGE_BYTES || new DataView(data.buffer, data.byteOffset).getUint32(0) !== page) bad++
  }
  return bad
}

async function main({ storageDir, capacity, pages, fill: fills, close }: RestartTask): Promise<void> {
  const before = process.cpuUsage()
  const started = performance.now()
  const cache = await HiCacheNixl.open({ storageDir, storageLayout: 'segment', capacity, arenaBytes: 16 * 1024 * 1024 })
  const { user, system } = process.cpuUsage(before)
  const opened = { cpuMs: Math.round((user + system) / 1000), ms: Math.round(performance.now() - started), found: cache.stats().segment_pages!, rssBytes: process.memoryUsage.rss() }
  if (fills) {
    await say({ filled: await fill(cache, pages) })
    if (!close) return
  } else {
    await say({ opened, wrong: await wrong(cache, pages) })
  }
  await cache.close()
  process.disconnect()
}

await main(taskOf<RestartTask>())
