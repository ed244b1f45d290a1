/**
 * Where the cache says what it does. Any of pino, winston or console fits. `fields` are plain data (counts, paths, durations in units of their
 * name); they never hold page bytes or secrets.
 */
export interface Logger {
  debug(message: string, fields?: object): void
  info(message: string, fields?: object): void
  warn(message: string, fields?: object): void
  error(message: string, fields?: object): void
}

const nothing = (): void => { /* A library that nobody asked to speak is silent. */ }

/** The default: says nothing. */
export const silentLogger: Logger = Object.freeze({ debug: nothing, info: nothing, warn: nothing, error: nothing })
