import type { Command } from './command.js'
import { UsageError } from './usage-error.js'
import { suggest } from './suggest.js'

interface Entry { readonly path: readonly string[]; readonly file: string; readonly summary: string }

/**
 * Every command, in the order of the help. A command's module is loaded only when it runs or shows its help: `hicache-nixl ls` has no use for the benchmark.
 * The summaries stand here too, so that the list needs none of them.
 */
export const COMMANDS: readonly Entry[] = [
  { path: ['demo'], file: 'demo', summary: 'Play a small multi-turn workload and show what the cache does' },
  { path: ['doctor'], file: 'doctor', summary: 'Check plugins, libraries, engines, directories and the object store; say what to do about each problem' },
  { path: ['config', 'check'], file: 'config-check', summary: 'Check a configuration; say where it is wrong' },
  { path: ['config', 'show'], file: 'config-show', summary: 'Show the configuration that results, secrets masked' },
  { path: ['bench'], file: 'bench', summary: 'Measure the store beside the limit of its device' },
  { path: ['replay'], file: 'replay', summary: 'Play a trace of requests and check every byte read' },
  { path: ['put'], file: 'put', summary: 'Store a page from a file or stdin' },
  { path: ['get'], file: 'get', summary: 'Read a page to a file or stdout' },
  { path: ['ls'], file: 'ls', summary: 'List the pages of the namespace' },
  { path: ['stat'], file: 'stat', summary: 'Show what is known about a page' },
  { path: ['rm'], file: 'rm', summary: 'Remove pages' },
  { path: ['verify'], file: 'verify', summary: 'Read every page and check it' },
  { path: ['gc'], file: 'gc', summary: 'Remove what dead writers left, and run the cleaner once' },
  { path: ['clear'], file: 'clear', summary: 'Remove every page of the namespace' },
  { path: ['metrics'], file: 'metrics', summary: 'Print metrics, or serve them on loopback' },
]

export interface FoundCommand { readonly entry: Entry; readonly args: readonly string[] }

/** The command that the arguments begin with. */
export function findCommand(args: readonly string[]): FoundCommand {
  const [first = '', second] = args
  const group = COMMANDS.filter(({ path }) => path[0] === first)
  if (group.length === 0) {
    const near = suggest(first, new Set(COMMANDS.map(({ path }) => path[0]!)))
    throw new UsageError(`unknown command "${first}"`, near === undefined ? 'See hicache-nixl --help.' : `Did you mean ${near}?`)
  }
  if (group[0]!.path.length === 1) return { entry: group[0]!, args: args.slice(1) }
  const entry = group.find(({ path }) => path[1] === second)
  if (entry !== undefined) return { entry, args: args.slice(2) }
  const names = group.map(({ path }) => path[1]!)
  if (second === undefined || second.startsWith('-')) throw new UsageError(`${first} needs one of: ${names.join(', ')}`)
  const near = suggest(second, names)
  throw new UsageError(`unknown command "${first} ${second}"`, near === undefined ? `Known: ${names.join(', ')}.` : `Did you mean ${first} ${near}?`)
}

export async function loadCommand({ file }: Entry): Promise<Command> {
  return await import(new URL(`./commands/${file}.js`, import.meta.url).href) as Command
}
