import type { NixlBackendConfig } from '../config/nixl-backend-config.js'
import type { NativeAddon } from '../transfer/native-binding.js'
import type { ProbeResult } from './plugin-probe.js'

/** What NIXL calls the plugins that it has too. */
const NIXL_NAMES: Readonly<Record<string, string>> = { '3fs': 'HF3FS', posix: 'POSIX', gds: 'GDS', gds_mt: 'GDS_MT', obj: 'OBJ' }

/** What NIXL calls a plugin. One that only NIXL knows has the name of its section. */
export function nixlPluginName(plugin: string): string { return NIXL_NAMES[plugin] ?? plugin }

/** The parameters that NIXL's plugin gets. NIXL reads a missing engine as its own default, and `false` for every one of them as none at all. */
export function nixlParameters(config: NixlBackendConfig, plugin: string): Record<string, string> {
  const parameters = config.initParams(plugin)
  // What is empty is not set; NIXL would take an empty key for a key.
  if (plugin === 'obj') return Object.fromEntries(Object.entries(parameters).filter(([, value]) => value !== ''))
  if (plugin !== 'posix') return parameters
  return Object.fromEntries(Object.entries(parameters).filter(([, value]) => value !== 'false'))
}

/** Makes an agent of NIXL's own library with the plugin, as a cache would, and ends it. */
export async function probeNixl(config: NixlBackendConfig, addon: Partial<Pick<NativeAddon, 'nixl'>>, plugin: string): Promise<ProbeResult> {
  const { nixl } = addon
  if (nixl === undefined) return { usable: false, reason: 'the native addon does not have the bridge to NIXL', remedy: 'build the native addon again' }
  const name = nixlPluginName(plugin)
  const { usable, reason, remedy, moves, ...details } = await nixl.probe(name, nixlParameters(config, plugin))
  if (!usable) return { usable, reason, remedy, details }
  const objects = moves === 'objects'
  return { usable, objects, engine: 'nixl', reason: `NIXL's plugin ${name} was set up${objects ? ', which moves objects' : ''} (${details.library})`, remedy: '', details }
}
