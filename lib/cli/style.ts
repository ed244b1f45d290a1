/** Colours on a terminal, nothing elsewhere; NO_COLOR (https://no-color.org) and TERM=dumb turn them off. */
export class Style {
  readonly enabled: boolean

  constructor(enabled: boolean) { this.enabled = enabled }

  static for(stream: { readonly isTTY?: boolean }, env: NodeJS.ProcessEnv): Style {
    return new Style(stream.isTTY === true && (env.NO_COLOR ?? '') === '' && env.TERM !== 'dumb')
  }

  bold(text: string): string { return this.#wrap('1', '22', text) }
  dim(text: string): string { return this.#wrap('2', '22', text) }
  red(text: string): string { return this.#wrap('31', '39', text) }
  green(text: string): string { return this.#wrap('32', '39', text) }
  yellow(text: string): string { return this.#wrap('33', '39', text) }

  /** Marks of one width; the words stay readable without colours and in a log. */
  mark(kind: Mark): string {
    switch (kind) {
      case 'ok': return this.green('ok  ')
      case 'warn': return this.yellow('warn')
      case 'fail': return this.red('FAIL')
      case 'info': return this.dim('  - ')
    }
  }

  #wrap(on: string, off: string, text: string): string { return this.enabled ? `\u001b[${on}m${text}\u001b[${off}m` : text }
}

export type Mark = 'ok' | 'warn' | 'fail' | 'info'

/** The width on a terminal: escape sequences have none. */
export function visibleWidth(text: string): number {
  // eslint-disable-next-line no-control-regex -- escape sequences start with a control character
  return text.replace(/\u001b\[[0-9;]*m/g, '').length
}

export function padEnd(text: string, width: number): string { return text + ' '.repeat(Math.max(0, width - visibleWidth(text))) }

export function padStart(text: string, width: number): string { return ' '.repeat(Math.max(0, width - visibleWidth(text))) + text }

/**
 * Rows with aligned columns. `align` has one letter a column, `l` or `r`; the last column is not padded.
 */
export function table(rows: readonly (readonly string[])[], align = '', indent = ''): string {
  const widths: number[] = []
  for (const row of rows) {
    row.forEach((cell, column) => { widths[column] = Math.max(widths[column] ?? 0, visibleWidth(cell)) })
  }
  return rows.map((row) => {
    const cells = row.map((cell, column) => {
      if (align[column] === 'r') return padStart(cell, widths[column]!)
      return column === row.length - 1 ? cell : padEnd(cell, widths[column]!)
    })
    return `${indent}${cells.join('  ')}`.trimEnd() + '\n'
  }).join('')
}

/** Breaks text at spaces to `width` columns; lines after the first start with `indent`. */
export function wrap(text: string, width: number, indent = ''): string {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(' ')) {
    if (line !== '' && visibleWidth(line) + 1 + visibleWidth(word) > width) {
      lines.push(line)
      line = word
    } else {
      line = line === '' ? word : `${line} ${word}`
    }
  }
  lines.push(line)
  return lines.join(`\n${indent}`)
}
