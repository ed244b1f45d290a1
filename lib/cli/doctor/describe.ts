import type { DoctorReport, EngineFindings } from '../commands/doctor.js'
import { formatBytes, formatCount } from '../format.js'
import { table, wrap, type Style } from '../style.js'
import type { DirectoryFindings } from './directory-findings.js'
import type { Finding } from './finding.js'
import type { LibraryFinding } from './library-findings.js'
import type { ObjectFindings } from './object-findings.js'

const WIDTH = 110
/** Below this share of the best engine's speed the difference is more than noise. */
const RATIO_WORTH_A_WORD = 0.85

/** The report for a person. */
export function describeDoctor(report: DoctorReport, style: Style): string {
  const parts = [summary(report, style), plugins(report, style)]
  if (report.libraries.length > 0) parts.push(libraries(report.libraries, style))
  // Where no directory is used, no engine is.
  if (report.directories.length > 0) parts.push(engines(report, style))
  for (const directory of report.directories) parts.push(directoryBlock(directory, style))
  if (report.objects !== null) parts.push(objectBlock(report.objects, style))
  parts.push(findings('System', [...report.software, ...report.system], style))
  if (report.warnings.length > 0) parts.push(`${style.bold('Warnings')}\n${report.warnings.map((warning) => item(style.mark('warn'), warning)).join('')}`)
  return `${parts.join('\n')}\n${verdict(report, style)}\n`
}

function item(mark: string, text: string): string { return `  ${mark}  ${wrap(text, WIDTH - 8, '        ')}\n` }

function remedyLine(remedy: string, style: Style, indent: string, faint = false): string {
  if (remedy === '') return ''
  const text = wrap(remedy, WIDTH - indent.length - 3, `${indent}   `)
  return `${indent}${style.dim('->')} ${faint ? style.dim(text) : text}\n`
}

function summary({ selected, engine, agent, agentReason, selectedBy, failure, config }: DoctorReport, style: Style): string {
  if (selected === null) return table([['plugin', `${style.red('none')}: ${wrap(shortened(failure ?? ''), WIDTH - 14, ' '.repeat(8))}`], ['config', config]])
  const why = selectedBy === null || selectedBy === 'auto' ? 'the first that is usable' : `asked for by the ${selectedBy}`
  return table([
    ['plugin', `${style.bold(selected)}${engine === null ? '' : ` on ${style.bold(engine)}`} ${style.dim(`(${why})`)}`],
    ['agent', `${style.bold(agent)}${agentReason === null ? '' : style.dim(`: ${agentReason}`)}`],
    ['config', config],
  ])
}

/** The error lists every plugin's reason, as an error has to; here they stand below. */
function shortened(failure: string): string { return failure.replace(/: (?:3fs|posix|gds_mt|gds|obj): .*$/s, '; the reasons are below') }

/** The loader's words take a line for each library that it has not found, and errors end with their own name. Here a few words do; `--json` has all. */
function brief(reason: string): string {
  return reason.replaceAll(/(\S+): cannot open shared object file: No such file or directory/g, '$1 is not there').replace(/: (?:CUDA|CUFILE)_UNAVAILABLE$/, '')
}

function plugins(report: DoctorReport, style: Style): string {
  const width = Math.max(...report.plugins.map(({ name }) => name.length))
  const indent = ' '.repeat(10 + width)
  const lines = report.plugins.map(({ name, usable, reason, remedy }) => {
    const chosen = name === report.selected
    // A plugin that nobody asked for and that is not here is no fault of this machine; posix is the one that every Linux can have.
    const wanted = report.selected === null && (report.askedFor === null ? name === 'posix' : report.askedFor.includes(name))
    const mark = usable ? style.mark('ok') : style.mark(wanted ? 'fail' : 'info')
    const text = wrap(brief(reason), WIDTH - indent.length, indent)
    const label = name.padEnd(width)
    return `  ${mark}  ${chosen ? style.bold(label) : label}  ${usable ? text : style.dim(text)}\n` +
      (usable ? '' : remedyLine(remedy, style, indent, !wanted))
  })
  return `${style.bold('Plugins')}\n${lines.join('')}`
}

function libraries(all: readonly LibraryFinding[], style: Style): string {
  const width = Math.max(...all.map(({ name }) => name.length))
  const indent = ' '.repeat(10 + width)
  const lines = all.map(({ name, usable, library, version, reason, remedy, neededFor, wanted }) => {
    const mark = usable ? style.mark('ok') : style.mark(wanted ? 'fail' : 'info')
    const found = library === '' ? 'not found' : `${version === '' ? '' : `${version}, `}${library}`
    const text = `  ${mark}  ${name.padEnd(width)}  ${usable ? found : style.dim(found)} ${style.dim(`(for ${neededFor})`)}\n`
    return text + (reason === '' ? '' : `${indent}${style.dim(wrap(brief(reason), WIDTH - indent.length, indent))}\n`) + (usable ? '' : remedyLine(remedy, style, indent, !wanted))
  })
  return `${style.bold('Libraries')}${style.dim(', each loaded only where it is needed')}\n${lines.join('')}`
}

