import { formatBytes, formatCount, formatDuration, formatMicroseconds } from '../format.js'
import { table, wrap, type Style } from '../style.js'
import { baseOf, STEPS, type BenchOp } from './bench-arm.js'
import type { BenchPlan } from './bench-plan.js'
import type { BenchReport, ChurnReport, LookupReport, PeerReport, RunReport } from './bench-report.js'

/** Columns of full blocks: the eye compares lengths faster than figures. */
const BAR_WIDTH = 16

const LABELS: Readonly<Record<string, string>> = {
  'device-limit': 'device limit',
  'cpp-ring': 'C++ ring, same mix',
  'cpp-loop': 'C++ loop, a file a page',
  'fs-promises-direct': 'fs.promises, O_DIRECT',
  'fs-promises': 'fs.promises, page cache',
  lmdb: 'lmdb, page cache',
  'lmdb-nosync': 'lmdb, no sync, page cache',
}

const TITLES: Readonly<Record<BenchOp, string>> = {
  write: 'Write', read: 'Read', set: 'set() of single pages,', get: 'get() of single pages,', 'one-batch-write': 'Write one batch at a time,', 'one-batch-read': 'Read one batch at a time,',
  mix: 'Read under a load of writes,', lookup: 'Lookups',
}

interface Row {
  readonly label: string
  readonly ours: boolean
  readonly figures: RunReport | PeerReport
}

/** The report for people. */
export class BenchTables {
  constructor(private readonly style: Style, private readonly plan: BenchPlan, private readonly report: BenchReport) {}

  text(seconds: number): string {
    let text = ''
    for (const op of STEPS) for (const pageBytes of this.plan.pageBytes) text += this.section(op, pageBytes)
    return text + this.lookups() + this.churn() + this.foot(seconds)
  }

  private section(op: BenchOp, pageBytes: number): string {
    const limitOp = baseOf(op) ?? op
    // Beside set(), get() and single batches stands the device's limit for what they come down to, and nothing else.
    const peers = this.report.peers.filter(one => one.pageBytes === pageBytes && (one.op === op || one.op === limitOp && one.name === 'device-limit'))
    const asRow = (peer: PeerReport): Row => ({ label: LABELS[peer.name] ?? peer.name, ours: false, figures: peer })
    const isLimit = ({ name }: PeerReport): boolean => name === 'device-limit' || name === 'cpp-ring'
    const runs = this.report.runs.filter(one => one.op === op && one.pageBytes === pageBytes).map(run => ({ label: this.labelOf(run), ours: true, figures: run }))
    const rows: Row[] = [...peers.filter(isLimit).map(asRow), ...runs, ...peers.filter(peer => !isLimit(peer)).map(asRow)]
    if (rows.length === 0 || this.plan.only.has('hicache') && runs.length === 0) return ''
    const load = op === 'mix' ? runs[0]?.figures.mix ?? peers[0]?.mix ?? null : null
    const said = load === null ? '' : this.style.dim(`, ${formatBytes(load.writeBytesInFlight)} being written, ${load.readsInFlight} reads at once`)
    return `\n${this.style.bold(`${TITLES[op]} ${formatBytes(pageBytes)} pages`)}${said}\n${op === 'mix' ? this.mixTable(rows) : this.speedTable(rows)}`
  }

  /** What tells this configuration from the others of the run. */
  private labelOf(run: RunReport): string {
    const { stores, zeroCopy } = this.plan
    const several = (of: (store: BenchPlan['stores'][number]) => unknown): boolean => new Set(stores.map(of)).size > 1
    const parts = [`hicache-nixl ${run.storageLayout}`]
    if (several(store => store.engine)) parts.push(run.engine)
    if (several(store => store.workers)) parts.push(`${run.workers} workers`)
    if (zeroCopy.length > 0) parts.push(run.zeroCopy ? 'zero copy' : 'copying')
    if (this.plan.batchesFor(run.pageBytes).length > 1) parts.push(`${run.batch} pages`)
    if (run.checksum === 'off') parts.push('checksum off')
    return parts.join(', ')
  }

  private speedTable(rows: readonly Row[]): string {
    const { style } = this
    const fastest = Math.max(...rows.map(({ figures }) => figures.mibPerSecond))
    const flushes = rows.some(({ figures }) => 'flushedMibPerSecond' in figures && figures.flushedMibPerSecond !== null)
    const cells = rows.map(({ label, ours, figures }) => {
      const mark = (text: string): string => ours ? style.bold(text) : text
      const range = figures.ratioToLimit === null || figures.ratioToLimit === 1 ? '' : style.dim(`${ratio(figures.ratioMin)} to ${ratio(figures.ratioMax)}`)
      const bar = '\u2588'.repeat(Math.max(1, Math.round(figures.mibPerSecond / fastest * BAR_WIDTH)))
      const flushed = 'flushedMibPerSecond' in figures && figures.flushedMibPerSecond !== null ? formatCount(Math.round(figures.flushedMibPerSecond)) : ''
      return [
        mark(label), mark(formatCount(Math.round(figures.mibPerSecond))), ...flushes ? [flushed] : [], mark(ratio(figures.ratioToLimit)), range,
        figures.cpuSecondsPerGib.toFixed(2), formatMicroseconds(figures.p50Us), formatMicroseconds(figures.p99Us), ours ? style.green(bar) : style.dim(bar),
      ]
    })
    const titles = ['', 'MiB/s', ...flushes ? ['to disk'] : [], 'of limit', 'rounds', 'CPU s/GiB', 'p50', 'p99', ''].map(title => style.dim(title))
    return table([titles, ...cells], flushes ? 'lrrrlrrrl' : 'lrrlrrrl', '  ')
  }

