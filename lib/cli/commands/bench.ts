import { cpus, release, totalmem } from 'node:os'
import type { NativeAddon, DirectoryReport } from '../../transfer/native-binding.js'
import { loadAddon } from '../../transfer/load-addon.js'
import { ExitCode, type CommandContext, type OptionSpecs } from '../command.js'
import { formatBytes, formatDuration, formatMicroseconds } from '../format.js'
import { STORE_OPTIONS } from '../store-options.js'
import { table, wrap, type Style } from '../style.js'
import { BenchPlan } from '../workload/bench-plan.js'
import type { BenchReport, PeerReport, RunReport } from '../workload/bench-report.js'
import { PageSizeBench } from '../workload/page-size-bench.js'
import { WorkDirectory } from '../workload/work-directory.js'

export const name = 'bench'
export const summary = 'Measure the store beside the limit of its device'
export const usage = ''

export const options: OptionSpecs = {
  ...STORE_OPTIONS,
  dir: { type: 'string', value: 'DIR', help: 'Work in exactly this directory, instead of in a fresh one inside --storage-dir.' },
  'page-bytes': { type: 'string', value: 'LIST', help: 'Page sizes, with commas between. Default: 64k,256k,1m,4m.' },
  batch: { type: 'string', value: 'LIST', help: 'Pages of one call, with commas between. Default: 32 MiB worth of pages, at most 128.' },
  'in-flight': { type: 'string', value: 'N', help: 'Calls at once, 1 to 64. Default: 3.' },
  ops: { type: 'string', value: 'LIST', help: 'read, write or both. Default: read,write.' },
  rounds: { type: 'string', value: 'N', help: 'Measured rounds. Default: 9; one more comes first, unmeasured.' },
  bytes: { type: 'string', value: 'SIZE', help: 'Bytes that each contestant moves in a round. Default: 256MiB.' },
  threads: { type: 'string', value: 'N', help: 'Native threads of the store, of all workers together; the C++ loop runs on as many. Default: 16.' },
  'zero-copy': { type: 'boolean', help: 'Only arena memory as source and target.' },
  copying: { type: 'boolean', help: 'Only ordinary memory as source and target. Default: both.' },
  only: { type: 'string', value: 'LIST', help: 'Contestants: hicache, limit, loop, fs. Default: all. Memory is told apart best with hicache alone.' },
  checksum: { type: 'string', choices: ['on', 'off'], help: 'on: pages are always checked; there is no other way to read them.' },
  quick: { type: 'boolean', help: 'A try in a few seconds: 64 KiB pages, 2 rounds of 8 MiB. Not for figures.' },
}

export const details = `Every round runs each contestant once, in an order that changes from round to round: this package with arena memory (zero copy) and with ordinary memory; the \
device's limit (one native ring over one large file); a C++ loop over files as this layout writes them, on as many threads; fs.promises with a temporary name and a rename, with O_DIRECT and \
through the page cache. Figures are medians over the rounds; a ratio is the median of the rounds' own ratios, with the smallest and the largest beside it.

Each round stores new pages under new names and reads those; removing them (at the end, where there is room), making contents and touching the memory are not timed. A page's time is that \
from handing it over until its outcome is known: pages of one batch share the time of the call. Reads of fs-promises come from the page cache: they never \
meet the device.`

/** Rounds keep the pages of every contestant until its end: at most the two of this package for each batch size, and four others. */
const PEERS_MAX = 4
/** Records, folders, and what the file system itself takes. */
const SPACE_FACTOR = 1.15

