import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { checkConfig } from '../../lib/config/check-config.js'
import { NixlBackendConfig, type NixlBackendConfigInput } from '../../lib/config/nixl-backend-config.js'
import { HiCacheError } from '../../lib/error.js'

/** Loads under an empty environment, so that the machine's own variables decide nothing. */
export function load(config?: NixlBackendConfigInput['config'], rest: Omit<NixlBackendConfigInput, 'config'> = {}): NixlBackendConfig {
  return NixlBackendConfig.load({ config, env: {}, ...rest })
}

/** The error that load throws. */
export function refused(config?: NixlBackendConfigInput['config'], rest: Omit<NixlBackendConfigInput, 'config'> = {}): HiCacheError {
  try {
    load(config, rest)
  } catch (error) {
    if (HiCacheError.is(error)) return error
    throw error
  }
  throw new Error('the configuration was taken')
}

/** Everything that is wrong, as messages. */
export function problems(config?: NixlBackendConfigInput['config'], rest: Omit<NixlBackendConfigInput, 'config'> = {}): string[] {
  return checkConfig({ config, env: {}, ...rest }).problems.map(({ message }) => message)
}

/** A folder for configuration files; call remove() afterwards. */
export class ConfigFolder {
  readonly path = mkdtempSync(join(tmpdir(), 'hicache-config-'))
  write(name: string, content: string | Uint8Array): string {
    const file = join(this.path, name)
    writeFileSync(file, content)
    return `@${file}`
  }

  remove(): void { rmSync(this.path, { recursive: true, force: true }) }
}
