import type { Logger } from '../observe/logger.js'

/** What the cache has to say, for a person: warnings and errors, and everything else too when debugging. */
export function stderrLogger(stream: { write(text: string): unknown }, { quiet, debug }: { quiet: boolean; debug: boolean }): Logger {
  const line = (level: string) => (message: string, fields?: object): void => {
    const tail = fields === undefined || !debug ? '' : ` ${JSON.stringify(fields, (_key, value: unknown) => typeof value === 'bigint' ? value.toString() : value)}`
    stream.write(`hicache-nixl: ${level}: ${message}${tail}\n`)
  }
  const nothing = (): void => { /* not asked for */ }
  return {
    debug: debug ? line('debug') : nothing,
    info: debug ? line('info') : nothing,
    warn: quiet ? nothing : line('warning'),
    error: line('error'),
  }
}
