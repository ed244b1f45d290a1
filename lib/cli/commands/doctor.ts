import { access, constants } from 'node:fs/promises'
import { availableParallelism, release } from 'node:os'
import { NixlBackendConfig } from '../../config/nixl-backend-config.js'
import { HiCacheError } from '../../error.js'
import { defaultArenaBytes } from '../../memory/memory-limit.js'
import { CufileProbe, inspectCufile, type CufileInspector } from '../../selection/cufile-probe.js'
import { NixlBackendSelection, type PluginReport } from '../../selection/nixl-backend-selection.js'
import { builtInProbes, type ProbedAddon } from '../../selection/probes.js'
import { loadAddon } from '../../transfer/load-addon.js'
import type { EngineName, EngineReport, NativeAddon } from '../../transfer/native-binding.js'
import { ExitCode, type CommandContext, type OptionSpecs } from '../command.js'
import { configInput, CONFIG_OPTIONS } from '../config-input.js'
import { directoryFindings, type DirectoryFindings } from '../doctor/directory-findings.js'
import { describeDoctor } from '../doctor/describe.js'
import { measureEngines, type EngineCost } from '../doctor/engine-costs.js'
import type { Finding } from '../doctor/finding.js'
import { libraryFindings, type LibraryFinding } from '../doctor/library-findings.js'
import { objectFindings, type ObjectFindings } from '../doctor/object-findings.js'
import { systemFindings } from '../doctor/system-findings.js'
import { asksForObjects } from '../object-selection.js'
import { STORE_OPTIONS } from '../store-options.js'
import { packageVersion } from '../version.js'

export const name = 'doctor'
export const summary = 'Check plugins, libraries, engines, directories and the object store; say what to do about each problem'
export const usage = ''
export const options: OptionSpecs = {
  quick: { type: 'boolean', help: 'Skip the measured comparison of the engines (under 3 s, 16 MiB in a temporary folder).' },
  ...CONFIG_OPTIONS, engine: STORE_OPTIONS.engine!,
}
export const details = 'Changes nothing: a storage directory that is not there is not made. Libraries of 3FS, NIXL, CUDA and cuFile are loaded to see whether they are here, cuFile\'s in a process of its own; ' +
  'where plugin.3fs.mount_point is set, a temporary file of 4 KiB is written there, and removed. Where plugin obj is asked for, or a bucket is configured, the object store is tried from its name to the delete of a ' +
  'probe object of 64 KiB, which is removed; each step has at most 5 s. Ends with 1 when no plugin, or not the one asked for, is usable, a directory is bad, or the object store that is asked for fails; ' +
  'with 2 when the configuration is wrong.'

const MEASURE_BUDGET_MS = 1500
const WORKERS_DEFAULT = 2
const QUEUE_DEPTH_DEFAULT = 64

export interface EngineFindings extends EngineReport {
  /** A cache opened now would run on it. */
  readonly selected: boolean
  /** Null when it was not measured. */
  readonly cost: EngineCost | null
}

export interface DoctorReport {
  readonly version: string
  /** The plugin that a cache opened now would use; null when there is none. */
  readonly selected: string | null
  /** Its engine; null where it has none. */
  readonly engine: string | null
  /** Who moves the bytes. */
  readonly agent: string
  /** Why that agent; null where no plugin could be selected. */
  readonly agentReason: string | null
  /** What decided on the plugin. */
  readonly selectedBy: string | null
  /** Why no plugin could be selected. */
  readonly failure: string | null
  /** The plugins that the configuration, the environment or an option ask for; null when nothing does. */
  readonly askedFor: readonly string[] | null
  readonly config: string
  readonly plugins: readonly PluginReport[]
  /** Those that are loaded only where something asks for them; none where the native addon does not load. */
  readonly libraries: readonly LibraryFinding[]
  readonly engines: readonly EngineFindings[]
  /** None where pages go to an object store. */
  readonly directories: readonly DirectoryFindings[]
  /** The object store, where one is asked for or a bucket is configured; else null. */
  readonly objects: ObjectFindings | null
  readonly software: readonly Finding[]
  readonly system: readonly Finding[]
  /** Where the engines were measured, and how the selected one compares with the best; null when they were not. */
  readonly measured: { readonly directory: string; readonly bestRead: string; readonly readRatio: number; readonly bestWrite: string; readonly writeRatio: number } | null
  readonly measureNote: string
  readonly warnings: readonly string[]
  readonly ok: boolean
}

