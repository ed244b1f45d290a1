import type { RestartTask } from './restart-child.js'
import { Tally, type TrialOptions, type TrialReport } from './trial.js'
import { TrialProcess } from './trial-process.js'

export const RESTART_PAGE_BYTES = 4096

interface Opened { readonly cpuMs: number; readonly ms: number; readonly found: number; readonly rssBytes: number }

/** Opens a store of `count` pages after a clean close, and after its process was killed: all pages are there, and what it took is told. */
export async function restartTrial({ count, directory, onProgress }: TrialOptions): Promise<TrialReport> {
  const tally = new Tally()
  const storageDir = await directory()
  // Room for all, their records, and the slots that a store keeps ready.
  const capacity = Math.ceil(count * (RESTART_PAGE_BYTES + 512) * 1.2) + 256 * 1024 * 1024
  const run = (task: Pick<RestartTask, 'fill' | 'close'>): TrialProcess => new TrialProcess('./restart-child.js', { storageDir, capacity, pages: count, ...task })
  for (const close of [true, false]) {
    const filling = run({ fill: true, close })
    const filled = await filling.says('filled')
    if (!close) filling.kill()
    const { stderr } = await filling.ended
    if (filled?.filled !== count) tally.wrong('filling', [`${String(filled?.filled)} of ${count} pages were stored. ${stderr}`])
    onProgress?.(`${count} pages, ${close ? 'closed' : 'killed'}`)
    const opening = run({ fill: false, close: true })
    const said = await opening.says('opened')
    const ended = await opening.ended
    if (!said) {
      tally.wrong('opening', [`it did not open: ${ended.stderr}`])
      continue
    }
    const { cpuMs, ms, found, rssBytes } = said.opened as Opened
    const after = close ? 'after a clean close' : 'after a kill'
    if (found !== count) tally.wrong(after, [`${found} of ${count} pages are there`])
    if (said.wrong !== 0) tally.wrong(after, [`${String(said.wrong)} of the pages that were read are missing or wrong`])
    tally.add(`CPU ms of opening ${after}`, cpuMs)
    tally.add(`ms of opening ${after}`, ms)
    tally.add(`resident bytes a page ${after}`, Math.round(rssBytes / count))
  }
  return tally
}
