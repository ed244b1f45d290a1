import { NixlBackendConfig } from '../../config/nixl-backend-config.js'
import { PLUGIN_NAMES } from '../../config/schema-facts.js'
import { HiCacheError } from '../../error.js'
import { NixlBackendSelection } from '../../selection/nixl-backend-selection.js'
import { loadAddon } from '../../transfer/load-addon.js'
import { ExitCode, type CommandContext, type OptionSpecs } from '../command.js'
import { configInput, CONFIG_OPTIONS } from '../config-input.js'
import { table } from '../style.js'

export const name = 'config show'
export const summary = 'Show the configuration that results, secrets masked'
export const usage = '[CONFIG]'
export const positionals = [0, 1] as const
export const options: OptionSpecs = CONFIG_OPTIONS
export const details = 'Defaults, file, environment and options put together, and the plugin that they select here. null in options: chosen when the cache opens. Secrets show as ***.'

/** What the cache does without these. */
const UNLIMITED: Readonly<Record<string, string>> = { capacity: '(all but a tenth of the file system)', l3_cleaner_capacity_gb: '(that of the file systems)', object_proxy: '(none)' }

export async function run(context: CommandContext): Promise<number> {
  const config = NixlBackendConfig.load(configInput(context))
  const { output, style } = context
  let plugin: string = PLUGIN_NAMES.find((one) => config.active(one) === true) ?? config.selector.plugin
  let engine = ''
  let selectedBy: string = config.selector.from
  const warnings = [...config.warnings]
  try {
    const selection = await NixlBackendSelection.select(config, loadAddon())
    plugin = selection.plugin
    engine = selection.engine
    selectedBy = selection.source
    warnings.splice(0, warnings.length, ...selection.warnings)
  } catch (error) {
    // A configuration can be shown on a machine that cannot serve it.
    if (!HiCacheError.is(error)) throw error
    warnings.push(`no plugin can be selected here: ${error.message}`)
  }
  const shown = {
    plugin, engine, selectedBy,
    source: config.source,
    initParams: plugin === 'auto' ? {} : config.shownInitParams(plugin),
    sections: Object.fromEntries([...config.sections.keys()].map((section) => [section, config.shownInitParams(section)])),
    options: config.shownOptions(),
    // Pages of an object store are in no directory.
    storageDirs: plugin === 'obj' ? [] : [...config.storageDirs],
    storageDirSource: plugin === 'obj' ? null : config.storageDirSource,
    warnings,
  }
  if (context.json) {
    await output.json(shown)
    return ExitCode.done
  }
  const block = (title: string, rows: readonly (readonly string[])[]): string =>
    rows.length === 0 ? '' : `\n${style.bold(title)}\n${table(rows, '', '  ')}`
  const value = (raw: unknown): string => raw === null ? style.dim('chosen when the cache opens') : typeof raw === 'string' ? raw === '' ? style.dim('(empty)') : raw : JSON.stringify(raw)
  let text = table([
    ['plugin', `${style.bold(plugin)}${engine === '' ? '' : ` on ${engine}`} ${style.dim(selectedBy === 'auto' || selectedBy === 'default' ? '(the first that is usable)' : `(asked for by the ${selectedBy})`)}`],
    ['source', config.source],
  ])
  text += block(`plugin.${plugin}`, Object.entries(shown.initParams).map(([key, raw]) => [key, value(raw)]))
  for (const [section, params] of Object.entries(shown.sections)) {
    if (section !== plugin) text += block(`plugin.${section} ${style.dim('(not selected)')}`, Object.entries(params).map(([key, raw]) => [key, value(raw)]))
  }
  text += block('options', Object.entries(shown.options).map(([key, raw]) => [key, raw === null && key in UNLIMITED ? style.dim(UNLIMITED[key]!) : value(raw)]))
  if (plugin !== 'obj') text += block(`storage directories ${style.dim(`(${config.storageDirSource === 'default' ? 'the default' : `from the ${config.storageDirSource === 'config' ? 'configuration' : config.storageDirSource}`})`)}`, config.storageDirs.map((path) => [path]))
  await output.write(text)
  for (const warning of warnings) context.note(`hicache-nixl: warning: ${warning}`)
  return ExitCode.done
}
