import { readFileSync } from 'node:fs'

/** The version in package.json; sources and compiled files lie at different depths below it. */
export function packageVersion(): string {
  for (const up of ['../../../package.json', '../../package.json']) {
    try {
      const { name, version } = JSON.parse(readFileSync(new URL(up, import.meta.url), 'utf8')) as { name?: string; version?: string }
      if (name === 'hicache-nixl' && version !== undefined) return version
    } catch {
      // Not there: it is at the other depth.
    }
  }
  return 'unknown'
}
