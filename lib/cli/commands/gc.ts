import { ExitCode, type CommandContext, type OptionSpecs } from '../command.js'
import { formatBytes, formatCount } from '../format.js'
import { smallCache } from '../small-cache.js'
import { IDENTITY_OPTIONS, STORE_OPTIONS } from '../store-options.js'
import { table } from '../style.js'

export const name = 'gc'
export const summary = 'Remove what dead writers left, and run the cleaner once'
export const usage = ''
export const options: OptionSpecs = { ...STORE_OPTIONS, ...IDENTITY_OPTIONS }
export const details = 'Temporary files of writers that live are left alone. The cleaner runs only when the configuration has l3_cleaner_enabled, and removes pages above its watermark, oldest read first.'

export async function run(context: CommandContext): Promise<number> {
  return await context.withCache(async (cache) => {
    const { leftovers, evictedPages, evictedBytes } = await cache.gc()
    if (context.json) {
      await context.output.json({ leftovers, evictedPages, evictedBytes })
    } else {
      await context.output.write(table([
        ['leftovers removed', formatCount(leftovers)],
        ['pages evicted', formatCount(evictedPages), formatBytes(evictedBytes)],
      ], 'lr'))
    }
    return ExitCode.done
  }, smallCache(context.options))
}
