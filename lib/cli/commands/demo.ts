import { open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { HiCacheError } from '../../error.js'
import { pageHashes, type HiCacheNixl, type OpenOptions, type Tensor } from '../../index.js'
import { BLOCK_BYTES } from '../../transfer/protocol.js'
import type { CommandContext, OptionSpecs } from '../command.js'
import { formatBytes, formatCount } from '../format.js'
import { STORE_OPTIONS } from '../store-options.js'
import { table } from '../style.js'
import { ChatWorkload, type ChatTurn } from '../workload/chat-workload.js'
import { PageContent } from '../workload/page-content.js'
import { makeWorkPlace } from '../workload/make-work-place.js'
import type { WorkPlace } from '../workload/work-place.js'
import { WorkPrefix } from '../workload/work-prefix.js'

export const name = 'demo'
export const summary = 'Play a small multi-turn workload and show what the cache does'
export const usage = ''

export const options: OptionSpecs = {
  ...STORE_OPTIONS,
  keep: { type: 'boolean', help: 'Leave the pages where they are at the end.' },
}

export const details = `Three users chat with one model; their prompts share a system prompt and grow from turn to turn. Keys come from real token ids by page hashes, \
tensors have the shape of a small model's KV cache; their values are made up, but every byte read back is compared. Then the cache is closed and opened again, \
and one byte of a stored page is flipped to see it refused. Everything happens in a fresh directory inside --storage-dir (default: the system's temporary one), \
which is removed at the end; on an object store (--plugin obj) below a prefix of this run, .hicache-demo-*.

Ends with 1 when anything was not as it should be.`

const USERS = ['ada', 'grace', 'linus'] as const
const TURNS = 4
const PAGE_TOKENS = 64
/** Keys and values, layers, tokens of a page, heads, values of a head. */
const SHAPE = [2, 8, PAGE_TOKENS, 4, 64] as const
const PAGE_BYTES = SHAPE.reduce((product, length) => product * length, 1) * 2

interface TurnReport {
  readonly turn: number
  readonly user: string
  readonly promptTokens: number
  readonly pages: number
  readonly hits: number
  readonly misses: number
  readonly lookupMs: number
  readonly bytesRead: number
  readonly readMs: number
  readonly stored: number
  readonly bytesWritten: number
  readonly writeMs: number
}

/** What went wrong, in words; the demo goes on to show the rest. */
interface Findings { wrongBytes: number; readonly problems: string[] }

export async function run(context: CommandContext): Promise<number> {
  const { style, output, json } = context
  const say = async (text: string): Promise<void> => { if (!json) await output.write(text) }
  const started = performance.now()
  const place = await makeWorkPlace(context, { specs: options, name: 'hicache-demo', directory: { exact: undefined, parents: context.options.strings('storage-dir') }, notOnObjects: {} })
  const keep = context.options.flag('keep')
  try {
    const extra: Partial<OpenOptions> = { ...place.open, modelName: 'demo' }
    const turns = [...new ChatWorkload({ users: USERS, turns: TURNS, systemTokens: 8 * PAGE_TOKENS }).turns()]
    const keys = [...new Set(turns.flatMap(({ whole }) => pageHashes(whole, { pageTokens: PAGE_TOKENS })))]
    await place.requireSpace(2 * keys.length * PAGE_BYTES, 'the demo')
    const findings: Findings = { wrongBytes: 0, problems: [] }

    await say(`${style.bold(`${USERS.length} users chat with one model, ${TURNS} turns each`)}\n`)
    const openStarted = performance.now()
    const chat = await context.withCache(async cache => {
      const { plugin, engine, agent, source } = cache.selection
      // The first request waits for the worker threads: that is a start's time, not a look-up's.
      await cache.exists(keys[0]!)
      const startMs = performance.now() - openStarted
      await say(table([
        ['start', `${startMs.toFixed(0)} ms until the first answer ${style.dim('(worker threads, native agents)')}`],
        ['plugin', `${plugin}, engine ${engine}, ${agent} agent ${style.dim(`(${source})`)}`],
        ['store', `${place.paths.join(', ')} ${style.dim(keep ? '(kept)' : '(removed at the end)')}`],
        ['page', `${PAGE_TOKENS} tokens = ${formatBytes(PAGE_BYTES)} of float16 [${SHAPE.join(', ')}]`],
      ], 'll', '  ') + '\n')
      const reports: TurnReport[] = []
      for (const turn of turns) {
        context.signal.throwIfAborted()
        reports.push(await playTurn(cache, turn, findings))
      }
      await say(turnTable(context, reports) + '\n')
      return { selected: { plugin, engine, agent, source }, startMs, reports, stats: cache.stats() }
    }, extra)

    const later = await context.withCache(async cache => {
      const restart = await afterRestart(cache, keys, turns.at(-1)!, findings)
      const corruption = await flipOneByte(cache, place, keys[0]!, findings)
      return { restart, corruption, health: cache.health() }
    }, extra)

    const read = sum(chat.reports, report => report.bytesRead)
    const reusedTokens = sum(chat.reports, report => report.hits) * PAGE_TOKENS
    const promptTokens = sum(chat.reports, report => report.promptTokens)
    const readMs = sum(chat.reports, report => report.readMs)
    const lookupMs = sum(chat.reports, report => report.lookupMs)
    const written = sum(chat.reports, report => report.bytesWritten)
    const writeMs = sum(chat.reports, report => report.writeMs)
    const good = findings.problems.length === 0 && findings.wrongBytes === 0
    if (json) {
      await output.json({
        ok: good, selected: chat.selected, directories: place.paths, pageBytes: PAGE_BYTES, startMs: chat.startMs, turns: chat.reports,
        totals: { promptTokens, reusedTokens, lookupMs, bytesRead: read, readMs, bytesWritten: written, writeMs, wrongBytes: findings.wrongBytes },
        restart: later.restart, corruption: later.corruption, problems: findings.problems, health: later.health, stats: chat.stats,
      })
      return good ? 0 : 1
    }
    const mark = (fine: boolean): string => style.mark(fine ? 'ok' : 'fail')
    const { restart, corruption } = later
    await say(table([
      [mark(reusedTokens > 0), `${formatCount(reusedTokens)} of ${formatCount(promptTokens)} prompt tokens (${(reusedTokens / promptTokens * 100).toFixed(1)} %) needed no prefill: ` +
        `looked up in ${lookupMs.toFixed(0)} ms, ${formatBytes(read)} read in ${readMs.toFixed(0)} ms, ${formatBytes(written)} written in ${writeMs.toFixed(0)} ms ${style.dim('(measured)')}`],
      [mark(findings.wrongBytes === 0), `every byte read was compared: ${formatCount(findings.wrongBytes)} wrong`],
      [mark(restart.found === restart.pages), `closed and opened again: ${restart.found} of ${restart.pages} pages are there, the last prompt read back in ${restart.readMs.toFixed(1)} ms`],
      [mark(corruption.reason === 'corrupt' && corruption.healed), `one byte of ${corruption.file} flipped: the page is ` +
        (corruption.reason === null ? 'read as if nothing had happened' : `a miss (${corruption.reason})`) +
        (corruption.healed ? ', and good again after storing it again' : ', and storing it again did not help')],
    ], '', '  '))
    for (const problem of findings.problems) await say(`  ${style.mark('fail')}  ${problem}\n`)
    await say('\n' + style.dim('Nothing computes attention here: how long the saved prefill would have taken depends on your model and GPU, so no such figure is shown.') + '\n')
    await say(style.dim(`Done in ${((performance.now() - started) / 1000).toFixed(1)} s.`) + '\n')
    return good ? 0 : 1
  } finally {
    try {
      if (keep) context.note(`The pages are in ${place.paths.join(', ')}.`)
      else await place.remove()
    } finally {
      place.close()
    }
  }
}

/** A request as an inference service has it: look the prefix up, read it, compute the rest, store the rest. */
async function playTurn(cache: HiCacheNixl, { turn, user, prompt, whole }: ChatTurn, findings: Findings): Promise<TurnReport> {
  const promptKeys = pageHashes(prompt, { pageTokens: PAGE_TOKENS })
  const keys = pageHashes(whole, { pageTokens: PAGE_TOKENS })

  const lookupStarted = performance.now()
  const run = await cache.batchExists(promptKeys)
  const lookupMs = performance.now() - lookupStarted
  const readStarted = performance.now()
  const outcomes = run === 0 ? [] : await cache.read(promptKeys.slice(0, run))
  const readMs = performance.now() - readStarted
  let hits = 0
  for (const outcome of outcomes) {
    if (!outcome.ok) break
    const wrong = wrongBytes(outcome.value, outcome.key)
    findings.wrongBytes += wrong
    if (wrong > 0) break
    hits++
  }
  if (hits < run) findings.problems.push(`turn ${turn} of ${user}: ${run} pages were there, ${hits} of them could be read`)

  const rest = keys.slice(hits).map(key => [key, pageTensor(key)] as const)
  const writeStarted = performance.now()
  const written = await cache.write(rest)
  const writeMs = performance.now() - writeStarted
  for (const outcome of written) if (!outcome.ok) findings.problems.push(`turn ${turn} of ${user}: ${outcome.error.message}`)
  const stored = written.filter(outcome => outcome.status === 'stored').length
  return {
    turn, user, promptTokens: prompt.length, pages: promptKeys.length, hits, misses: promptKeys.length - hits, lookupMs, bytesRead: hits * PAGE_BYTES, readMs,
    stored, bytesWritten: stored * PAGE_BYTES, writeMs,
  }
}

async function afterRestart(cache: HiCacheNixl, keys: readonly string[], last: ChatTurn, findings: Findings): Promise<{ pages: number; found: number; readMs: number }> {
  const there = await Promise.all(keys.map(async key => await cache.exists(key)))
  const found = there.filter(Boolean).length
  if (found < keys.length) findings.problems.push(`after the restart ${keys.length - found} of ${keys.length} pages are gone`)
  const prompt = pageHashes(last.prompt, { pageTokens: PAGE_TOKENS })
  const started = performance.now()
  const outcomes = await cache.read(prompt)
  const readMs = performance.now() - started
  for (const outcome of outcomes) {
    if (outcome.ok) findings.wrongBytes += wrongBytes(outcome.value, outcome.key)
    else findings.problems.push(`after the restart the page ${outcome.key} could not be read (${outcome.status})`)
  }
  return { pages: keys.length, found, readMs }
}

/** Alters one stored byte behind the cache's back. `reason` is the miss that a read then answers, null when it took the page for good. */
async function flipOneByte(
  cache: HiCacheNixl, place: WorkPlace, key: string, findings: Findings,
): Promise<{ file: string; reason: string | null; healed: boolean }> {
  const shortName = place instanceof WorkPrefix ? await flipInObject(place, (await cache.stat(key))?.storedKey ?? key) : await flipInFile(place.paths, key)
  const [outcome] = await cache.read([key])
  const reason = outcome!.ok ? null : outcome!.status === 'miss' ? outcome!.reason : outcome!.status
  if (reason !== 'corrupt') findings.problems.push(`a page with a flipped byte was answered with ${reason ?? 'a hit'}, where a miss (corrupt) belongs`)
  await cache.set(key, pageTensor(key))
  const again = await cache.get(key)
  const healed = again !== null && wrongBytes(again, key) === 0
  if (!healed) findings.problems.push('the corrupt page could not be stored again')
  return { file: shortName, reason, healed }
}

/** Answers what it is called. */
async function flipInFile(directories: readonly string[], key: string): Promise<string> {
  const { file, name: shortName, offset } = await findPage(directories, key)
  const handle = await open(file, 'r+')
  try {
    const byte = Buffer.alloc(1)
    const at = offset + (PAGE_BYTES >> 1)
    await handle.read(byte, 0, 1, at)
    byte[0]! ^= 1
    await handle.write(byte, 0, 1, at)
    await handle.sync()
  } finally {
    await handle.close()
  }
  return shortName
}

/** The object is stored again with the metadata that it had, as a server would that lost a bit. */
async function flipInObject({ bucket, prefix }: WorkPrefix, storedKey: string): Promise<string> {
  const key = prefix + storedKey
  const timeoutMs = 10_000
  const { headers, body } = await bucket.request({ method: 'GET', key, timeoutMs }, 'Reading an object of the demo')
  const bytes = Buffer.from(body)
  bytes[PAGE_BYTES >> 1]! ^= 1
  const metadata = Object.fromEntries(Object.entries(headers).filter(([header]) => header.startsWith('x-amz-meta-')))
  await bucket.request({ method: 'PUT', key, headers: metadata, body: bytes, timeoutMs }, 'Altering an object of the demo')
  return `object ${storedKey.slice(0, 12)}…`
}

/** Where a page lies: in a file of its own, whose name holds its key, or as an extent of a segment, known by its first bytes. */
async function findPage(directories: readonly string[], key: string): Promise<{ file: string; name: string; offset: number }> {
  const { data } = pageTensor(key)
  const beginning = Buffer.from(data.buffer, data.byteOffset, BLOCK_BYTES)
  for (const directory of directories) {
    for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue
      const file = join(entry.parentPath, entry.name)
      if (entry.name.includes(key)) return { file, name: `${entry.name.slice(0, 12)}…`, offset: 0 }
      const offset = entry.name.endsWith('.data') ? await offsetOf(file, beginning) : -1
      if (offset >= 0) return { file, name: `segment ${entry.name.slice(0, 8)}`, offset }
    }
  }
  throw new HiCacheError('ERR_IO', `no file below ${directories.join(', ')} holds the page ${key}`, { key })
}

