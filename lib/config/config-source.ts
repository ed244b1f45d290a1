import { readFileSync, statSync } from 'node:fs'
import { extname, resolve } from 'node:path'
import { parseJsonText } from './json-text.js'
import { parseObject } from './object-value.js'
import { SyntaxProblem, placed, type ParsedTable, type ParsedValue } from './parsed-value.js'
import type { ConfigProblems } from './setting.js'
import { parseTomlText } from './toml-text.js'
import { parseYamlText } from './yaml-text.js'

export interface ConfigSource {
  /** What messages call it. */
  readonly file: string
  /** Where the configuration came from, for a person. */
  readonly description: string
  /** Undefined when nothing was given, or when it could not be read (a problem was added). */
  readonly root?: ParsedTable
}

/** No configuration is larger; whoever names a model file by mistake hears it at once. */
const FILE_BYTES_MAX = 1024 * 1024
const FORMS = '"@path" to a .toml, .json, .yaml or .yml file, a JSON object, or the form {\'key\': \'value\'}'

/** Reads the configuration from wherever it is: nothing, `@path`, an inline text, or an object. */
export function readConfigSource(config: unknown, problems: ConfigProblems): ConfigSource {
  if (config === undefined || config === null) return { file: '<defaults>', description: 'defaults' }
  if (typeof config !== 'string') {
    return parsed('<object>', 'an object', problems, () => parseObject(config))
  }
  if (config.startsWith('@')) return readConfigFile(config.slice(1), problems)
  if (config.trim() === '') {
    problems.add({ layer: 'configuration', file: '<inline>' }, `expected ${FORMS}, found an empty string (for the defaults, give no configuration)`)
    return { file: '<inline>', description: 'an inline text' }
  }
  if (!config.trimStart().startsWith('{')) {
    const path = /\.(?:toml|json|ya?ml)$/i.test(config.trim())
    problems.add({ layer: 'configuration', file: '<inline>' }, `expected ${FORMS}, found a text that does not begin with { or @${path ? ' (a file is named with an @ before its path)' : ''}`)
    return { file: '<inline>', description: 'an inline text' }
  }
  return parsed('<inline>', 'an inline text', problems, () => parseJsonText(config, { singleQuoted: true }))
}

function readConfigFile(file: string, problems: ConfigProblems): ConfigSource {
  const description = `file ${resolve(file)}`
  const refuse = (text: string): ConfigSource => {
    problems.add({ layer: 'configuration', file: file === '' ? '<inline>' : file }, text)
    return { file, description }
  }
  if (file === '') return refuse('expected a path after @, found nothing')
  const parse = parserOf(file)
  if (parse === undefined) return refuse('expected a file that ends in .toml, .json, .yaml or .yml')
  let text: string
  try {
    const status = statSync(file)
    // A FIFO or a device could keep the process waiting for ever.
    if (!status.isFile()) return refuse('expected a regular file')
    if (status.size > FILE_BYTES_MAX) return refuse(`expected at most ${FILE_BYTES_MAX} bytes, found ${status.size}`)
    text = new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(file))
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    return refuse(code === 'ERR_ENCODING_INVALID_ENCODED_DATA' ? 'expected UTF-8 text' : `the configuration file cannot be read: ${code ?? 'unknown error'}`)
  }
  return parsed(file, description, problems, () => parse(text))
}

function parserOf(file: string): ((text: string) => ParsedValue) | undefined {
  switch (extname(file).toLowerCase()) {
    case '.toml': return parseTomlText
    case '.json': return (text) => parseJsonText(text, { singleQuoted: false })
    case '.yaml': case '.yml': return parseYamlText
    default: return undefined
  }
}

function parsed(file: string, description: string, problems: ConfigProblems, parse: () => ParsedValue): ConfigSource {
  try {
    const root = parse()
    if (root.kind === 'table') return { file, description, root }
    // An empty YAML file is null: nothing was said, so the defaults hold.
    if (root.kind === 'scalar' && root.value === null && /\.ya?ml$/i.test(file)) return { file, description }
    problems.add({ layer: 'configuration', file, ...placed(root.place) }, 'expected a table of keys at the top')
  } catch (error) {
    if (error instanceof SyntaxProblem) problems.add({ layer: 'configuration', file, ...placed(error.place) }, error.message)
    // A parser's own recursion ended: only a text nested past any sense does that.
    else if (error instanceof RangeError) problems.add({ layer: 'configuration', file }, 'nested too deeply')
    else throw error
  }
  return { file, description }
}
