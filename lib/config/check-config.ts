import type { HiCacheError } from '../error.js'
import { NixlBackendConfig, type NixlBackendConfigInput } from './nixl-backend-config.js'

export interface ConfigCheck {
  /** Null when something is wrong. */
  readonly config: NixlBackendConfig | null
  /** Everything that is wrong, in the order of the text. */
  readonly problems: readonly HiCacheError[]
  readonly warnings: readonly string[]
}

/** Checks a configuration without opening anything: `hicache-nixl config check`. Never throws because of the configuration. */
export function checkConfig(input: NixlBackendConfigInput = {}): ConfigCheck {
  const { config, problems } = NixlBackendConfig.check(input)
  return { config, problems, warnings: config?.warnings ?? [] }
}