export async function run(context: CommandContext): Promise<number> {
  // A wrong configuration ends here, with its place: what it would select cannot be told.
  const config = NixlBackendConfig.load(configInput(context))
  const { addon, failure: addonFailure } = tryAddon()
  const asked = context.options.string('engine') as EngineName | 'auto' | undefined
  const wanted = askedFor(config)
  const objectsAsked = asksForObjects(config)
  // Storage directories have no part in it where nothing but an object store is asked for.
  const onlyObjects = objectsAsked && wanted!.length === 1
  const tryObjects = addon !== undefined && (objectsAsked || (config.active('obj') !== false && config.section('obj').bucket !== ''))
  const inspect = once(inspectCufile)
  const [chosen, reports, directories, objects] = await Promise.all([
    select({ config, addon, addonFailure, asked, inspect }),
    addon === undefined ? [] : addon.probeEngines(),
    Promise.all(onlyObjects ? [] : config.storageDirs.map(async (path) => await directoryFindings(addon, path))),
    tryObjects ? objectFindings(config, addon) : null,
  ])
  const engine = chosen.selection === undefined || chosen.failure !== null ? null
    : chosen.selection.plugin === 'posix' && chosen.selection.agent === 'embedded' && asked !== undefined && asked !== 'auto' ? asked : chosen.selection.engine
  const { costs, place, note } = onlyObjects ? { costs: [], note: 'not measured: an object store has no engine' } : await measure(context, addon, reports, directories)

  const { options: configured } = config
  const agent = chosen.selection?.agent ?? (configured.agent === 'auto' ? 'embedded' : configured.agent)
  const libraries = addon === undefined ? [] : await libraryFindings(addon, {
    config, agent, plugins: chosen.selection !== undefined ? [chosen.selection.plugin] : wanted ?? [], inspectCufile: inspect,
  })
  const workers = configured.workers ?? Math.min(WORKERS_DEFAULT, availableParallelism())
  const report: DoctorReport = {
    version: packageVersion(),
    selected: chosen.failure === null ? chosen.selection!.plugin : null,
    engine: engine === '' ? null : engine,
    agent,
    agentReason: chosen.selection?.agentReason ?? null,
    selectedBy: chosen.selection?.source ?? null,
    failure: chosen.failure,
    askedFor: wanted,
    config: config.source,
    plugins: chosen.plugins,
    libraries,
    engines: reports.map((one) => ({ ...one, selected: one.name === engine, cost: costs.find((cost) => cost.engine === one.name) ?? null })),
    directories,
    objects,
    software: softwareFindings(addon, addonFailure),
    system: systemFindings({
      engines: reports, kernelRelease: release(),
      aioEvents: (configured.queueDepth ?? QUEUE_DEPTH_DEFAULT) * workers * config.storageDirs.length,
      arenaBytes: configured.arenaBytes ?? defaultArenaBytes(),
    }),
    measured: place === undefined ? null : compare(costs, engine, place),
    measureNote: note,
    warnings: chosen.selection?.warnings ?? config.warnings,
    ok: chosen.failure === null && directories.every(({ state }) => state !== 'fail') && (!objectsAsked || (objects?.findings ?? []).every(({ state }) => state !== 'fail')),
  }
  if (context.json) await context.output.json(report)
  else await context.output.write(describeDoctor(report, context.style))
  return report.ok ? ExitCode.done : ExitCode.wrong
}

function askedFor(config: NixlBackendConfig): string[] | null {
  const active = [...config.sections.values()].filter((section) => section.active === true).map((section) => section.name)
  if (active.length > 0) return active
  return config.selector.plugin === 'auto' ? null : [config.selector.plugin]
}

function tryAddon(): { addon: NativeAddon | undefined; failure: string } {
  try {
    return { addon: loadAddon(), failure: '' }
  } catch (error) {
    if (!HiCacheError.is(error)) throw error
    return { addon: undefined, failure: error.message }
  }
}

interface Chosen { readonly selection: NixlBackendSelection | undefined; readonly plugins: readonly PluginReport[]; readonly failure: string | null }

interface Selecting {
  readonly config: NixlBackendConfig
  readonly addon: NativeAddon | undefined
  readonly addonFailure: string
  readonly asked: EngineName | 'auto' | undefined
  readonly inspect: CufileInspector
}

