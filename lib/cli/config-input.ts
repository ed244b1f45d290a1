import type { NixlBackendConfigInput, NixlBackendOverrides } from '../config/nixl-backend-config.js'
import type { CommandContext, OptionSpecs } from './command.js'
import { configText, openOptionsOf, STORE_OPTIONS } from './store-options.js'
import { UsageError } from './usage-error.js'

/** The store options that a configuration knows; the engine is chosen above it. */
export const CONFIG_OPTIONS: OptionSpecs = Object.fromEntries(Object.entries(STORE_OPTIONS).filter(([name]) => name !== 'engine'))

/**
 * What the command line asks for, as NixlBackendConfig.load() takes it. CONFIG may be given as the first argument as well. `specs`: the command's own options, where it
 * gives some of these another meaning.
 */
export function configInput(context: Pick<CommandContext, 'positionals' | 'options' | 'env'>, specs: OptionSpecs = CONFIG_OPTIONS): NixlBackendConfigInput {
  const [positional] = context.positionals
  const { config, plugin, ...rest } = openOptionsOf(context.options, specs)
  const { storageDir, storageLayout, capacity, evictionPolicy, fsync, directoryScheme, workers, agent, fingerprint, objectPrefix } = rest
  if (positional !== undefined && config !== undefined) throw new UsageError('the configuration was given twice, as an argument and with --config')
  const overrides: NixlBackendOverrides = { storageDir, storageLayout, capacity, evictionPolicy, fsync, directoryScheme, workers, agent, fingerprint, objectPrefix }
  return { config: positional === undefined ? config : configText(positional), plugin, overrides, env: context.env }
}