export async function run(context: CommandContext): Promise<number> {
  const given = context.options
  const plan = new BenchPlan(given)
  const addon = loadAddon()
  const directory = await WorkDirectory.make({ exact: given.string('dir'), parents: given.strings('storage-dir').slice(0, 1), prefix: 'hicache-bench-' })
  const where = directory.paths[0]!
  const started = performance.now()
  try {
    const report = await addon.probeDirectory(where)
    const roundBytes = plan.pageBytes.map(bytes => Math.ceil(Math.max(plan.bytes, bytes) * (PEERS_MAX + plan.batchesFor(bytes).length * plan.zeroCopy.length) * SPACE_FACTOR))
    await directory.requireSpace(Math.max(...roundBytes), 'the benchmark')
    // ext4 leaves the numbers of removed files alone for minutes and, for every new file, looks through all it has to skip: removing pages between
    // rounds makes all contestants slower from round to round. So they stay, where there is room.
    const keep = roundBytes.reduce((sum, bytes) => sum + bytes, 0) * (plan.rounds + 1) < await directory.freeBytes() / 2

    const steps = plan.pageBytes.reduce((sum, pageBytes) => sum + PageSizeBench.steps(plan, pageBytes, report.direct), 0)
    const progress = context.progress({ label: 'bench', total: steps, unit: 'steps' })
    const all: { runs: RunReport[]; peers: PeerReport[] } = { runs: [], peers: [] }
    if (!context.json) await context.output.write(head(context, plan, report))
    try {
      for (const pageBytes of plan.pageBytes) {
        const one = await new PageSizeBench({ context, plan, bench: addon.bench, directory: where, direct: report.direct, pageBytes, progress, keep }).run()
        if (!keep) await directory.empty(`pages-${pageBytes}`)
        all.runs.push(...one.runs)
        all.peers.push(...one.peers)
      }
    } finally {
      progress.finish()
    }
    if (context.json) await context.output.json({ machine: machine(report, addon, plan, keep), ...all })
    else await context.output.write(`${tables(context.style, plan, all)}${foot(context.style, all, (performance.now() - started) / 1000)}`)
    return ExitCode.done
  } finally {
    for (const pageBytes of plan.pageBytes) await directory.empty(`pages-${pageBytes}`)
    await directory.remove()
  }
}

function machine(report: DirectoryReport, addon: NativeAddon, plan: BenchPlan, keep: boolean): object {
  const processors = cpus()
  return {
    cpu: processors[0]?.model.trim() ?? 'unknown', cores: processors.length, memoryBytes: totalmem(), kernel: release(), node: process.version,
    directory: report.realPath, fileSystem: report.fileSystem, direct: report.direct, crc64: addon.crc64Kernel,
    rounds: plan.rounds, bytesPerRound: plan.bytes, removedBetweenRounds: !keep, date: new Date().toISOString(),
  }
}

function head({ style }: CommandContext, plan: BenchPlan, report: DirectoryReport): string {
  const processors = cpus()
  return `${style.bold('Benchmark of the file layout')}\n` + table([
    ['machine', `${processors.length} x ${processors[0]?.model.trim() ?? 'unknown processor'}, Linux ${release()}, Node ${process.version}`],
    ['directory', `${report.realPath}, ${report.fileSystem}, ${report.direct ? 'O_DIRECT' : `no O_DIRECT (${report.directReason})`}`],
    ['rounds', `${plan.rounds} of ${formatBytes(plan.bytes)} per contestant, interleaved; ${plan.workers} workers, ${plan.inFlight} calls in flight`],
  ], 'll', '  ')
}

/** Columns of full blocks: the eye compares lengths faster than figures. */
const BAR_WIDTH = 20

interface Row {
  readonly label: string
  readonly ours: boolean
  readonly figures: RunReport | PeerReport
  readonly toLoop: number | null
}

