import type { NativeAddon } from '../transfer/native-binding.js'
import { CufileProbe } from './cufile-probe.js'
import { ObjProbe } from './obj-probe.js'
import type { PluginProbe } from './plugin-probe.js'
import { PosixProbe } from './posix-probe.js'
import { UsrbioProbe } from './usrbio-probe.js'

/** What of the native addon the probes use; without the addon there is nothing but the reason. */
export type ProbedAddon = Pick<NativeAddon, 'probeEngines'> & Partial<Pick<NativeAddon, 'objects' | 'usrbio' | 'nixl' | 'cufile' | 'cuda'>>

/** A probe for each plugin, in the order in which they are preferred. `thorough`: what costs a process is tried also where nobody asks for it. */
export function builtInProbes(addon: ProbedAddon, thorough = false): readonly PluginProbe[] {
  return [
    new UsrbioProbe(addon),
    new PosixProbe(addon),
    new CufileProbe('gds_mt', addon, { always: thorough }),
    new CufileProbe('gds', addon, { always: thorough }),
    new ObjProbe(addon),
  ]
}