function engines({ engines: all, measured, measureNote }: DoctorReport, style: Style): string {
  if (all.length === 0) return `${style.bold('Engines of plugin posix')}\n        ${style.dim(measureNote)}\n`
  const speed = (value: number | undefined): string => value === undefined ? '' : formatCount(Math.round(value))
  const wasMeasured = all.some(({ cost }) => cost !== null)
  const titles = ['', '', ...wasMeasured ? ['read MiB/s', 'write MiB/s', 'CPU s/GiB'] : [], ''].map((title) => style.dim(title))
  const row = ({ name, usable, reason, selected, cost }: EngineFindings): string[] => [
    usable ? style.mark('ok') : style.mark(selected ? 'fail' : 'info'),
    selected ? style.bold(name) : name,
    ...wasMeasured ? [speed(cost?.readMibPerSecond), speed(cost?.writeMibPerSecond), cost === null ? '' : cost.readCpuSecondsPerGib.toFixed(2)] : [],
    usable ? selected ? 'in use' : reason === '' ? '' : style.dim(reason) : style.dim(reason),
  ]
  let text = `${style.bold('Engines of plugin posix')}${measured === null ? '' : style.dim(`, measured in ${measured.directory}: 256 KiB extents, 64 in flight`)}\n`
  text += table([...wasMeasured ? [titles] : [], ...all.map(row)], wasMeasured ? 'llrrrl' : 'lll', '  ')
  for (const { usable, remedy, name } of all) if (!usable && remedy !== '') text += remedyLine(`${name}: ${remedy}`, style, '        ')
  if (measured !== null) {
    const slow: string[] = []
    if (measured.readRatio < RATIO_WORTH_A_WORD) slow.push(`reads at ${percent(measured.readRatio)} of ${measured.bestRead}`)
    if (measured.writeRatio < RATIO_WORTH_A_WORD) slow.push(`writes at ${percent(measured.writeRatio)} of ${measured.bestWrite}`)
    text += slow.length === 0
      ? item(style.mark('ok'), `the engine in use is as fast as the best one here (reads ${percent(measured.readRatio)}, writes ${percent(measured.writeRatio)})`)
      : item(style.mark('warn'), `the engine in use ${slow.join(', ')}`) + remedyLine('a short run: measure with bench --engine before you choose another one in plugin.posix', style, '        ')
  } else if (measureNote !== '') {
    text += `        ${style.dim(measureNote)}\n`
  }
  return text
}

function percent(ratio: number): string { return `${Math.round(ratio * 100)} %` }

function directoryBlock(directory: DirectoryFindings, style: Style): string {
  const { path, realPath, state, exists, probed, fileSystem, direct, engine, engineReason, tmpfile, freeBytes, totalBytes, ownerUid, mode, problems } = directory
  let text = `${style.bold('Directory')} ${path}\n`
  if (fileSystem !== 'unknown' || state !== 'fail') {
    const me = process.geteuid?.()
    const rows = [
      ['', exists ? 'is there' : state === 'fail' ? `is not there; looked at ${probed} above it` : `is not there yet; the first cache makes it (mode 0700) in ${probed}`],
      ...realPath === path ? [] : [['', `leads to ${realPath}`]],
      ['file system', `${fileSystem}, ${formatBytes(freeBytes)} free of ${formatBytes(totalBytes)}`],
      ...direct || engine || tmpfile || engineReason !== 'not tried' ? [['I/O', `${direct ? 'O_DIRECT' : 'buffered'}, ${engine ? 'by the engine' : `by threads (${engineReason})`}${tmpfile ? ', O_TMPFILE' : ', named temporaries'}`]] : [],
      ...exists ? [['owner', `${ownerUid === me ? 'this user' : `user ${ownerUid}`}, mode ${mode}`]] : [],
    ]
    const [first, ...rest] = rows
    text += table([[style.mark(state), first![1]!]], '', '  ') + table(rest.map(([label, value]) => [style.dim(label!.padEnd(11)), value!]), '', '        ')
  }
  for (const problem of problems) text += item(style.mark(problem.state), problem.message) + remedyLine(problem.remedy, style, '        ')
  return text
}

function objectBlock({ endpoint, bucket, findings: all }: ObjectFindings, style: Style): string {
  return findings(`Object store${bucket === null ? '' : ` s3://${bucket}`}${endpoint === null ? '' : ` at ${endpoint}`}`, all, style)
}

function findings(title: string, all: readonly Finding[], style: Style): string {
  const width = Math.max(...all.map(({ name }) => name.length))
  const indent = ' '.repeat(10 + width)
  return `${style.bold(title)}\n${all.map(({ name, state, value, remedy }) =>
    `  ${style.mark(state)}  ${name.padEnd(width)}  ${wrap(value, WIDTH - indent.length, indent)}\n${remedyLine(remedy, style, indent)}`).join('')}`
}

function verdict(report: DoctorReport, style: Style): string {
  const problems = report.directories.flatMap((directory) => directory.problems.map(({ state }) => state))
  // An object store that nobody asks for is no problem of this cache's.
  const objects = (report.objects?.findings ?? []).map(({ state }) => state === 'fail' && report.askedFor?.includes('obj') !== true ? 'warn' as const : state)
  const states = [...report.software, ...report.system].map(({ state }) => state).concat(problems, objects, report.warnings.map(() => 'warn' as const))
  const fails = states.filter((state) => state === 'fail').length + (report.selected === null ? 1 : 0)
  const warns = states.filter((state) => state === 'warn').length
  const count = (number: number, word: string): string => `${number} ${word}${number === 1 ? '' : 's'}`
  if (fails > 0) return style.red(style.bold(`${count(fails, 'problem')}${warns > 0 ? `, ${count(warns, 'warning')}` : ''}.`))
  if (warns > 0) return `${style.green('It works')}, with ${style.yellow(count(warns, 'warning'))}.`
  return style.green('All is well.')
}