  private mixTable(rows: readonly Row[]): string {
    const { style } = this
    const cells = rows.map(({ label, ours, figures }) => {
      const mark = (text: string): string => ours ? style.bold(text) : text
      const ring = 'against' in figures ? figures.against['cpp-ring'] : undefined
      const { mix } = figures
      return [
        mark(label), mark(formatMicroseconds(figures.p50Us)), mark(formatMicroseconds(figures.p99Us)), mark(ratio(ring?.p50 ?? null)), mark(ratio(ring?.p99 ?? null)),
        formatCount(Math.round(mix?.readMibPerSecond ?? Number.NaN)), formatCount(Math.round(mix?.writeMibPerSecond ?? Number.NaN)), formatMicroseconds(mix?.writeP99Us ?? Number.NaN),
      ]
    })
    return table([['', 'read p50', 'p99', 'p50 to ring', 'p99 to ring', 'reads MiB/s', 'writes MiB/s', 'write p99'].map(title => style.dim(title)), ...cells], 'lrrrrrrr', '  ')
  }

  private lookups(): string {
    if (this.report.lookups.length === 0) return ''
    const { style } = this
    const cells = this.report.lookups.map((one: LookupReport) => [
      `${one.storageLayout}, ${one.engine}, ${formatBytes(one.pageBytes)} pages, ${one.batch} keys a call`, style.bold(formatCount(one.lookupsPerSecond)), style.bold(formatCount(one.lookupsPerCpuSecond)),
      formatMicroseconds(one.callP50Us), formatMicroseconds(one.callP99Us),
    ])
    return `\n${style.bold('Lookups, batchExists() with page hashes')}\n${table([['', 'keys/s', 'per CPU second', 'call p50', 'p99'].map(title => style.dim(title)), ...cells], 'lrrrr', '  ')}`
  }

  private churn(): string {
    if (this.report.churn.length === 0) return ''
    const { style } = this
    const cells = this.report.churn.map((one: ChurnReport) => [
      `${one.storageLayout}, ${one.engine}, ${formatBytes(one.pageBytes)} pages, ${formatBytes(one.capacityBytes)}`, formatCount(one.evictions), formatCount(Math.round(one.firstMibPerSecond)),
      formatCount(Math.round(one.lastMibPerSecond)), style.bold(ratio(one.ratio)), ratio(one.firstRatioToLimit), ratio(one.lastRatioToLimit), ratio(one.ratioOfLimitRatios),
    ])
    const titles = ['', 'evictions', 'first MiB/s', 'last MiB/s', 'last/first', 'first of limit', 'last of limit', 'last/first'].map(title => style.dim(title))
    return `\n${style.bold('Writes after many evictions')}\n${table([titles, ...cells], 'lrrrrrrr', '  ')}`
  }

  private foot(seconds: number): string {
    const { runs, leftOut } = this.report
    const rows: string[][] = []
    if (runs.length > 0) {
      const longest = Math.max(...runs.map(run => run.longestCallbackMs))
      const fullest = runs.reduce((most, run) => run.peakRssBytes - run.arenaBytes > most.peakRssBytes - most.arenaBytes ? run : most)
      const stall = Math.max(...runs.map(run => run.longestStallMs))
      rows.push(['main thread', `held up by a callback for ${longest.toFixed(1)} ms at most (${stall.toFixed(1)} ms with the wait for a core)`])
      rows.push(['memory', `${formatBytes(fullest.peakRssBytes)} resident at most, ${formatBytes(fullest.arenaBytes)} of it arena; what the others hold counts too (--only hicache leaves them out)`])
    }
    for (const { name, pageBytes, reason } of leftOut) rows.push(['left out', `${LABELS[name] ?? name} at ${formatBytes(pageBytes)}: ${reason}`])
    rows.push(['time', formatDuration(seconds)])
    const note = 'Medians of the rounds; "of limit" is the median of the rounds\' own ratios to the device limit, with the smallest and largest beside it. ' +
      'A page\'s time is that of its call. What goes through the page cache writes to memory and reads from it; "to disk" counts the time until it has left it.'
    return `\n${table(rows, 'll', '  ')}\n${this.style.dim(wrap(note, 100))}\n`
  }
}

function ratio(value: number | null): string { return value === null || !Number.isFinite(value) ? '-' : value.toFixed(2) }
