import type { NixlBackendConfig } from '../config/nixl-backend-config.js'
import type { EngineName, EngineReport, NativeAddon } from '../transfer/native-binding.js'
import type { PluginProbe, ProbeResult } from './plugin-probe.js'

/** With no engine asked for, the first of these that the system supports. */
export const ENGINE_ORDER: readonly EngineName[] = ['aio', 'io_uring', 'posix_aio']
const TITLES: Readonly<Record<EngineName, string>> = { aio: 'Linux AIO', io_uring: 'io_uring', posix_aio: 'POSIX AIO' }
const KEYS: Readonly<Record<EngineName, string>> = { aio: 'use_aio', io_uring: 'use_uring', posix_aio: 'use_posix_aio' }

/** Sets up and tears down the engines, and picks the one that the configuration asks for or the first that works. */
export class PosixProbe implements PluginProbe {
  readonly name = 'posix'
  readonly #addon: Pick<NativeAddon, 'probeEngines'>

  constructor(addon: Pick<NativeAddon, 'probeEngines'>) {
    this.#addon = addon
  }

  async probe(config: NixlBackendConfig): Promise<ProbeResult> {
    let engines: readonly EngineReport[]
    try {
      engines = await this.#addon.probeEngines()
    } catch (error) {
      return { usable: false, reason: `the engines could not be tried: ${error instanceof Error ? error.message : String(error)}`, remedy: 'run hicache-nixl doctor' }
    }
    const report = (name: EngineName): EngineReport => engines.find((engine) => engine.name === name)
      ?? { name, usable: false, reason: 'the native addon does not have it', remedy: 'build the native addon again' }
    const asked = config.posixEngine
    return { ...(asked === 'auto' ? automatic(report) : explicit(report(asked))), details: { engines } }
  }
}

function explicit(engine: EngineReport): ProbeResult {
  const title = `${TITLES[engine.name]} (${KEYS[engine.name]})`
  return engine.usable
    ? { usable: true, engine: engine.name, reason: `${title} is asked for, and works here`, remedy: '' }
    : {
        usable: false, reason: `${title} is asked for, and does not work here: ${engine.reason}`,
        remedy: `${engine.remedy === '' ? '' : `${engine.remedy}; or `}ask for no engine, so that the first that works is taken`,
      }
}

function automatic(report: (name: EngineName) => EngineReport): ProbeResult {
  const tried: EngineReport[] = []
  for (const name of ENGINE_ORDER) {
    const engine = report(name)
    if (engine.usable) {
      const skipped = tried.map((other) => `${TITLES[other.name]} does not: ${other.reason}`)
      return {
        usable: true, engine: name, remedy: '', reason: [`${TITLES[name]} works here`, ...skipped].join('; '),
        // Another engine than the first in the order is a fallback: it may cost speed, so it is said.
        warnings: skipped.length === 0 ? [] : [`plugin posix runs on ${TITLES[name]}: ${skipped.join('; ')}`],
      }
    }
    tried.push(engine)
  }
  return {
    usable: false, reason: `no engine works here: ${tried.map((engine) => `${TITLES[engine.name]}: ${engine.reason}`).join('; ')}`,
    remedy: tried.map((engine) => engine.remedy).filter((remedy) => remedy !== '').join('; or '),
  }
}
