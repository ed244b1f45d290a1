import { ExitCode, type CommandContext, type OptionSpecs } from '../command.js'
import { infoRows, printableKey } from '../page-info.js'
import { smallCache } from '../small-cache.js'
import { IDENTITY_OPTIONS, STORE_OPTIONS } from '../store-options.js'
import { table } from '../style.js'

export const name = 'stat'
export const summary = 'Show what is known about a page'
export const usage = 'KEY'
export const positionals = [1, 1] as const
export const options: OptionSpecs = { ...STORE_OPTIONS, ...IDENTITY_OPTIONS }
export const details = 'Reads the page\'s record, not its bytes: use get or verify to check those. Ends with 1 when the page is not there.'

export async function run(context: CommandContext): Promise<number> {
  const key = context.positionals[0]!
  return await context.withCache(async (cache) => {
    const info = await cache.stat(key)
    if (info === null) {
      context.problem(`hicache-nixl: miss: ${printableKey(key)}: absent`)
      if (context.json) await context.output.json({ key, status: 'miss', reason: 'absent' })
      return ExitCode.wrong
    }
    if (context.json) await context.output.json({ ...info })
    else await context.output.write(table(infoRows(info).map(([label, value]) => [context.style.dim(label!), value!])))
    return ExitCode.done
  }, smallCache(context.options))
}
