import { writeFile } from 'node:fs/promises'
import type { HiCacheNixl, ReadOutcome, Tensor } from '../../index.js'
import { ExitCode, type CommandContext, type OptionSpecs } from '../command.js'
import { formatBytes } from '../format.js'
import { describeTensor, printableKey } from '../page-info.js'
import { smallCache } from '../small-cache.js'
import { IDENTITY_OPTIONS, STORE_OPTIONS } from '../store-options.js'
import { UsageError } from '../usage-error.js'

export const name = 'get'
export const summary = 'Read a page to a file or stdout'
export const usage = 'KEY [-o FILE|-]'
export const positionals = [1, 1] as const
export const options: OptionSpecs = {
  output: { type: 'string', short: 'o', value: 'FILE', help: 'Where the bytes go; "-" is stdout. Default: stdout, unless that is a terminal.' },
  ...STORE_OPTIONS, ...IDENTITY_OPTIONS,
}
export const details = 'A miss ends with 1 and says why. With --json the bytes go to -o FILE or nowhere: stdout has the JSON object.'

/** The largest page that models have. */
const EXPECTED_BYTES_MAX = 16 * 2 ** 20

export async function run(context: CommandContext): Promise<number> {
  const key = context.positionals[0]!
  const file = context.options.string('output')
  if (context.json && file === '-') throw new UsageError('--json and -o - both want stdout', 'Give -o a file.')
  if (!context.json && file === undefined && context.output.isTTY) {
    throw new UsageError('a page is binary, and stdout is a terminal', 'Use -o FILE, or -o - if you want it there.')
  }
  const outcome = await readPage(context, key)
  if (outcome.status === 'miss') {
    context.problem(`hicache-nixl: miss: ${printableKey(key)}: ${outcome.reason}`)
    if (context.json) await context.output.json({ key, status: 'miss', reason: outcome.reason })
    return ExitCode.wrong
  }
  if (!outcome.ok) throw outcome.error

  const { dtype, shape, data } = outcome.value
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  if (file !== undefined && file !== '-') await writeFile(file, bytes)
  if (context.json) {
    await context.output.json({ key, status: 'hit', bytes: bytes.byteLength, dtype, shape, verified: outcome.verified, file: file ?? null })
  } else if (file === undefined || file === '-') {
    await context.output.write(bytes)
  }
  const doubt = outcome.verified ? '' : ', not verified: nothing vouches for these bytes'
  context.note(`${printableKey(key)}: ${formatBytes(bytes.byteLength)}, ${describeTensor({ dtype, shape })}${doubt}`)
  return ExitCode.done
}

/** Where the page turns out to be larger than expected, the cache is opened again with room for it. */
async function readPage(context: CommandContext, key: string): Promise<ReadOutcome<Tensor>> {
  const read = async (cache: HiCacheNixl): Promise<ReadOutcome<Tensor>> => {
    const [outcome] = await cache.read([key], { signal: context.signal })
    if (outcome === undefined) throw new Error(`no outcome for ${key}`)
    return outcome
  }
  const first = await context.withCache(async (cache) => {
    const outcome = await read(cache)
    return outcome.status === 'rejected' ? { outcome, info: await cache.stat(key) } : { outcome, info: null }
  }, smallCache(context.options, EXPECTED_BYTES_MAX))
  return first.info === null ? first.outcome : await context.withCache(read, smallCache(context.options, first.info.bytes))
}
