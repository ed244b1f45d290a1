import type { NixlBackendConfig } from '../config/nixl-backend-config.js'
import type { PluginName } from '../config/schema-facts.js'

export interface ProbeResult {
  /** Its library or hardware is there: really tried. */
  readonly usable: boolean
  /** Why it is or is not usable, in one sentence. */
  readonly reason: string
  /** What to do about it; empty when it is usable. */
  readonly remedy: string
  /** Pages are objects there, and not files in storage directories. */
  readonly objects?: boolean
  /** The engine that it would run on. */
  readonly engine?: string
  /** What is worth a warning although the plugin is usable. */
  readonly warnings?: readonly string[]
  readonly details?: Readonly<Record<string, unknown>>
}

/** Tries one plugin under a configuration. Leaves nothing behind; does not throw because the plugin is not usable. */
export interface PluginProbe {
  readonly name: PluginName
  probe(config: NixlBackendConfig): Promise<ProbeResult>
}
