import { createRequire } from 'node:module'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { HiCacheError } from '../error.js'
import type { NativeAddon } from './native-binding.js'

/** Compiled, this file lies in dist/lib/transfer. */
const PACKAGE_ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..')

/** Where the binary may lie: built in a checkout, or shipped in the package. */
export function addonCandidates(): string[] {
  return [
    join(PACKAGE_ROOT, 'build', 'Release', 'hicache_nixl.node'),
    join(PACKAGE_ROOT, 'prebuilds', `${process.platform}-${process.arch}`, 'hicache_nixl.node')
  ]
}

/** How to make the binary on this system: a checkout brings its build along, an installed package only the sources. */
function buildCommand(): string {
  return existsSync(join(PACKAGE_ROOT, 'scripts', 'build.mjs'))
    ? `"npm run build" in ${PACKAGE_ROOT}`
    : `"npm install --no-save node-gyp node-addon-api && npx node-gyp rebuild -C ${PACKAGE_ROOT}"`
}

let loaded: NativeAddon | undefined

/**
 * The native addon, loaded once per thread. It is loaded on the caller's thread too, not only in workers: a process that exits with I/O in
 * flight crashes otherwise. Throws ERR_ADDON, with the remedy, where there is no binary or the system refuses it.
 */
export function loadAddon(): NativeAddon {
  if (loaded) return loaded
  const candidates = addonCandidates()
  const path = candidates.find(candidate => existsSync(candidate))
  if (path === undefined) {
    throw new HiCacheError('ERR_ADDON',
      `The native addon is not there for ${process.platform}-${process.arch} (looked for ${candidates.join(' and ')}). ` +
      `Prebuilt is linux-x64 (glibc); elsewhere on Linux run ${buildCommand()}, with g++, make and python3 installed.`)
  }
  try {
    loaded = createRequire(import.meta.url)(path) as NativeAddon
    return loaded
  } catch (cause) {
    throw new HiCacheError('ERR_ADDON',
      `The native addon ${path} does not load: ${cause instanceof Error ? cause.message : String(cause)}. ` +
      `Build it on this system: ${buildCommand()}, with g++, make and python3 installed.`, { cause })
  }
}
