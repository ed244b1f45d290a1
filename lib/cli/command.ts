import type { Readable } from 'node:stream'
import type { HiCacheNixl, OpenOptions } from '../index.js'
import type { Output } from './output.js'
import type { Progress, ProgressOptions } from './progress.js'
import type { Style } from './style.js'

/** What a command ends with. */
export const ExitCode = {
  done: 0,
  /** It ran and found something wrong: a miss, a corrupt page, an unusable plugin, an error of the system. */
  wrong: 1,
  /** The command line or the configuration is wrong; nothing was done. */
  usage: 2,
  /** SIGINT, as shells have it. */
  interrupted: 130,
} as const

export interface OptionSpec {
  readonly type: 'string' | 'boolean'
  /** May be given several times; its value is then an array. */
  readonly multiple?: boolean
  readonly short?: string
  /** The placeholder in the help: `--port N`. */
  readonly value?: string
  /** The only values it takes. */
  readonly choices?: readonly string[]
  readonly help: string
}
export type OptionSpecs = Readonly<Record<string, OptionSpec>>

/**
 * A command is a module that exports these by name (`export const name = ...`, `export async function run(...)`). `options` holds the options that
 * it knows beside `--json`, `--quiet` and `--help`; storeOptions of store-options.ts are spread into it where it opens a store.
 */
export interface Command {
  readonly name: string
  readonly summary: string
  /** What follows the name: `KEY [FILE|-]`. */
  readonly usage: string
  readonly options: OptionSpecs
  /** Paragraphs for the end of the help. */
  readonly details?: string
  /** Least and most arguments; default none at all. */
  readonly positionals?: readonly [min: number, max: number]
  /** Resolves to the exit code. Throws UsageError (2), HiCacheError (ERR_CONFIG and ERR_ARGUMENT are 2, others 1), anything else (1). */
  run(context: CommandContext): Promise<number>
}

export type OptionValues = Readonly<Record<string, string | boolean | readonly string[] | undefined>>

/** What a command gets to work with. It writes to nothing else. */
export interface CommandContext {
  readonly positionals: readonly string[]
  readonly options: Options
  /** --json: the command calls output.json() once and writes nothing else to stdout. */
  readonly json: boolean
  readonly quiet: boolean
  /** stdout. */
  readonly output: Output
  readonly style: Style
  readonly env: NodeJS.ProcessEnv
  /** Fires at SIGINT or SIGTERM, and when stdout's reader has gone. */
  readonly signal: AbortSignal
  /** stdin, for `put KEY -`. */
  readonly stdin: Readable
  /** A line on stderr that --quiet does not suppress: why the command will not end with 0. */
  problem(line: string): void
  /** A line on stderr; nothing with --quiet. */
  note(line: string): void
  /** A progress display on stderr that honours --quiet. */
  progress(options: ProgressOptions): Progress
  /**
   * Opens the cache that the store options describe, runs `use` on it, and closes it again whatever happens. `extra` wins over the options.
   */
  withCache<T>(use: (cache: HiCacheNixl) => Promise<T>, extra?: Partial<OpenOptions>): Promise<T>
}

/** The values of a command's options, read by kind. */
export interface Options {
  readonly values: OptionValues
  string(name: string): string | undefined
  strings(name: string): readonly string[]
  flag(name: string): boolean
  /** A whole number; UsageError when it is none or out of the range. */
  integer(name: string, range?: { min?: number; max?: number }): number | undefined
  /** A size: `65536`, `64KiB`, `1.5g`; UsageError when it is none or out of the range. */
  bytes(name: string, range?: { min?: number; max?: number }): number | undefined
}
