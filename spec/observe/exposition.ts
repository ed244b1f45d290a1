/** One sample of a Prometheus text. */
export interface Sample { readonly name: string; readonly labels: Readonly<Record<string, string>>; readonly value: number }
export interface Family { readonly name: string; readonly type: string; readonly help: string; readonly samples: readonly Sample[] }

/** Reads the Prometheus text format 0.0.4, strictly: what a scraper would refuse or read otherwise throws. */
export function parseExposition(text: string): Map<string, Family> {
  if (!text.endsWith('\n')) throw new Error('the last line has no end')
  const families = new Map<string, { name: string; type: string; help: string; samples: Sample[] }>()
  let current: { name: string; type: string; help: string; samples: Sample[] } | undefined
  const series = new Set<string>()
  for (const line of text.slice(0, -1).split('\n')) {
    const help = /^# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) (.*)$/.exec(line)
    if (help !== null) {
      if (families.has(help[1]!)) throw new Error(`two HELP lines for ${help[1]!}`)
      current = { name: help[1]!, type: '', help: help[2]!, samples: [] }
      families.set(current.name, current)
      continue
    }
    const type = /^# TYPE (\S+) (counter|gauge|histogram)$/.exec(line)
    if (type !== null) {
      if (current?.name !== type[1] || current?.type !== '') throw new Error(`TYPE out of place: ${line}`)
      current.type = type[2]!
      continue
    }
    const sample = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/.exec(line)
    if (sample === null || current === undefined) throw new Error(`not a line of the format: ${line}`)
    const [, name, labelText = '', number] = sample as unknown as [string, string, string | undefined, string]
    const base = current.type === 'histogram' ? name.replace(/_(?:bucket|sum|count)$/, '') : name
    if (base !== current.name) throw new Error(`${name} stands under ${current.name}`)
    if (series.has(`${name}{${labelText}}`)) throw new Error(`twice: ${line}`)
    series.add(`${name}{${labelText}}`)
    const value = number === '+Inf' ? Infinity : number === '-Inf' ? -Infinity : Number(number)
    if (number !== 'NaN' && Number.isNaN(value)) throw new Error(`not a number: ${line}`)
    current.samples.push({ name, labels: parseLabels(labelText), value })
  }
  return families
}

function parseLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {}
  let rest = text
  while (rest !== '') {
    const label = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)/.exec(rest)
    if (label === null) throw new Error(`not labels: ${rest}`)
    labels[label[1]!] = label[2]!.replace(/\\(.)/g, (_, character: string) => character === 'n' ? '\n' : character)
    rest = rest.slice(label[0].length)
  }
  return labels
}

/** The value of the one sample with these labels (others may be there as well). */
export function valueOf(families: Map<string, Family>, family: string, labels: Record<string, string> = {}, name = family): number {
  const found = (families.get(family)?.samples ?? []).filter(sample => sample.name === name && Object.entries(labels).every(([label, value]) => sample.labels[label] === value))
  if (found.length !== 1) throw new Error(`${found.length} samples of ${name} ${JSON.stringify(labels)}`)
  return found[0]!.value
}
