import type { NixlBackendConfig } from '../../config/nixl-backend-config.js'
import { CUFILE_PROBE_MS_MAX, type CufileInspector } from '../../selection/cufile-probe.js'
import { nixlParameters, nixlPluginName } from '../../selection/nixl-probe.js'
import type { LibraryReport, NativeAddon } from '../../transfer/native-binding.js'

export type LibraryName = 'libcurl' | 'usrbio' | 'libnixl' | 'libcuda' | 'libcufile'

/** A library that is loaded only where something asks for it. */
export interface LibraryFinding extends LibraryReport {
  readonly name: LibraryName
  /** The plugins, the agent or the memory that cannot do without it. */
  readonly neededFor: string
  /** What is asked for needs it. */
  readonly wanted: boolean
}

/** What a cache opened now would ask of libraries. */
export interface LibraryNeeds {
  readonly config: NixlBackendConfig
  /** In force, or asked for where none could be chosen. */
  readonly agent: string
  /** In use, or asked for where none could be chosen. */
  readonly plugins: readonly string[]
  readonly inspectCufile: CufileInspector
}

/** Longer than the longest of what a probe waits for by itself. */
const ANSWER_MS_MAX = CUFILE_PROBE_MS_MAX + 5000
/** Lies on no 3FS: where no mount point is configured, nothing is written, and the library still says what it is. */
const NO_3FS = '/proc'

/** Loads each library as the plugin that needs it would, and tries what is behind it. One that is missing is no fault where nobody asks for it. */
export async function libraryFindings(addon: NativeAddon, needs: LibraryNeeds): Promise<LibraryFinding[]> {
  const { agent, plugins } = needs
  const embedded = agent !== 'nixl'
  const gds = embedded && (plugins.includes('gds') || plugins.includes('gds_mt'))
  const look = async (name: LibraryName, neededFor: string, wanted: boolean, probe: () => Promise<LibraryReport>): Promise<LibraryFinding> => {
    const { usable, library, version, reason, remedy } = await within(probe())
    return { name, usable, library, version, reason, remedy, neededFor, wanted }
  }
  return await Promise.all([
    look('libcurl', 'plugin obj', plugins.includes('obj'), async () => await Promise.resolve(curlReport(addon))),
    look('usrbio', 'plugin 3fs', embedded && plugins.includes('3fs'), async () => await usrbioReport(addon, needs)),
    look('libnixl', 'agent nixl', !embedded, async () => await nixlReport(addon, needs)),
    look('libcuda', 'memory of GPUs, plugins gds and gds_mt', gds, async () => await cudaReport(addon)),
    look('libcufile', 'plugins gds and gds_mt', gds, async () => await cufileReport(needs)),
  ])
}

function curlReport({ objects }: NativeAddon): LibraryReport {
  const { usable, path, version, reason, remedy } = objects.curl()
  return { usable, library: path, version: /^libcurl\/(\S+)/.exec(version)?.[1] ?? version, reason, remedy }
}

async function usrbioReport({ usrbio }: NativeAddon, { config }: LibraryNeeds): Promise<LibraryReport> {
  const mountPoint = config.section('3fs').mount_point ?? ''
  const report = await usrbio.probe(mountPoint === '' ? NO_3FS : mountPoint, mountPoint)
  if (report.usable) return { ...report, reason: `a block was written to the 3FS at ${report.mountPoint} and read back` }
  // It loads, and what it says of a directory that is none of a 3FS's is no matter of anybody's.
  if (report.library !== '' && mountPoint === '') {
    return { ...report, reason: 'it loads, and was not tried: nobody says where a 3FS is mounted', remedy: 'set plugin.3fs.mount_point, and storage_dir to a directory below it' }
  }
  return report
}

async function nixlReport({ nixl }: NativeAddon, { config, agent, plugins }: LibraryNeeds): Promise<LibraryReport> {
  // Where nobody asks for NIXL, its plugin for files says as much as any.
  const plugin = (agent === 'nixl' ? plugins[0] : undefined) ?? 'posix'
  const report = await nixl.probe(nixlPluginName(plugin), nixlParameters(config, plugin))
  if (report.plugins.length === 0) return report
  const listed = report.plugins.map(({ name, usable }) => usable ? name : `${name} (does not load)`).join(', ')
  return { ...report, reason: report.usable ? `its plugin ${nixlPluginName(plugin)} was set up; it lists ${listed}` : `${report.reason}; it lists ${listed}` }
}

async function cudaReport({ cuda }: NativeAddon): Promise<LibraryReport> {
  const report = await cuda.probe()
  return report.usable ? { ...report, reason: `${report.devices} GPU${report.devices === 1 ? '' : 's'}` } : report
}

async function cufileReport({ inspectCufile }: LibraryNeeds): Promise<LibraryReport> {
  const { mode, ...report } = await inspectCufile()
  if (!report.usable) return report
  return { ...report, reason: mode === 'gds' ? 'mode gds: data go from the disk to the GPU directly' : `mode ${mode}: ${report.reason}` }
}

async function within(report: Promise<LibraryReport>): Promise<LibraryReport> {
  let timer: NodeJS.Timeout | undefined
  const nothing = { usable: false, library: '', version: '' }
  const hung = new Promise<LibraryReport>((answer) => {
    timer = setTimeout(() => { answer({ ...nothing, reason: `no answer within ${ANSWER_MS_MAX / 1000} s`, remedy: 'see what it waits for: a mount, a device or a driver that hangs (dmesg)' }) }, ANSWER_MS_MAX)
  })
  try {
    return await Promise.race([report, hung])
  } catch (error) {
    return { ...nothing, reason: `trying it failed: ${error instanceof Error ? error.message : String(error)}`, remedy: 'see that the native addon is of this version: npm run build' }
  } finally {
    clearTimeout(timer)
  }
}
