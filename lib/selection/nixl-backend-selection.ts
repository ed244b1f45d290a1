import type { NixlBackendConfig } from '../config/nixl-backend-config.js'
import { PLUGIN_NAMES, isPluginName } from '../config/schema-facts.js'
import { HiCacheError } from '../error.js'
import { probeNixl } from './nixl-probe.js'
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

/** Who moves the bytes: native code of ours, or an agent of NIXL's own library. */
export type AgentName = 'embedded' | 'nixl'

interface Chosen {
  readonly plugin: string
  readonly engine: string
  readonly agent: AgentName
  readonly agentReason: string
  readonly objects: boolean
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
  /** One of the five, or a section's name that only NIXL knows. */
  readonly plugin: string
  /** What moves the bytes of host memory: `aio`, `io_uring` or `posix_aio` for posix, gds and gds_mt; `usrbio` for 3fs; `libcurl` for obj; `nixl` with that agent. */
  readonly engine: string
  readonly agent: AgentName
  /** Why that agent. */
  readonly agentReason: string
  /** Are pages objects, and not files in storage directories? */
  readonly objects: boolean
  readonly source: SelectionSource
  /** Every plugin, in the order of preference, then sections of plugins that only NIXL knows. */
  readonly plugins: readonly PluginReport[]
  readonly warnings: readonly string[]

  private constructor(chosen: Chosen) {
    this.plugin = chosen.plugin
    this.engine = chosen.engine
    this.agent = chosen.agent
    this.agentReason = chosen.agentReason
    this.objects = chosen.objects
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
    const warnings = [...config.warnings]
    const { candidates, source, question } = candidatesOf(config, warnings)
    if (config.options.agent === 'nixl') {
      return await NixlBackendSelection.#byNixl(config, addon, { candidates, source, question, warnings, agentReason: 'the configuration asks for it (agent = "nixl")' })
    }
    const { reports, results } = await probeAll(config, probes)
    const report = candidates.map((name) => reports.find((one) => one.name === name)!).find(({ usable }) => usable)
    if (report !== undefined) {
      const result = results.get(report.name)
      warnings.push(...result?.warnings ?? [])
      const agentReason = config.options.agent === 'embedded' ? 'the configuration asks for it (agent = "embedded")' : `the embedded agent has plugin ${report.name}`
      return new NixlBackendSelection({ plugin: report.name, engine: result?.engine ?? '', agent: 'embedded', agentReason, objects: report.name === 'obj', source, plugins: reports, warnings })
    }
    const onlyNixl = candidates.filter((name) => !isPluginName(name))
    if (config.options.agent === 'auto' && onlyNixl.length > 0) {
      return await NixlBackendSelection.#byNixl(config, addon, {
        candidates: onlyNixl, source, question, warnings, agentReason: `only NIXL can have plugin ${onlyNixl.join(', ')}`, reports: reports.filter(({ name }) => isPluginName(name)),
      })
    }
    throw unavailable(question, candidates, reports)
  }

  static async #byNixl(config: NixlBackendConfig, addon: ProbedAddon, asked: {
    readonly candidates: readonly string[]; readonly source: SelectionSource; readonly question: string; readonly warnings: string[]; readonly agentReason: string
    readonly reports?: readonly PluginReport[]
  }): Promise<NixlBackendSelection> {
    const { candidates, source, question, warnings, agentReason } = asked
    const names = new Set<string>([...(asked.reports === undefined ? PLUGIN_NAMES : []), ...candidates])
    const reports: PluginReport[] = [...asked.reports ?? []]
    let objects = false
    // One after the other: each makes an agent, and what NIXL's plugins do to each other meanwhile nobody knows.
    for (const name of names) {
      const result: ProbeResult = candidates.includes(name) ? await probeNixl(config, addon, name) : { usable: false, reason: 'nobody asks for it, so it was not tried', remedy: '' }
      reports.push(reportOf(config, name, result))
      objects = result.objects === true
      if (reports.at(-1)!.usable) break
    }
    for (const name of names) if (!reports.some((one) => one.name === name)) reports.push(reportOf(config, name, { usable: false, reason: 'another plugin is preferred, so it was not tried', remedy: '' }))
    const report = candidates.map((name) => reports.find((one) => one.name === name)!).find(({ usable }) => usable)
    if (report === undefined) throw unavailable(question, candidates, reports)
    return new NixlBackendSelection({ plugin: report.name, engine: 'nixl', agent: 'nixl', agentReason, objects, source, plugins: reports, warnings })
  }

  /** What is known about every plugin, without choosing one: for `doctor`, which reports also where nothing is usable. */
  static async report(
    config: NixlBackendConfig, addon: ProbedAddon, probes: readonly PluginProbe[] = builtInProbes(addon, true),
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
    return reportOf(config, name, result)
  }))
  for (const name of config.sections.keys()) {
    if (isPluginName(name)) continue
    reports.push({
      name, usable: false, reason: `plugin ${name} is none of ours: only NIXL's own library could have it`,
      remedy: `set agent = "nixl" where NIXL is installed, or remove plugin.${name}`, details: {},
    })
  }
  return { reports, results }
}

function reportOf(config: NixlBackendConfig, name: string, { usable, reason, remedy, engine, details: more }: ProbeResult): PluginReport {
  const details = { ...more, ...(engine === undefined ? {} : { engine }) }
  if (config.active(name) !== false) return { name, usable, reason, remedy, details }
  return { name, usable: false, reason: `plugin.${name}.active = false switches it off`, remedy: `remove plugin.${name}.active = false`, details }
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
