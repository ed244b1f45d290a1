import { loadAddon } from '../../lib/transfer/load-addon.js'
import type { Fault } from '../../lib/transfer/native-binding.js'
import type { Workbench } from './workbench.js'

/**
 * Keeps what touches a file whose name contains `match` from going on, so that a spec can act while it is under way; or what the faults say. Answers how to
 * let it go; the end of the spec does it in any case.
 */
export function hang(bench: Workbench, ...what: readonly [match: string] | readonly Fault[]): () => void {
  const addon = loadAddon()
  addon.setFaults(what.map(one => typeof one === 'string' ? { point: 'open', match: one, times: 0, hang: true } : one))
  let held = true
  const release = (): void => {
    if (held) addon.clearFaults()
    held = false
  }
  bench.atEnd(release)
  return release
}