/** Where `beginning` stands in a file, at a multiple of its own length; -1 = nowhere. */
async function offsetOf(file: string, beginning: Buffer): Promise<number> {
  const handle = await open(file, 'r')
  try {
    const part = Buffer.alloc(256 * BLOCK_BYTES)
    for (let at = 0; ; at += part.length) {
      const { bytesRead } = await handle.read(part, 0, part.length, at)
      for (let i = 0; i + BLOCK_BYTES <= bytesRead; i += BLOCK_BYTES) if (part.compare(beginning, 0, BLOCK_BYTES, i, i + BLOCK_BYTES) === 0) return at + i
      if (bytesRead < part.length) return -1
    }
  } finally {
    await handle.close()
  }
}

const content = new PageContent(PAGE_BYTES)

/** Contents follow from the key. 48 bits of it keep the pages apart. */
function contentId(key: string): number { return Number.parseInt(key.slice(0, 12), 16) }

function pageTensor(key: string): Tensor {
  const data = new Uint16Array(PAGE_BYTES / 2)
  content.fill(new Uint8Array(data.buffer), contentId(key))
  return { dtype: 'float16', shape: SHAPE, data }
}

function wrongBytes({ dtype, shape, data }: Tensor, key: string): number {
  if (dtype !== 'float16' || shape.length !== SHAPE.length || shape.some((length, index) => length !== SHAPE[index])) return PAGE_BYTES
  return content.wrongBytes(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), contentId(key))
}

function sum(reports: readonly TurnReport[], of: (report: TurnReport) => number): number {
  return reports.reduce((total, report) => total + of(report), 0)
}

function turnTable({ style }: CommandContext, reports: readonly TurnReport[]): string {
  const head = ['turn', 'user', 'prompt', 'pages', 'looked up', 'hits', 'read', '', 'misses', 'stored', ''].map(cell => style.dim(cell))
  const rows = reports.map(report => [
    String(report.turn), report.user, `${formatCount(report.promptTokens)} tokens`, String(report.pages), `${report.lookupMs.toFixed(1)} ms`,
    report.hits > 0 ? style.green(String(report.hits)) : '0', report.hits > 0 ? formatBytes(report.bytesRead) : '-', report.hits > 0 ? `${report.readMs.toFixed(1)} ms` : '-',
    String(report.misses), `${report.stored} pages`, `${report.writeMs.toFixed(1)} ms`,
  ])
  return table([head, ...rows], 'llrrrrrrrrr', '  ')
}
