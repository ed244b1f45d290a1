import { ExitCode, type CommandContext, type OptionSpecs } from '../command.js'
import { formatBytes, formatCount, formatTime } from '../format.js'
import { describeTensor, printableKey } from '../page-info.js'
import { smallCache } from '../small-cache.js'
import { IDENTITY_OPTIONS, STORE_OPTIONS } from '../store-options.js'
import { padEnd, padStart } from '../style.js'
import { UsageError } from '../usage-error.js'

export const name = 'ls'
export const summary = 'List the pages of the namespace'
export const usage = '[PREFIX]'
export const positionals = [0, 1] as const
export const options: OptionSpecs = {
  keys: { type: 'boolean', short: 'k', help: 'Only the keys, one a line.' },
  ...STORE_OPTIONS, ...IDENTITY_OPTIONS,
}
export const details = 'Lists pages whose key begins with PREFIX, in the order of the store. Lines have: bytes, dtype and shape, time written, key.'

export async function run(context: CommandContext): Promise<number> {
  const prefix = context.positionals[0] ?? ''
  const keysOnly = context.options.flag('keys')
  if (keysOnly && context.json) throw new UsageError('--keys is for lines; --json has the keys already')
  return await context.withCache(async (cache) => {
    const { output } = context
    let pages = 0
    let bytes = 0
    // The JSON too is written as the pages come: a store can have millions.
    if (context.json) await output.write('{"pages": [')
    for await (const page of cache.entries()) {
      if (context.signal.aborted) break
      if (!page.key.startsWith(prefix)) continue
      if (context.json) {
        const { key, dtype, shape, writtenAt, verified } = page
        await output.write(`${pages === 0 ? '' : ','}\n  ${JSON.stringify({ key, bytes: page.bytes, dtype, shape, writtenAt, verified })}`)
      } else if (keysOnly) {
        await output.line(printableKey(page.key))
      } else {
        const cells = [padStart(formatBytes(page.bytes), 10), padEnd(describeTensor(page), 26), padEnd(formatTime(page.writtenAt), 19), printableKey(page.key)]
        await output.line(cells.join('  '))
      }
      pages++
      bytes += page.bytes
    }
    if (context.json) await output.line(pages === 0 ? ']}' : '\n]}')
    else if (!output.closed.aborted) context.note(`${formatCount(pages)} ${pages === 1 ? 'page' : 'pages'}, ${formatBytes(bytes)}`)
    return context.signal.aborted && !output.closed.aborted ? ExitCode.interrupted : ExitCode.done
  }, smallCache(context.options))
}
