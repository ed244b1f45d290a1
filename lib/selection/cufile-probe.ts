import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { NixlBackendConfig } from '../config/nixl-backend-config.js'
import type { NativeAddon } from '../transfer/native-binding.js'
import type { PluginProbe, ProbeResult } from './plugin-probe.js'
import { PosixProbe } from './posix-probe.js'

/** The driver's open spins for ever in some places; a sound one takes about half a second. */
export const CUFILE_PROBE_MS_MAX = 10_000

type CufileReport = ReturnType<NativeAddon['cufile']['probe']>

/** What a child process has found out about cuFile: its driver can hang, and then only the child does. */
export type CufileInspector = () => Promise<CufileReport>

/** `limitMs`: how long the child may take. */
export const inspectCufile = async (limitMs = CUFILE_PROBE_MS_MAX): Promise<CufileReport> => await new Promise(resolve => {
  const script = fileURLToPath(new URL('./cufile-probe-child.js', import.meta.url))
  execFile(process.execPath, [script], { timeout: limitMs, killSignal: 'SIGKILL', windowsHide: true }, (error, stdout) => {
    const refused = (reason: string, remedy: string): void => { resolve({ usable: false, mode: 'unavailable', library: '', version: '', reason, remedy }) }
    if (error?.killed === true) {
      return refused(`cuFile's driver did not open within ${limitMs / 1000} s (a child process tried it, and was ended)`,
        'see that /proc/modules can be read, and that the GPU\'s driver answers (nvidia-smi)')
    }
    try {
      resolve(JSON.parse(stdout) as CufileReport)
    } catch {
      refused(`the child process that tried cuFile ended with ${error?.code ?? error?.signal ?? 'no answer'}`, 'run hicache-nixl doctor, and look at cuFile\'s log')
    }
  })
})

/**
 * GPUDirect Storage, with threads (gds_mt) or batches (gds). Host memory gains nothing by cuFile, so it goes as with plugin posix, whose engine is therefore this one's too.
 */
export class CufileProbe implements PluginProbe {
  readonly name: 'gds' | 'gds_mt'
  readonly #addon: Pick<NativeAddon, 'probeEngines'> & Partial<Pick<NativeAddon, 'cufile' | 'cuda'>>
  readonly #options: { readonly inspect: CufileInspector; readonly always: boolean }

  /** `always`: tried also where nobody asks for it (it costs a child process). */
  constructor(name: 'gds' | 'gds_mt', addon: Pick<NativeAddon, 'probeEngines'> & Partial<Pick<NativeAddon, 'cufile' | 'cuda'>>, options: { inspect?: CufileInspector; always?: boolean } = {}) {
    this.name = name
    this.#addon = addon
    this.#options = { inspect: options.inspect ?? inspectCufile, always: options.always ?? false }
  }

  async probe(config: NixlBackendConfig): Promise<ProbeResult> {
    if (this.#addon.cufile === undefined || this.#addon.cuda === undefined) return { usable: false, reason: 'the native addon does not have it', remedy: 'build the native addon again' }
    const asked = config.active(this.name) === true || config.selector.plugin === this.name
    if (!asked && !this.#options.always) return { usable: false, reason: 'nobody asks for it, so it was not tried', remedy: `set plugin.${this.name}.active = true; hicache-nixl doctor tries it in any case` }
    const cuda = await this.#addon.cuda.probe()
    if (!cuda.usable) return { usable: false, reason: cuda.reason, remedy: cuda.remedy, details: { mode: 'unavailable' } }
    const { usable, reason, remedy, ...details } = await this.#options.inspect()
    if (!usable) return { usable, reason, remedy, details }
    const host = await new PosixProbe(this.#addon).probe(config)
    if (!host.usable) return { ...host, details }
    const warnings = details.mode === 'gds' ? [] : [`plugin ${this.name} runs in cuFile's compatibility mode: pages go through this host's memory (${reason})`]
    return {
      usable: true, engine: host.engine!, reason: `cuFile ${details.version} in mode ${details.mode}: ${reason}; host memory: ${host.reason}`, remedy: '',
      warnings: [...warnings, ...host.warnings ?? []], details: { ...details, devices: cuda.devices, cuda: cuda.version }
    }
  }
}