function tables(style: Style, plan: BenchPlan, { runs, peers }: BenchReport): string {
  let text = ''
  for (const op of plan.ops) {
    for (const pageBytes of plan.pageBytes) {
      const rows: Row[] = []
      const here = <T extends RunReport | PeerReport>(all: readonly T[]): T[] => all.filter(one => one.op === op && one.pageBytes === pageBytes)
      for (const peer of here(peers).filter(({ name: peerName }) => peerName === 'device-limit')) rows.push({ label: LABELS[peer.name]!, ours: false, figures: peer, toLoop: null })
      for (const run of here(runs)) {
        rows.push({ label: `hicache-nixl, ${run.zeroCopy ? 'zero copy' : 'copying'}, ${run.batch} pages`, ours: true, figures: run, toLoop: run.ratioToCppLoop })
      }
      for (const peer of here(peers).filter(({ name: peerName }) => peerName !== 'device-limit')) rows.push({ label: LABELS[peer.name] ?? peer.name, ours: false, figures: peer, toLoop: null })
      if (rows.length === 0) continue
      const engine = here(runs)[0]?.engine
      text += `\n${style.bold(`${op === 'read' ? 'Read' : 'Write'} ${formatBytes(pageBytes)} pages`)}${engine === undefined ? '' : style.dim(`, engine ${engine}`)}\n`
      text += sizeTable(style, rows)
    }
  }
  return text
}

const LABELS: Readonly<Record<string, string>> = {
  'device-limit': 'device limit',
  'cpp-loop': 'C++ loop, same files',
  'fs-promises-direct': 'fs.promises, O_DIRECT',
  'fs-promises': 'fs.promises, page cache',
}

function sizeTable(style: Style, rows: readonly Row[]): string {
  const fastest = Math.max(...rows.map(({ figures }) => figures.mibPerSecond))
  const ratio = (value: number | null): string => value === null ? '-' : value.toFixed(2)
  const cells = rows.map(({ label, ours, figures, toLoop }) => {
    const mark = (text: string): string => ours ? style.bold(text) : text
    const range = figures.ratioToLimit === null || figures.ratioToLimit === 1 ? '' : style.dim(`${ratio(figures.ratioMin)} to ${ratio(figures.ratioMax)}`)
    const bar = '\u2588'.repeat(Math.max(1, Math.round(figures.mibPerSecond / fastest * BAR_WIDTH)))
    return [
      mark(label), mark(Math.round(figures.mibPerSecond).toLocaleString('en-US')), mark(ratio(figures.ratioToLimit)), range, ratio(toLoop),
      figures.cpuSecondsPerGib.toFixed(2), formatMicroseconds(figures.p50Us), formatMicroseconds(figures.p99Us), ours ? style.green(bar) : style.dim(bar),
    ]
  })
  const titles = ['', 'MiB/s', 'of limit', 'rounds', 'of C++', 'CPU s/GiB', 'p50', 'p99', ''].map(title => style.dim(title))
  return table([titles, ...cells], 'lrrlrrrrl', '  ')
}

function foot(style: Style, { runs }: BenchReport, seconds: number): string {
  const rows: string[][] = []
  if (runs.length > 0) {
    const longest = Math.max(...runs.map(run => run.longestCallbackMs))
    const fullest = runs.reduce((most, run) => run.peakRssBytes - run.arenaBytes > most.peakRssBytes - most.arenaBytes ? run : most)
    const stall = Math.max(...runs.map(run => run.longestStallMs))
    rows.push(['main thread', `held up by a callback for ${longest.toFixed(1)} ms at most (${stall.toFixed(1)} ms with the wait for a core)`])
    rows.push(['memory', `${formatBytes(fullest.peakRssBytes)} resident at most, ${formatBytes(fullest.arenaBytes)} of it arena; buffers of the other contestants count too (--only hicache leaves them out)`])
  }
  rows.push(['time', formatDuration(seconds)])
  const note = 'Medians of the rounds; "of limit" is the median of the rounds\' own ratios to the device limit, with the smallest and largest beside it. ' +
    'A page\'s time is that of its call. fs.promises through the page cache writes to memory and reads from it: the device has no part in it.'
  return `\n${table(rows, 'll', '  ')}\n${style.dim(wrap(note, 100))}\n`
}
