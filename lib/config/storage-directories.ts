import { realpathSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'

/** Where a path really leads. What does not exist yet lies in the real folder of its nearest ancestor that does. */
export function realPathOf(path: string): string {
  const absolute = resolve(path)
  try {
    return realpathSync(absolute)
  } catch {
    const parent = dirname(absolute)
    return parent === absolute ? absolute : join(realPathOf(parent), basename(absolute))
  }
}

/**
 * The first two directories that are one and the same, or undefined. One directory under two names would hold two caches' worth of keys.
 * `realPath` says where an absolute path leads.
 */
export function sameDirectories(paths: readonly string[], realPath: (path: string) => string = realPathOf): { first: string; second: string; realPath: string } | undefined {
  const seen = new Map<string, string>()
  for (const path of paths) {
    const real = realPath(resolve(path))
    const first = seen.get(real)
    if (first !== undefined) return { first, second: path, realPath: real }
    seen.set(real, path)
  }
  return undefined
}
