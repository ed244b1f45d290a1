import type { EngineName } from '../../lib/transfer/native-binding.js'
import { loadAddon } from '../../lib/transfer/load-addon.js'

export interface TrialOptions {
  /** How many kills, images, damages, batches: see the trial. */
  readonly count: number
  /** The same seed makes the same choices (moments are the machine's). */
  readonly seed: number
  /** Makes an empty directory; whoever calls the trial removes it. */
  readonly directory: (parent?: string) => Promise<string>
  /** Told now and then. */
  readonly onProgress?: (line: string) => void
}

export interface TrialReport {
  /** What must not be: each with what is needed to see it again. Empty = the trial is passed. */
  readonly violations: string[]
  /** What happened, so that a trial that tried nothing is seen. */
  readonly counts: Record<string, number>
}

/** A tally that is a report. */
export class Tally implements TrialReport {
  readonly violations: string[] = []
  readonly counts: Record<string, number> = {}

  add(name: string, count = 1): void { this.counts[name] = (this.counts[name] ?? 0) + count }

  wrong(where: string, whats: readonly string[]): void {
    for (const what of whats.slice(0, 5)) this.violations.push(`${where}: ${what}`)
    if (whats.length > 5) this.violations.push(`${where}: and ${whats.length - 5} more`)
  }
}

/** Engines that work here, in the order of the plugin. */
export async function usableEngines(): Promise<EngineName[]> {
  return (await loadAddon().probeEngines()).filter(({ usable }) => usable).map(({ name }) => name)
}
