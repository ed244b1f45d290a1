import { setImmediate } from 'node:timers/promises'
import { makeSimulatedPolicy, type SimulatedPolicyName } from '../../storage/policies/policies.js'
import { SimulatedCache } from './simulated-cache.js'
import type { TraceReader, TraceSummary } from './trace-reader.js'
import { TraceTable } from './trace-table.js'

export interface SimulationOptions {
  readonly reader: TraceReader
  /** What the reader's summarise() said. */
  readonly trace: TraceSummary
  readonly policies: readonly SimulatedPolicyName[]
  /** In pages; Infinity for no limit. */
  readonly capacitiesPages: readonly number[]
  readonly signal?: AbortSignal
  /** Called after each run with the number of runs that are done. */
  onRun?(done: number): void
}

export interface SimulationResult {
  readonly policy: SimulatedPolicyName
  readonly capacityPages: number
  readonly hits: number
  readonly evicted: number
  readonly seconds: number
}

/** Plays a trace once for each policy and each capacity; results policy by policy, in the order of the capacities. */
export async function simulatePolicies(options: SimulationOptions): Promise<SimulationResult[]> {
  const table = await TraceTable.read(options.reader, options.trace)
  const results: SimulationResult[] = []
  for (const policy of options.policies) {
    for (const capacityPages of options.capacitiesPages) {
      const started = performance.now()
      const cache = new SimulatedCache(makeSimulatedPolicy(policy), capacityPages, table)
      cache.play(() => options.signal?.throwIfAborted())
      results.push({ policy, capacityPages, hits: cache.hits, evicted: cache.evicted, seconds: (performance.now() - started) / 1000 })
      options.onRun?.(results.length)
      // A signal can only come between two runs.
      await setImmediate()
    }
  }
  return results
}
