import { resolve, sep } from 'node:path'
import type { NixlBackendConfig } from '../config/nixl-backend-config.js'
import type { NativeAddon } from '../transfer/native-binding.js'
import type { PluginProbe, ProbeResult } from './plugin-probe.js'

/** 3FS by its usrbio interface: a real block there and back through a ring, where a mount point is configured. */
export class UsrbioProbe implements PluginProbe {
  readonly name = '3fs'
  readonly #addon: Partial<Pick<NativeAddon, 'usrbio'>>

  constructor(addon: Partial<Pick<NativeAddon, 'usrbio'>>) { this.#addon = addon }

  async probe(config: NixlBackendConfig): Promise<ProbeResult> {
    const { usrbio } = this.#addon
    const mountPoint = config.section('3fs').mount_point ?? ''
    if (mountPoint === '') {
      return { usable: false, reason: 'nobody says where a 3FS is mounted', remedy: 'set plugin.3fs.mount_point, and storage_dir to a directory below it' }
    }
    if (usrbio === undefined) return { usable: false, reason: 'the native addon does not have it', remedy: 'build the native addon again' }
    const { usable, reason, remedy, ...details } = await usrbio.probe(mountPoint, mountPoint)
    if (!usable) return { usable, reason, remedy, details }
    const outside = config.storageDirs.find(path => !isBelow(path, mountPoint))
    if (outside !== undefined) {
      return { usable: false, reason: `the storage directory ${outside} is not below plugin.3fs.mount_point = ${mountPoint}`, remedy: 'set storage_dir to a directory of the 3FS', details }
    }
    return { usable: true, engine: 'usrbio', reason: `a block was written to the 3FS at ${mountPoint} and read back`, remedy: '', details }
  }
}

function isBelow(path: string, mountPoint: string): boolean {
  const top = resolve(mountPoint)
  const below = resolve(path)
  return below === top || below.startsWith(top.endsWith(sep) ? top : top + sep)
}
