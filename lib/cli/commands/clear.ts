import { ExitCode, type CommandContext, type OptionSpecs } from '../command.js'
import { formatCount } from '../format.js'
import { smallCache } from '../small-cache.js'
import { IDENTITY_OPTIONS, STORE_OPTIONS } from '../store-options.js'
import { UsageError } from '../usage-error.js'

export const name = 'clear'
export const summary = 'Remove every page of the namespace'
export const usage = '--yes'
export const options: OptionSpecs = {
  yes: { type: 'boolean', short: 'y', help: 'Really do it.' },
  ...STORE_OPTIONS, ...IDENTITY_OPTIONS,
}
export const details = 'Removes the pages of this model, ranks and fingerprint only; other namespaces in the same directories stay.'

export async function run(context: CommandContext): Promise<number> {
  if (!context.options.flag('yes')) {
    const model = context.options.string('model-name')
    throw new UsageError(`clear removes every page ${model === undefined ? 'without a model name' : `of the model "${model}"`}`, 'Repeat it with --yes to do so.')
  }
  return await context.withCache(async (cache) => {
    const { deleted } = await cache.clear({ signal: context.signal })
    if (context.json) await context.output.json({ deleted })
    else context.note(`${formatCount(deleted)} ${deleted === 1 ? 'page' : 'pages'} removed`)
    return ExitCode.done
  }, smallCache(context.options))
}
