import type { NixlBackendConfig } from '../config/nixl-backend-config.js'
import { PLUGIN_NAMES, isPluginName, type PluginName } from '../config/schema-facts.js'
import { HiCacheError } from '../error.js'
import type { PluginProbe, ProbeResult } from './plugin-probe.js'
import { builtInProbes, type ProbedAddon } from './probes.js'

/** What was found out about one plugin. */
export interface PluginReport {
  readonly name: string
  readonly usable: boolean
  readonly reason: string
  readonly remedy: string
  readonly details: Readonly<Record<string, unknown>>
}

/** What decided: `active` sections or the selector key, the selector variable, the caller's option, or the order of preference. */
export type SelectionSource = 'configuration' | 'environment' | 'option' | 'auto'

interface Chosen {
  readonly plugin: PluginName
  readonly engine: string
  readonly source: SelectionSource
  readonly plugins: readonly PluginReport[]
  readonly warnings: readonly string[]
}

/**
 * Which plugin serves a cache, and why.
 *
 * 1. Where sections say `active = true`: the first usable of them in the order 3FS, POSIX, GDS_MT, GDS, OBJ, or an error with every reason.
 * 2. Else the plugin that is selected (option, configuration, environment) when that is not `auto`, or an error.
 * 3. Else the first usable in the same order.
 *
 * A plugin whose section says `active = false` is never used.
 */
export class NixlBackendSelection {
  readonly plugin: PluginName
  /** What moves the bytes: `aio`, `io_uring` or `posix_aio` for posix; empty where a plugin has no choice. */
  readonly engine: string
  readonly agent: 'embedded'
  readonly source: SelectionSource
  /** Every plugin, in the order of preference, then sections of plugins that only NIXL knows. */
  readonly plugins: readonly PluginReport[]
  readonly warnings: readonly string[]

  private constructor(chosen: Chosen) {
    this.plugin = chosen.plugin
    this.engine = chosen.engine
    this.agent = 'embedded'
    this.source = chosen.source
    this.plugins = chosen.plugins
    this.warnings = chosen.warnings
  }

  /**
   * Tries every plugin and chooses.
   *
   * @throws {HiCacheError} ERR_PLUGIN_UNAVAILABLE, with the reason and remedy of every plugin that was in question.
   */
  static async select(
    config: NixlBackendConfig, addon: ProbedAddon, probes: readonly PluginProbe[] = builtInProbes(addon),
  ): Promise<NixlBackendSelection> {
    const { reports, results } = await probeAll(config, probes)
    if (config.options.agent === 'nixl') {
      throw new HiCacheError('ERR_PLUGIN_UNAVAILABLE', 'agent = "nixl" asks for NIXL\'s own library, which this version of hicache-nixl cannot drive yet: '
        + 'set agent = "embedded" or leave it out')
    }
    const warnings = [...config.warnings]
    const { candidates, source, question } = candidatesOf(config, warnings)
    const report = candidates.map((name) => reports.find((one) => one.name === name)!).find(({ usable }) => usable)
    if (report === undefined || !isPluginName(report.name)) throw unavailable(question, candidates, reports)
    const result = results.get(report.name)
    warnings.push(...result?.warnings ?? [])
    return new NixlBackendSelection({ plugin: report.name, engine: result?.engine ?? '', source, plugins: reports, warnings })
  }

  /** What is known about every plugin, without choosing one: for `doctor`, which reports also where nothing is usable. */
  static async report(
    config: NixlBackendConfig, addon: ProbedAddon, probes: readonly PluginProbe[] = builtInProbes(addon),
  ): Promise<readonly PluginReport[]> {
    return (await probeAll(config, probes)).reports
  }
}

async function probeAll(config: NixlBackendConfig, probes: readonly PluginProbe[]):
Promise<{ reports: readonly PluginReport[]; results: ReadonlyMap<string, ProbeResult> }> {
  const results = new Map<string, ProbeResult>()
  const reports: PluginReport[] = await Promise.all(PLUGIN_NAMES.map(async (name) => {
    const result = await tryProbe(probes.find((probe) => probe.name === name), config)
    results.set(name, result)
    const { usable, reason, remedy, engine } = result
    const details = { ...result.details, ...(engine === undefined ? {} : { engine }) }
    if (config.active(name) !== false) return { name, usable, reason, remedy, details }
    return { name, usable: false, reason: `plugin.${name}.active = false switches it off`, remedy: `remove plugin.${name}.active = false`, details }
  }))
  for (const name of config.sections.keys()) {
    if (isPluginName(name)) continue
    reports.push({
      name, usable: false, reason: `plugin ${name} is none of ours: only NIXL's own library could have it, which this version cannot drive yet`,
      remedy: `remove plugin.${name}`, details: {},
    })
  }
  return { reports, results }
}

/** A probe must not throw; one that does takes only its own plugin with it. */
async function tryProbe(probe: PluginProbe | undefined, config: NixlBackendConfig): Promise<ProbeResult> {
  if (probe === undefined) return { usable: false, reason: 'nothing here can try it', remedy: '' }
  try {
    return await probe.probe(config)
  } catch (error) {
    return { usable: false, reason: `trying it failed: ${error instanceof Error ? error.message : String(error)}`, remedy: 'run hicache-nixl doctor' }
  }
}

function candidatesOf(config: NixlBackendConfig, warnings: string[]): { candidates: readonly string[]; source: SelectionSource; question: string } {
  const { plugin: selected, from } = config.selector
  const known: readonly string[] = [...PLUGIN_NAMES, ...[...config.sections.keys()].filter((name) => !isPluginName(name))]
  const active = known.filter((name) => config.active(name) === true)
  if (active.length > 0) {
    if (active.length > 1) warnings.push(`several plugin sections are active (${active.join(', ')}): the first that is usable in the order ${PLUGIN_NAMES.join(', ')} is taken; one is recommended`)
    if (selected !== 'auto' && !active.includes(selected)) {
      warnings.push(`the ${from}'s selection of plugin ${selected} has no effect: the sections that are active decide (${active.join(', ')})`)
    }
    return { candidates: active, source: 'configuration', question: `of the plugins whose sections are active (${active.join(', ')}), none is usable` }
  }
  if (selected !== 'auto') {
    return { candidates: [selected], source: from === 'default' ? 'auto' : from, question: `plugin ${selected}, selected by the ${from}, is not usable` }
  }
  return { candidates: PLUGIN_NAMES, source: 'auto', question: 'no plugin is usable' }
}

function unavailable(question: string, candidates: readonly string[], reports: readonly PluginReport[]): HiCacheError {
  const lines = candidates.map((name) => {
    const { reason, remedy } = reports.find((report) => report.name === name)!
    return `${name}: ${reason}${remedy === '' ? '' : ` (${remedy})`}`
  })
  return new HiCacheError('ERR_PLUGIN_UNAVAILABLE', `${question}: ${lines.join('; ')}`)
}
