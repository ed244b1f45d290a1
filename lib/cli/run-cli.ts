import type { Readable, Writable } from 'node:stream'
import { HiCacheError } from '../error.js'
import type { HiCacheNixl, OpenOptions } from '../index.js'
import { ExitCode, type CommandContext } from './command.js'
import { commandHelp, generalHelp } from './help.js'
import { Output } from './output.js'
import { COMMON_OPTIONS, parseOptions } from './parse-options.js'
import { Progress } from './progress.js'
import { findCommand, loadCommand } from './registry.js'
import { stderrLogger } from './stderr-logger.js'
import { openOptionsOf } from './store-options.js'
import { Style } from './style.js'
import { UsageError } from './usage-error.js'
import { packageVersion } from './version.js'

export interface CliStreams {
  readonly stdin: Readable
  readonly stdout: Writable & { isTTY?: boolean }
  readonly stderr: Writable & { isTTY?: boolean; columns?: number }
  readonly env: NodeJS.ProcessEnv
  /** Fires at SIGINT and SIGTERM. */
  readonly signal: AbortSignal
}

/** Runs one command line (without `node` and the script's name). Resolves to the exit code; never rejects. */
export async function runCli(args: readonly string[], streams: CliStreams): Promise<number> {
  const { stdout, stderr, stdin, env } = streams
  const output = new Output(stdout)
  // Nobody reads stderr any more: there is nobody left to tell.
  stderr.on('error', () => { /* see above */ })
  const style = Style.for(stdout, env)
  const signal = AbortSignal.any([streams.signal, output.closed])
  // Known before parsing, so that a usage error too can answer in JSON.
  const optionArgs = args.slice(0, args.includes('--') ? args.indexOf('--') : undefined)
  const json = optionArgs.includes('--json')

  let code: number
  try {
    code = await dispatch()
  } catch (error) {
    if (output.closed.aborted && output.failure === undefined) code = ExitCode.done
    else if (streams.signal.aborted) code = ExitCode.interrupted
    else {
      code = exitCodeOf(error)
      stderr.write(`${errorLine(error)}\n`)
      if (isDebug(env)) stderr.write(`${describeForDebugging(error)}\n`)
      if (json && !output.started) await output.json({ error: errorFields(error) })
    }
  }
  await output.flush()
  if (output.failure !== undefined) {
    stderr.write(`${errorLine(output.failure)}\n`)
    return ExitCode.wrong
  }
  return code

  async function dispatch(): Promise<number> {
    const first = args[0]
    if (first === '--version' || first === '-V') {
      await output.line(packageVersion())
      return ExitCode.done
    }
    if (first === undefined) {
      stderr.write(generalHelp(Style.for(stderr, env), packageVersion()))
      return ExitCode.usage
    }
    if (first === '--help' || first === '-h' || first === 'help') {
      if (args.length === 1) {
        await output.write(generalHelp(style, packageVersion()))
        return ExitCode.done
      }
      return await runCommand([...args.slice(1), '--help'])
    }
    if (first.startsWith('-')) throw new UsageError(`the command comes first; found "${first}"`, 'See hicache-nixl --help.')
    return await runCommand(args)
  }

  async function runCommand(commandArgs: readonly string[]): Promise<number> {
    const { entry, args: rest } = findCommand(commandArgs)
    const command = await loadCommand(entry)
    const path = entry.path.join(' ')
    // Help wins over whatever else is wrong with the line.
    const beforeDashes = rest.slice(0, rest.includes('--') ? rest.indexOf('--') : undefined)
    if (beforeDashes.includes('--help') || beforeDashes.includes('-h')) {
      await output.write(commandHelp(command, path, style))
      return ExitCode.done
    }
    const { options, positionals } = parseOptions(rest, { ...command.options, ...COMMON_OPTIONS })
    const [min, max] = command.positionals ?? [0, 0]
    if (positionals.length < min) throw new UsageError(`usage: hicache-nixl ${path} ${command.usage}`)
    if (positionals.length > max) throw new UsageError(`${path} does not take the argument "${positionals[max]!}"`, `Usage: hicache-nixl ${path} ${command.usage}`)

    const quiet = options.flag('quiet')
    const note = (line: string): void => { if (!quiet) stderr.write(`${line}\n`) }
    const context: CommandContext = {
      positionals, options, quiet, output, style, env, signal, stdin, note,
      problem: (line) => { stderr.write(`${line}\n`) },
      json: options.flag('json'),
      progress: (progressOptions) => new Progress({ stream: stderr, quiet, terminal: stderr.isTTY === true && env.TERM !== 'dumb', ...progressOptions }),
      withCache: async (use, extra = {}) => {
        const { HiCacheNixl: Cache } = await import('../connector/hicache-nixl.js')
        const opened: OpenOptions = { env, logger: stderrLogger(stderr, { quiet, debug: isDebug(env) }), ...openOptionsOf(options, command.options), ...extra }
        const cache: HiCacheNixl = await Cache.open(opened)
        opened.logger?.debug('opened', { ...cache.selection, plugins: undefined, directories: cache.directories.map(({ path }) => path) })
        try {
          return await use(cache)
        } finally {
          await cache.close()
        }
      },
    }
    return await command.run(context)
  }
}

function exitCodeOf(error: unknown): number {
  if (error instanceof UsageError) return ExitCode.usage
  if (!HiCacheError.is(error)) return ExitCode.wrong
  return error.code === 'ERR_CONFIG' || error.code === 'ERR_ARGUMENT' || error.code === 'ERR_KEY' ? ExitCode.usage : ExitCode.wrong
}

/** `hicache-nixl: ERR_CONFIG: message`, on one line whatever the message holds. */
export function errorLine(error: unknown): string {
  const { code, message } = errorFields(error)
  return `hicache-nixl: ${code}: ${message.replace(/\s*[\r\n]+\s*/g, ' ')}`
}

export interface ErrorFields { code: string; message: string; key?: string; errno?: string; where?: { file: string; line: number; column: number } }

export function errorFields(error: unknown): ErrorFields {
  if (error instanceof UsageError) return { code: 'ERR_USAGE', message: error.hint === undefined ? error.message : `${error.message}. ${error.hint}` }
  if (HiCacheError.is(error)) {
    return {
      code: error.code, message: error.message,
      ...(error.key === undefined ? {} : { key: error.key }),
      ...(error.errno === undefined ? {} : { errno: error.errno }),
      ...(error.where === undefined ? {} : { where: error.where }),
    }
  }
  if (error instanceof Error) {
    const code = (error as NodeJS.ErrnoException).code
    // Errors of the system repeat their code in the message.
    return typeof code === 'string' ? { code, message: error.message.startsWith(`${code}: `) ? error.message.slice(code.length + 2) : error.message }
      : { code: 'ERR_INTERNAL', message: error.message }
  }
  return { code: 'ERR_INTERNAL', message: String(error) }
}

function describeForDebugging(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const cause = error.cause === undefined ? '' : `\ncaused by: ${describeForDebugging(error.cause)}`
  return `${error.stack ?? error.message}${cause}`
}

function isDebug(env: NodeJS.ProcessEnv): boolean {
  const value = env.HICACHE_NIXL_DEBUG ?? ''
  return value !== '' && value !== '0' && value !== 'false'
}
