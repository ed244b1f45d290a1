import { COMMANDS } from './registry.js'
import type { Command, OptionSpec, OptionSpecs } from './command.js'
import { COMMON_OPTIONS } from './parse-options.js'
import { IDENTITY_OPTIONS, STORE_OPTIONS } from './store-options.js'
import { table, wrap, type Style } from './style.js'

const WIDTH = 100

export function generalHelp(style: Style, version: string): string {
  const rows = COMMANDS.map(({ path, summary }) => [style.bold(path.join(' ')), summary])
  return `hicache-nixl ${version}: the KV-cache storage tier for Node\n\n` +
    `${style.bold('Usage')}\n  hicache-nixl COMMAND [OPTIONS]\n\n` +
    `${style.bold('Commands')}\n${table(rows, '', '  ')}\n` +
    `${style.bold('Every command')}\n${optionRows(COMMON_OPTIONS)}\n` +
    `hicache-nixl COMMAND --help shows a command's own options.\n` +
    `Exit codes: 0 done, 1 found something wrong, 2 wrong usage or configuration.\n`
}

export function commandHelp(command: Command, path: string, style: Style): string {
  const own: Record<string, OptionSpec> = {}
  const store: Record<string, OptionSpec> = {}
  const identity: Record<string, OptionSpec> = {}
  for (const [name, spec] of Object.entries(command.options)) {
    const group = STORE_OPTIONS[name] === spec ? store : IDENTITY_OPTIONS[name] === spec ? identity : own
    group[name] = spec
  }
  const usage = `hicache-nixl ${path}${command.usage === '' ? '' : ` ${command.usage}`} [OPTIONS]`
  const sections = [
    `${command.summary}.\n\n${style.bold('Usage')}\n  ${usage}\n`,
    Object.keys(own).length > 0 ? `${style.bold('Options')}\n${optionRows(own)}` : '',
    Object.keys(store).length > 0 ? `${style.bold('Store')}\n${optionRows(store)}` : '',
    Object.keys(identity).length > 0 ? `${style.bold('Namespace')}\n${optionRows(identity)}` : '',
    `${style.bold('Every command')}\n${optionRows(COMMON_OPTIONS)}`,
    command.details === undefined ? '' : `${command.details.split('\n').map((paragraph) => wrap(paragraph, WIDTH)).join('\n')}\n`,
  ]
  return sections.filter((section) => section !== '').join('\n')
}

function optionRows(specs: OptionSpecs): string {
  const names = Object.entries(specs).map(([name, spec]) => {
    const value = spec.type === 'boolean' ? '' : ` ${spec.value ?? spec.choices?.join('|') ?? 'VALUE'}`
    return `${spec.short === undefined ? '    ' : `-${spec.short}, `}--${name}${value}`
  })
  const width = Math.min(34, Math.max(...names.map((name) => name.length)))
  return Object.values(specs).map((spec, index) => {
    const name = names[index]!
    const text = wrap(spec.help, WIDTH - width - 4, ' '.repeat(width + 4))
    return name.length > width ? `  ${name}\n${' '.repeat(width + 4)}${text}\n` : `  ${name.padEnd(width)}  ${text}\n`
  }).join('')
}
