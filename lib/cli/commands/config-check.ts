import { checkConfig } from '../../config/check-config.js'
import { ExitCode, type CommandContext, type OptionSpecs } from '../command.js'
import { configInput, CONFIG_OPTIONS } from '../config-input.js'

export const name = 'config check'
export const summary = 'Check a configuration; say where it is wrong'
export const usage = '[CONFIG]'
export const positionals = [0, 1] as const
export const options: OptionSpecs = CONFIG_OPTIONS
export const details = 'CONFIG is what --config takes: FILE, @FILE or an inline text. Everything that is wrong is listed as FILE:LINE:COLUMN: KEY: what was expected, what was found. ' +
  'The environment\'s variables are checked with it. Ends with 0 or 2.'

export async function run(context: CommandContext): Promise<number> {
  const { config, problems, warnings } = checkConfig(configInput(context))
  const { output, style } = context
  if (context.json) {
    await output.json({
      ok: config !== null,
      source: config?.source ?? null,
      problems: problems.map(({ code, message, where }) => ({ code, message, ...(where === undefined ? {} : where) })),
      warnings,
    })
  } else {
    for (const { message } of problems) await output.line(message)
    for (const warning of warnings) await output.line(`${style.yellow('warning')}: ${warning}`)
    if (config !== null) await output.line(`${style.green('ok')}: ${config.source}`)
  }
  if (config !== null) return ExitCode.done
  // On a terminal the list stands there already; in a script that keeps stdout apart, stderr has to say why it ended with 2.
  if (!output.isTTY || context.json) {
    const more = problems.length > 1 ? ` (and ${problems.length - 1} more)` : ''
    context.problem(`hicache-nixl: ${problems[0]!.code}: ${problems[0]!.message}${more}`)
  }
  return ExitCode.usage
}
