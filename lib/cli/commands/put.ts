import { open } from 'node:fs/promises'
import { addAbortSignal, type Readable } from 'node:stream'
import { ExitCode, type CommandContext } from '../command.js'
import type { DType, Source } from '../../index.js'
import { DTYPES } from '../../memory/dtype.js'
import { formatBytes } from '../format.js'
import { printableKey } from '../page-info.js'
import { smallCache } from '../small-cache.js'
import { IDENTITY_OPTIONS, STORE_OPTIONS } from '../store-options.js'
import { UsageError } from '../usage-error.js'

export const name = 'put'
export const summary = 'Store a page from a file or stdin'
export const usage = 'KEY [FILE|-]'
export const positionals = [1, 2] as const
export const options = {
  dtype: { type: 'string', value: 'DTYPE', choices: Object.keys(DTYPES), help: `Element type to store with the page: ${Object.keys(DTYPES).join(', ')}. Default: plain bytes.` },
  shape: { type: 'string', value: 'N,N,...', help: 'Shape to store with the page; needs --dtype. Default: one dimension.' },
  ...STORE_OPTIONS, ...IDENTITY_OPTIONS,
} as const
export const details = 'Reads stdin without FILE or with "-". A key that holds the same page already is left alone ("already-there").'

/** The largest page; far above any real one, and a bound on what a wrong file name can make this read. */
const PAGE_BYTES_MAX = 2 ** 30

export async function run(context: CommandContext): Promise<number> {
  const [key, file = '-'] = context.positionals as [string, string?]
  const shape = parseShape(context.options.string('shape'))
  const dtype = context.options.string('dtype') as DType | undefined
  if (shape !== undefined && dtype === undefined) throw new UsageError('option --shape needs --dtype')
  const bytes = file === '-' ? await readAll(context.stdin, context.signal) : await readFile(file)
  const source = sourceOf(bytes, dtype, shape)

  return await context.withCache(async (cache) => {
    const [outcome] = await cache.write([[key, source]], { signal: context.signal })
    if (outcome?.ok !== true) throw outcome?.error ?? new Error(`no outcome for ${key}`)
    if (context.json) await context.output.json({ key, status: outcome.status, bytes: outcome.byteLength, dtype: dtype ?? 'uint8', shape: shape ?? [bytes.byteLength / DTYPES[dtype ?? 'uint8'].bytes] })
    else context.note(`${printableKey(key)}: ${outcome.status}, ${formatBytes(outcome.byteLength)}`)
    return ExitCode.done
  }, smallCache(context.options, bytes.byteLength))
}

function parseShape(text: string | undefined): number[] | undefined {
  if (text === undefined) return undefined
  const shape = text.split(',').map((part) => /^\d+$/.test(part.trim()) ? Number(part) : NaN)
  if (shape.some((size) => !Number.isSafeInteger(size) || size < 1)) throw new UsageError(`option --shape must be whole numbers above 0 with commas; found "${text}"`)
  return shape
}

function sourceOf(bytes: Uint8Array, dtype: DType | undefined, shape: number[] | undefined): Source {
  if (dtype === undefined) return bytes
  const size = DTYPES[dtype].bytes
  if (bytes.byteLength % size !== 0) throw new UsageError(`${bytes.byteLength} bytes are no whole number of ${dtype} elements (${size} bytes each)`)
  const elements = bytes.byteLength / size
  const wanted = shape?.reduce((product, length) => product * length, 1) ?? elements
  if (wanted !== elements) throw new UsageError(`shape ${shape!.join(',')} of ${dtype} takes ${wanted * size} bytes; found ${bytes.byteLength}`)
  return { dtype, shape: shape ?? [elements], data: bytes }
}

async function readFile(path: string): Promise<Uint8Array> {
  try {
    const handle = await open(path)
    try {
      const { size } = await handle.stat()
      if (size > PAGE_BYTES_MAX) throw new UsageError(`${path} has ${formatBytes(size)}; a page has at most ${formatBytes(PAGE_BYTES_MAX)}`)
      return await handle.readFile()
    } finally {
      await handle.close()
    }
  } catch (error) {
    throw error instanceof UsageError ? error : new UsageError(`cannot read ${path}: ${(error as Error).message}`)
  }
}

async function readAll(stream: Readable, signal: AbortSignal): Promise<Uint8Array> {
  const chunks: Buffer[] = []
  let total = 0
  // Reading is all that happens until the end of stdin: an interrupt has to end it.
  for await (const chunk of addAbortSignal(signal, stream)) {
    const buffer = chunk as Buffer
    total += buffer.byteLength
    if (total > PAGE_BYTES_MAX) throw new UsageError(`stdin has more than ${formatBytes(PAGE_BYTES_MAX)}, the most that a page has`)
    chunks.push(buffer)
  }
  return Buffer.concat(chunks)
}