async function select({ config, addon, addonFailure, asked, inspect }: Selecting): Promise<Chosen> {
  const tried: ProbedAddon = addon ?? { probeEngines: async () => await Promise.reject(new Error(addonFailure)) }
  // A cache tries cuFile only where it is asked for. It changes nothing about the choice that it is tried here in any case: another plugin is always preferred where nobody asks.
  const probes = builtInProbes(tried).map((probe) => probe instanceof CufileProbe ? new CufileProbe(probe.name, tried, { inspect, always: true }) : probe)
  try {
    const selection = await NixlBackendSelection.select(config, tried, probes)
    const engine = selection.plugin !== 'posix' || selection.agent === 'nixl' || asked === undefined || asked === 'auto' ? undefined
      : (await tried.probeEngines()).find((one) => one.name === asked)
    const failure = engine === undefined || engine.usable ? null : `--engine ${engine.name} does not work here: ${engine.reason}`
    return { selection, plugins: selection.plugins, failure }
  } catch (error) {
    if (!HiCacheError.is(error)) throw error
    return { selection: undefined, plugins: await NixlBackendSelection.report(config, tried, probes), failure: error.message }
  }
}

/** Two plugins and a library ask the same, and each answer takes a process. */
function once(inspect: CufileInspector): CufileInspector {
  let answer: ReturnType<CufileInspector> | undefined
  return async () => await (answer ??= inspect())
}

interface Measured { readonly costs: readonly EngineCost[]; readonly place?: string; readonly note: string }

async function measure(
  context: CommandContext, addon: NativeAddon | undefined, reports: readonly EngineReport[], directories: readonly DirectoryFindings[],
): Promise<Measured> {
  const none = (note: string): Measured => ({ costs: [], note })
  if (context.options.flag('quick')) return none('not measured (--quick)')
  if (addon === undefined) return none('not measured: the native addon does not load')
  const engines = reports.filter(({ usable }) => usable).map(({ name: engine }) => engine)
  if (engines.length === 0) return none('not measured: none is usable')
  const directory = directories.find(({ state, engine }) => state !== 'fail' && engine)
  if (directory === undefined) return none('not measured: no directory here is served by an engine')
  const progress = context.progress({ label: 'measuring the engines', unit: 'rounds', lineMs: Infinity })
  try {
    await access(directory.probed, constants.W_OK)
    progress.update(0)
    const costs = await measureEngines({ addon, directory: directory.probed, direct: directory.direct, engines, budgetMs: MEASURE_BUDGET_MS, signal: context.signal })
    return { costs, place: directory.probed, note: '' }
  } catch (error) {
    return none(`not measured: ${error instanceof Error ? error.message : String(error)}`)
  } finally {
    progress.finish()
  }
}

function compare(costs: readonly EngineCost[], selected: string | null, directory: string): DoctorReport['measured'] {
  const mine = costs.find(({ engine }) => engine === selected)
  if (mine === undefined) return null
  const best = (of: (cost: EngineCost) => number): EngineCost => costs.reduce((a, b) => of(b) > of(a) ? b : a)
  const read = best((cost) => cost.readMibPerSecond)
  const write = best((cost) => cost.writeMibPerSecond)
  return {
    directory,
    bestRead: read.engine, readRatio: mine.readMibPerSecond / read.readMibPerSecond,
    bestWrite: write.engine, writeRatio: mine.writeMibPerSecond / write.writeMibPerSecond,
  }
}

const NODE_MIN = [20, 19] as const

function softwareFindings(addon: NativeAddon | undefined, failure: string): Finding[] {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  const recent = major > NODE_MIN[0] || (major === NODE_MIN[0] && minor >= NODE_MIN[1])
  const findings: Finding[] = [
    { name: 'hicache-nixl', state: 'ok', value: packageVersion(), remedy: '' },
    {
      name: 'Node', state: recent ? 'ok' : 'fail', value: `${process.version} (${process.platform}-${process.arch}, Node-API ${process.versions.napi ?? '?'})`,
      remedy: recent ? '' : `use Node ${NODE_MIN.join('.')} or newer`,
    },
  ]
  if (addon === undefined) {
    findings.push({ name: 'native addon', state: 'fail', value: failure, remedy: '' })
    return findings
  }
  findings.push({ name: 'native addon', state: 'ok', value: 'loaded', remedy: '' })
  const table = addon.crc64Kernel === 'table'
  findings.push({
    name: 'checksum', state: table ? 'warn' : 'ok', value: `CRC-64/NVME by ${table ? 'lookup table' : addon.crc64Kernel}`,
    remedy: table ? 'a CPU with carry-less multiplication (PCLMULQDQ) checks pages several times faster' : '',
  })
  return findings
}
