import type { NativeAddon } from '../transfer/native-binding.js'
import { AbsentProbe } from './absent-probe.js'
import { ObjProbe } from './obj-probe.js'
import type { PluginProbe } from './plugin-probe.js'
import { PosixProbe } from './posix-probe.js'

/** What of the native addon the probes use; an older one has no object stores. */
export type ProbedAddon = Pick<NativeAddon, 'probeEngines'> & Partial<Pick<NativeAddon, 'objects'>>

/** A probe for each plugin, in the order in which they are preferred. */
export function builtInProbes(addon: ProbedAddon): readonly PluginProbe[] {
  return [
    new AbsentProbe('3fs', '3FS', 'the usrbio library (libhf3fs_api_shared.so) and a mounted 3FS, named by plugin.3fs.mount_point'),
    new PosixProbe(addon),
    new AbsentProbe('gds_mt', 'GDS_MT (GPUDirect Storage with threads)', 'an NVIDIA GPU, its driver and cuFile (libcufile.so)'),
    new AbsentProbe('gds', 'GDS (GPUDirect Storage)', 'an NVIDIA GPU, its driver and cuFile (libcufile.so)'),
    new ObjProbe(addon),
  ]
}
