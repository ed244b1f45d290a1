import { formatBytes, formatCount, formatDuration, formatMicroseconds } from '../format.js'
import { table, wrap, type Style } from '../style.js'
import { baseOf, STEPS, type BenchOp } from './bench-arm.js'
import type { PeerReport } from './bench-report.js'
import type { ObjectPlan } from './object-plan.js'
import type { ObjectBenchReport, ObjectRunReport } from './object-report.js'

const BAR_WIDTH = 16
const LABELS: Readonly<Record<string, string>> = { 'cpp-curl': 'C++ loop over libcurl', undici: 'undici, own signing', 'aws-sdk': '@aws-sdk/client-s3' }
const TITLES: Partial<Readonly<Record<BenchOp, string>>> = { write: 'PUT of', read: 'GET of', set: 'PUT by set() of single', get: 'GET by get() of single' }

/** The report of an object store for people. */
export class ObjectTables {
  constructor(private readonly style: Style, private readonly plan: ObjectPlan, private readonly report: ObjectBenchReport) {}

  text(seconds: number): string {
    let text = ''
    for (const op of STEPS) if (this.plan.measured.has(op)) for (const pageBytes of this.plan.pageBytes) text += this.section(op, pageBytes)
    return text + this.foot(seconds)
  }

  private section(op: BenchOp, pageBytes: number): string {
    const { style } = this
    const runs = this.report.runs.filter(run => run.op === op && run.pageBytes === pageBytes)
    const peers = this.report.peers.filter(peer => peer.op === baseOf(op) && peer.pageBytes === pageBytes)
    const all = [...runs, ...peers]
    if (all.length === 0) return ''
    const fastest = Math.max(...all.map(({ mibPerSecond }) => mibPerSecond))
    const row = (label: string, one: ObjectRunReport | PeerReport, ours: boolean): string[] => {
      const mark = (text: string): string => ours ? style.bold(text) : text
      const bar = '\u2588'.repeat(Math.max(1, Math.round(one.mibPerSecond / fastest * BAR_WIDTH)))
      const run = 'against' in one ? one : undefined
      return [
        mark(label), mark(formatCount(Math.round(one.mibPerSecond))), mark(ratio(one.ratioToLimit)), mark(ratio(run?.ratioToBestPeer ?? null)),
        mark(one.cpuSecondsPerGib.toFixed(2)), mark(ratio(run?.against.undici?.cpu ?? null)), mark(ratio(run?.against['aws-sdk']?.cpu ?? null)),
        formatMicroseconds(one.p50Us), formatMicroseconds(one.p99Us), ours ? style.green(bar) : style.dim(bar),
      ]
    }
    const titles = ['', 'MiB/s', 'of C++', 'of best peer', 'CPU s/GiB', 'to undici\'s', 'to the SDK\'s', 'p50', 'p99', ''].map(title => style.dim(title))
    const label = ({ zeroCopy }: ObjectRunReport): string => `hicache-nixl, ${zeroCopy ? 'zero copy' : 'copying'}`
    const rows = [...runs.map(run => row(label(run), run, true)), ...peers.map(peer => row(LABELS[peer.name] ?? peer.name, peer, false))]
    return `\n${style.bold(`${TITLES[op]!} ${formatBytes(pageBytes)} pages`)}\n${table([titles, ...rows], 'lrrrrrrrrl', '  ')}`
  }

  private foot(seconds: number): string {
    const { runs, leftOut } = this.report
    const rows: string[][] = []
    if (runs.length > 0) {
      const fullest = runs.reduce((most, run) => run.peakRssBytes > most.peakRssBytes ? run : most)
      rows.push(['memory', `${formatBytes(fullest.peakRssBytes)} resident at most, ${formatBytes(fullest.arenaBytes)} of it arena; what the others hold counts too`])
    }
    for (const { name, pageBytes, reason } of leftOut) rows.push(['left out', `${LABELS[name] ?? name} at ${formatBytes(pageBytes)}: ${reason}`])
    rows.push(['time', formatDuration(seconds)])
    const note = 'Medians of the rounds; ratios are medians of the rounds\' own. "of best peer" is to the faster client in JavaScript. Processor time is the whole process\'s, all threads. ' +
      'A page of a batch has the time of its call, a peer\'s page that of its request. Everything that is read is looked at: this package compares checksums, and every contestant a stamp of each page.'
    return `\n${table(rows, 'll', '  ')}\n${this.style.dim(wrap(note, 100))}\n`
  }
}

function ratio(value: number | null): string { return value === null || !Number.isFinite(value) ? '-' : value.toFixed(2) }
