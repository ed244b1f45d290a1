import type { NixlBackendConfig } from '../config/nixl-backend-config.js'
import { NixlBackendSelection } from '../selection/nixl-backend-selection.js'
import type { NativeAddon } from '../transfer/native-binding.js'

/** Does the configuration ask for plugin obj, by its section or by the selector? `auto` never leads there: every Linux has posix, which comes before. */
export function asksForObjects(config: NixlBackendConfig): boolean {
  const active = [...config.sections.values()].filter(section => section.active === true)
  return active.length > 0 ? active.some(({ name }) => name === 'obj') : config.selector.plugin === 'obj' && config.active('obj') !== false
}

/**
 * Does this configuration lead to an object store? Plugins are tried only where it could.
 *
 * @throws {HiCacheError} ERR_PLUGIN_UNAVAILABLE where it asks for one and no plugin that it asks for is usable.
 */
export async function selectsObjects(config: NixlBackendConfig, addon: NativeAddon): Promise<boolean> {
  return asksForObjects(config) && (await NixlBackendSelection.select(config, addon)).plugin === 'obj'
}
