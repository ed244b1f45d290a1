import type { Options } from './command.js'
import { parseBytes } from './format.js'
import { UsageError } from './usage-error.js'

const BLOCK_BYTES = 4096
const PAGE_BYTES_MAX = 256 * 2 ** 20

/** The items of an option with commas between, each once. Empty only where the option was not given and `otherwise` is empty. */
export function listOption(options: Options, name: string, otherwise: string): string[] {
  const items = (options.string(name) ?? otherwise).split(',').map(item => item.trim().toLowerCase()).filter(item => item !== '')
  if (items.length === 0 && options.string(name) !== undefined) throw new UsageError(`option --${name} is empty`)
  return [...new Set(items)]
}

/** The same, each item one of `known`. `where`: what the message adds, for a command that knows more elsewhere (` on an object store`). */
export function oneOf<T extends string>(options: Options, name: string, otherwise: string, known: readonly T[], where = ''): T[] {
  return listOption(options, name, otherwise).map(text => {
    const found = known.find(value => value === text)
    if (found === undefined) throw new UsageError(`option --${name}: ${known.slice(0, -1).join(', ')} or ${known.at(-1)!}${where}; found "${text}"`)
    return found
  })
}

/** The sizes of --page-bytes. */
export function pageSizes(options: Options, otherwise: string): number[] {
  return listOption(options, 'page-bytes', otherwise).map(text => {
    const bytes = parseBytes(text)
    if (bytes === undefined || bytes < BLOCK_BYTES || bytes > PAGE_BYTES_MAX || bytes % BLOCK_BYTES !== 0) {
      throw new UsageError(`option --page-bytes: a page is a multiple of ${BLOCK_BYTES} bytes, at most 256 MiB; found "${text}"`)
    }
    return bytes
  })
}
