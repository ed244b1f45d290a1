import { NixlBackendConfig } from '../../config/nixl-backend-config.js'
import { loadAddon } from '../../transfer/load-addon.js'
import type { CommandContext, OptionSpecs } from '../command.js'
import { configInput } from '../config-input.js'
import { asksForObjects, selectsObjects } from '../object-selection.js'
import { UsageError } from '../usage-error.js'
import { WorkDirectory, type WorkDirectoryOptions } from './work-directory.js'
import type { WorkPlace } from './work-place.js'
import { WorkPrefix } from './work-prefix.js'

export interface WorkPlaceOptions {
  /** The command's own. */
  readonly specs: OptionSpecs
  /** What a directory or a prefix of this run begins with. */
  readonly name: string
  readonly directory: Omit<WorkDirectoryOptions, 'prefix'>
  /** Options that mean nothing on an object store, each with the reason. */
  readonly notOnObjects: Readonly<Record<string, string>>
}

/** Below a prefix of its own in the bucket, where the configuration leads to an object store; else in directories. */
export async function makeWorkPlace(context: CommandContext, { specs, name, directory, notOnObjects }: WorkPlaceOptions): Promise<WorkPlace> {
  // The commands' own arguments are no configurations.
  const config = NixlBackendConfig.load(configInput({ ...context, positionals: [] }, specs))
  if (asksForObjects(config)) {
    const misplaced = Object.keys(notOnObjects).find(option => context.options.string(option) !== undefined)
    if (misplaced !== undefined) throw new UsageError(`option --${misplaced} does not work on an object store: ${notOnObjects[misplaced]!}`)
    const addon = loadAddon()
    if (await selectsObjects(config, addon)) return await WorkPrefix.make(config, addon, name)
  }
  return await WorkDirectory.make({ ...directory, prefix: `${name}-` })
}
