import { ExitCode, type CommandContext, type OptionSpecs } from '../command.js'
import { printableKey } from '../page-info.js'
import { smallCache } from '../small-cache.js'
import { IDENTITY_OPTIONS, STORE_OPTIONS } from '../store-options.js'

export const name = 'rm'
export const summary = 'Remove pages'
export const usage = 'KEY...'
export const positionals = [1, Infinity] as const
export const options: OptionSpecs = {
  force: { type: 'boolean', short: 'f', help: 'A page that is not there is not worth an exit code.' },
  ...STORE_OPTIONS, ...IDENTITY_OPTIONS,
}
export const details = 'Removes only pages of this namespace. Ends with 1 when one of them was not there.'

export async function run(context: CommandContext): Promise<number> {
  // A key that is given twice is removed once, and not "absent" the second time.
  const keys = [...new Set(context.positionals)]
  return await context.withCache(async (cache) => {
    const deleted: string[] = []
    const absent: string[] = []
    await Promise.all(keys.map(async (key) => {
      const there = await cache.delete(key, { signal: context.signal });
      (there ? deleted : absent).push(key)
    }))
    if (context.json) await context.output.json({ deleted, absent })
    if (absent.length === 0 || context.options.flag('force')) return ExitCode.done
    for (const key of absent) context.problem(`hicache-nixl: miss: ${printableKey(key)}: absent`)
    return ExitCode.wrong
  }, smallCache(context.options))
}
