import { NixlBackendConfig } from '../../config/nixl-backend-config.js'
import type { HiCacheNixl, OpenOptions } from '../../index.js'
import type { CommandContext, OptionSpecs } from '../command.js'
import { formatBytes, formatCount, formatDuration, formatMicroseconds, parseBytes } from '../format.js'
import { configInput } from '../config-input.js'
import { asksForObjects } from '../object-selection.js'
import { STORE_OPTIONS } from '../store-options.js'
import { POLICY_NAMES, SIMULATED_POLICY_NAMES, type SimulatedPolicyName } from '../../storage/policies/policies.js'
import { table } from '../style.js'
import { suggest } from '../suggest.js'
import { UsageError } from '../usage-error.js'
import { LatencySamples, type LatencySummary } from '../workload/latency-samples.js'
import { ReplayTotals } from '../workload/replay-totals.js'
import { simulatePolicies, type SimulationResult } from '../workload/simulation.js'
import { replayArenaBytes, TraceReplay } from '../workload/trace-replay.js'
import { TraceReader, type TraceSummary } from '../workload/trace-reader.js'
import { makeWorkPlace } from '../workload/make-work-place.js'
import type { WorkPlace } from '../workload/work-place.js'

export const name = 'replay'
export const summary = 'Play a trace of requests and check every byte read'
export const usage = 'FILE'
export const positionals = [1, 1] as const

export const options: OptionSpecs = {
  ...STORE_OPTIONS,
  'model-name': { type: 'string', value: 'NAME', help: 'Model name of the pages. Default: replay.' },
  dir: { type: 'string', value: 'DIR', help: 'Work in exactly this directory, instead of in a fresh one inside --storage-dir.' },
  'page-bytes': { type: 'string', value: 'SIZE', help: 'Bytes of a page, a multiple of 4096. Default: 64KiB.' },
  limit: { type: 'string', value: 'N', help: 'Play the first N requests only.' },
  capacity: { type: 'string', value: 'SIZE', help: 'Bytes that the pages may take, or a share of the distinct pages: 5%. With --simulate several, with commas. Default: no limit.' },
  policy: {
    type: 'string', value: 'NAME',
    help: `What goes when the capacity is reached: ${POLICY_NAMES.join(' or ')}; with --simulate ${SIMULATED_POLICY_NAMES.slice(POLICY_NAMES.length).join(', ')} too, several with commas, or all. Default: ${POLICY_NAMES[0]}.`,
  },
  simulate: { type: 'boolean', help: 'Count hits without storing anything: what each --policy would do with each --capacity.' },
  'in-flight': { type: 'string', value: 'N', help: 'Requests played at once, 1 to 64. Default: 4. The hits do not depend on it.' },
  keep: { type: 'boolean', help: 'Leave the pages where they are at the end.' },
}

export const details = `FILE has one JSON object a line with "hash_ids", the ids of a prompt's blocks; every id is one page. For each request the leading run of pages \
that are there is looked up and read, every byte of it is compared with what belongs there, and all other pages of the request are written. A hit is a page of \
the leading run that was read back right; the hit rate is hits over all ids.

Latencies are those of one call: the lookup of a request, a read or a write of up to 128 pages. Making and comparing contents is outside of them, but inside the seconds.

On an object store (--plugin obj) the pages go below a prefix of this run, .hicache-replay-*, which is emptied at the end.

Ends with 1 when a byte was wrong or a page failed. A page that the cache itself refuses as corrupt is a miss, and is reported as one.`

const MODEL_NAME = 'replay'
const NOT_ON_OBJECTS: Readonly<Record<string, string>> = {
  capacity: 'nothing here makes room in a bucket; give it a quota or a lifecycle rule at the server (--simulate counts the hits of a capacity)',
  policy: 'nothing here gives up pages of a bucket (--simulate counts the hits of a policy)',
  dir: 'objects go below a prefix of this run, in the bucket of the configuration; --object-prefix says what stands before it',
}
const DEFAULT_PAGE_BYTES = 65536
const BLOCK_BYTES = 4096
const PAGE_BYTES_MAX = 256 * 2 ** 20
const ARENA_BYTES_MAX = 4 * 2 ** 30

/** A capacity as it was given, and the bytes that this is. */
interface Capacity { readonly given: string; readonly bytes: number }

interface Plan {
  readonly reader: TraceReader
  readonly trace: TraceSummary
  readonly pageBytes: number
  /** One, or with --simulate several. */
  readonly capacities: readonly Capacity[]
  readonly policies: readonly SimulatedPolicyName[]
  /** Bytes that the pages may take, where they are stored. */
  readonly capacity: number | undefined
  readonly requestsInFlight: number
}

interface Report {
  readonly totals: ReplayTotals
  readonly seconds: number
  /** NaN, in JSON null, where nothing was measured: a replay without a single hit reads nothing. */
  readonly latencyUs: { lookup: LatencySummary; read: LatencySummary; write: LatencySummary }
}

export async function run(context: CommandContext): Promise<number> {
  const plan = await makePlan(context)
  return context.options.flag('simulate') ? await simulate(context, plan) : await play(context, plan)
}

async function makePlan(context: CommandContext): Promise<Plan> {
  const given = context.options
  const pageBytes = given.bytes('page-bytes', { min: BLOCK_BYTES, max: PAGE_BYTES_MAX }) ?? DEFAULT_PAGE_BYTES
  if (pageBytes % BLOCK_BYTES !== 0) throw new UsageError(`option --page-bytes must be a multiple of ${BLOCK_BYTES}; found ${pageBytes}`)
  const policies = policiesOf(given.string('policy'))
  const capacityTexts = given.string('capacity')?.split(',').map(text => text.trim()) ?? []
  const requestsInFlight = given.integer('in-flight', { min: 1, max: 64 }) ?? 4
  const limit = given.integer('limit', { min: 1 })
  if (!given.flag('simulate')) {
    const simulatedOnly = policies.find(policy => !(POLICY_NAMES as readonly string[]).includes(policy))
    if (simulatedOnly !== undefined) throw new UsageError(`--policy ${simulatedOnly} works with --simulate only`, `A store has ${POLICY_NAMES.join(' and ')}.`)
    if (policies.length > 1 || capacityTexts.length > 1) throw new UsageError('several policies or capacities work with --simulate only', 'Add --simulate, or name one.')
    if (capacityTexts.length > 0 && given.string('config') !== undefined && !isOnObjects(context)) {
      throw new UsageError('--capacity and --config cannot be combined', 'Put the capacity into the configuration instead.')
    }
  }
  // Malformed sizes are refused before the trace is read.
  for (const text of capacityTexts) capacityOf(text, 1, pageBytes)
  const reader = new TraceReader(context.positionals[0]!, limit)
  // One pass without a cache finds malformed lines, and says how much space the pages need, before anything is written.
  const trace = await reader.summarise()
  const capacities = capacityTexts.map(text => ({ given: text, bytes: capacityOf(text, trace.distinctBlocks, pageBytes) }))
  return { reader, trace, pageBytes, capacities, policies, capacity: capacities[0]?.bytes, requestsInFlight }
}

/** Where no capacity works, its own reason is the better answer. */
function isOnObjects(context: CommandContext): boolean { return asksForObjects(NixlBackendConfig.load(configInput({ ...context, positionals: [] }, options))) }

function policiesOf(text: string | undefined): SimulatedPolicyName[] {
  if (text === undefined) return [POLICY_NAMES[0]]
  if (text === 'all') return [...SIMULATED_POLICY_NAMES]
  return text.split(',').map(part => {
    const name = part.trim()
    if ((SIMULATED_POLICY_NAMES as readonly string[]).includes(name)) return name as SimulatedPolicyName
    const near = suggest(name, SIMULATED_POLICY_NAMES)
    throw new UsageError(`option --policy must be all or of ${SIMULATED_POLICY_NAMES.join(', ')}; found "${name}"`, near === undefined ? undefined : `Did you mean ${near}?`)
  })
}

/** Bytes of `65536`, `1.5GiB`, or of `5%` of the distinct pages, in whole pages. */
function capacityOf(text: string, distinctBlocks: number, pageBytes: number): number {
  const share = /^(\d+(?:\.\d+)?)%$/.exec(text)
  const bytes = share === null ? parseBytes(text) : Math.max(1, Math.floor(Number(share[1]) / 100 * distinctBlocks)) * pageBytes
  if (bytes === undefined || !Number.isSafeInteger(bytes)) {
    throw new UsageError(`option --capacity must be a size in bytes (65536, 64KiB, 1.5GiB) or a share of the distinct pages (5%); found "${text}"`)
  }
  if (bytes < 1 || share !== null && Number(share[1]) === 0) throw new UsageError(`option --capacity must be at least 1; found ${text}`)
  return bytes
}

async function simulate(context: CommandContext, plan: Plan): Promise<number> {
  const capacities = plan.capacities.length > 0 ? plan.capacities : [{ given: 'no limit', bytes: Number.POSITIVE_INFINITY }]
  const progress = context.progress({ label: 'simulate', total: plan.policies.length * capacities.length, unit: 'runs' })
  let results: SimulationResult[]
  try {
    results = await simulatePolicies({
      reader: plan.reader, trace: plan.trace, policies: plan.policies, capacitiesPages: capacities.map(({ bytes }) => Math.floor(bytes / plan.pageBytes)),
      signal: context.signal, onRun: count => progress.update(count, ''),
    })
  } finally {
    progress.finish()
  }
  if (results.length > 1) {
    await showSimulations(context, plan, capacities, results)
    return 0
  }
  const [{ hits, evicted, seconds }] = results as [SimulationResult]
  const totals = new ReplayTotals()
  Object.assign(totals, { requests: plan.trace.requests, references: plan.trace.references, hits, evicted })
  const nothing = new LatencySamples().summary()
  await show(context, plan, { totals, seconds, latencyUs: { lookup: nothing, read: nothing, write: nothing } }, { simulated: true })
  return 0
}

/** Hit rates of several policies and capacities: one table, a row for each policy. */
async function showSimulations(context: CommandContext, plan: Plan, capacities: readonly Capacity[], results: readonly SimulationResult[]): Promise<void> {
  const { requests, references, distinctBlocks } = plan.trace
  const rateOf = (hits: number): number => references === 0 ? 0 : hits / references
  if (context.json) {
    await context.output.json({
      simulated: true, requests, references, distinctBlocks, pageBytes: plan.pageBytes,
      runs: results.map(({ policy, capacityPages, hits, evicted, seconds }, index) => {
        const { bytes } = capacities[index % capacities.length]!
        return { policy, capacity: Number.isFinite(bytes) ? bytes : null, capacityPages: Number.isFinite(bytes) ? capacityPages : null, hits, hitRate: rateOf(hits), evicted, seconds }
      }),
    })
    return
  }
  const { style } = context
  const best = capacities.map((_, column) => Math.max(...results.filter(({ policy }, index) => index % capacities.length === column && policy !== 'clairvoyant').map(({ hits }) => hits)))
  const rows = [['', ...capacities.map(({ given }) => given)]]
  for (let start = 0; start < results.length; start += capacities.length) {
    rows.push([results[start]!.policy, ...results.slice(start, start + capacities.length).map(({ hits }, column) => {
      const rate = rateOf(hits).toFixed(4)
      return hits === best[column] ? style.bold(rate) : rate
    })])
  }
  const head = `${formatCount(requests)} requests, ${formatCount(references)} references to ${formatCount(distinctBlocks)} pages of ${formatBytes(plan.pageBytes)}`
  await context.output.write(`${style.bold('Hit rates, simulated; nothing was stored')}\n  ${style.dim(head)}\n${table(rows, `l${'r'.repeat(capacities.length)}`, '  ')}`)
}

async function play(context: CommandContext, plan: Plan): Promise<number> {
  const given = context.options
  const env = context.env.SGLANG_HICACHE_NIXL_BACKEND_STORAGE_DIR
  const parents = given.strings('storage-dir').length > 0 ? given.strings('storage-dir') : env === undefined || env === '' ? [] : [env]
  const place = await makeWorkPlace(context, { specs: options, name: 'hicache-replay', directory: { exact: given.string('dir'), parents }, notOnObjects: NOT_ON_OBJECTS })
  const keep = given.flag('keep')
  try {
    const all = plan.trace.distinctBlocks * (plan.pageBytes + BLOCK_BYTES)
    const inFlight = replayArenaBytes(plan.pageBytes, plan.requestsInFlight)
    await place.requireSpace(Math.min(all, (plan.capacity ?? Number.POSITIVE_INFINITY) + inFlight), `the replay of ${formatCount(plan.trace.distinctBlocks)} pages`)
    const extra: Partial<OpenOptions> = {
      ...place.open,
      modelName: given.string('model-name') ?? MODEL_NAME,
      // Room for the buffers of all requests in flight, and as much again for the cache's own use.
      arenaBytes: Math.min(ARENA_BYTES_MAX, Math.max(64 * 2 ** 20, inFlight * 2)),
      // The first two are for segments, the cleaner is for page files: which it will be is known when the cache is open.
      ...(plan.capacity === undefined ? {} : {
        ...(given.string('storage-layout') === 'file' ? {} : { capacity: plan.capacity, evictionPolicy: plan.policies[0]! as 'prefix-aware' | 'lru' }),
        config: { l3_cleaner_enabled: true, l3_cleaner_capacity_gb: plan.capacity / 2 ** 30, l3_cleaner_high_watermark: 95, l3_cleaner_low_watermark: 90 }
      }),
    }
    return await context.withCache(async cache => await playOn(cache, context, plan, place, keep), extra)
  } finally {
    try {
      if (!keep) await place.remove()
      else context.note(`The pages are in ${place.paths.join(', ')}.`)
    } finally {
      place.close()
    }
  }
}

async function playOn(cache: HiCacheNixl, context: CommandContext, plan: Plan, place: WorkPlace, keep: boolean): Promise<number> {
  const progress = context.progress({ label: 'replay', total: plan.trace.references, unit: 'pages' })
  const replay = new TraceReplay({
    cache, pageBytes: plan.pageBytes, requestsInFlight: plan.requestsInFlight, signal: context.signal,
    // Above 95 % the cleaner makes room down to 90 %; looking after every 5 % keeps the pages within the capacity.
    ...(plan.capacity === undefined || cache.storageLayout === 'segment' ? {} : { collectEveryBytes: plan.capacity / 20 * plan.pageBytes / (plan.pageBytes + BLOCK_BYTES) }),
    onRequest: ({ references, hits }) => progress.update(references, `hit rate ${percent(hits, references)}`),
  })
  const started = performance.now()
  let seconds: number
  try {
    await replay.run(plan.reader.requests())
  } finally {
    seconds = (performance.now() - started) / 1000
    progress.finish()
    // A fresh place goes as a whole. In a given one only the pages of this run go, one by one.
    if (!keep && !place.fresh) await removePages(cache, replay.storedIds)
  }
  const latencyUs = { lookup: replay.lookup.summary(), read: replay.read.summary(), write: replay.write.summary() }
  // Page files know no policy but the cleaner's: longest unread first.
  const policy = cache.storageLayout === 'segment' ? plan.policies[0]! : 'lru'
  if (cache.storageLayout === 'segment') replay.totals.evicted = cache.stats().segment_evicted_pages ?? 0
  const report: Report = { totals: replay.totals, seconds, latencyUs }
  const { plugin, engine } = cache.selection
  await show(context, { ...plan, policies: [policy] }, report, { simulated: false, plugin, engine, storageLayout: cache.storageLayout, directories: place.paths })
  return replay.totals.wrongBytes > 0 || replay.totals.failures > 0 ? 1 : 0
}

async function removePages(cache: HiCacheNixl, ids: ReadonlySet<number>): Promise<void> {
  const all = [...ids]
  for (let start = 0; start < all.length; start += 1024) {
    await Promise.all(all.slice(start, start + 1024).map(async id => await cache.delete(TraceReplay.key(id))))
  }
}

function percent(part: number, whole: number): string { return whole === 0 ? '-' : `${(part / whole * 100).toFixed(1)} %` }

async function show(context: CommandContext, plan: Plan, report: Report, more: Record<string, unknown>): Promise<void> {
  const { totals, seconds, latencyUs } = report
  const hitRate = totals.references === 0 ? 0 : totals.hits / totals.references
  if (context.json) {
    await context.output.json({
      requests: totals.requests, references: totals.references, hits: totals.hits, hitRate, wrongBytes: totals.wrongBytes, failures: totals.failures,
      bytesRead: totals.bytesRead, bytesWritten: totals.bytesWritten, seconds, latencyUs,
      pageBytes: plan.pageBytes, distinctBlocks: plan.trace.distinctBlocks, capacity: plan.capacity ?? null, policy: plan.capacity === undefined ? null : plan.policies[0],
      stored: totals.stored, alreadyThere: totals.alreadyThere, evicted: totals.evicted, missReasons: totals.missReasons, errors: totals.errors, ...more,
    })
    return
  }
  const { style } = context
  const simulated = more.simulated === true
  const verdict = (count: number, unit: string): string => count === 0 ? style.green(`0${unit}`) : style.red(style.bold(`${formatCount(count)}${unit}`))
  const rate = (bytes: number): string => `${formatBytes(bytes)}  ${style.dim(`(${formatBytes(bytes / seconds)}/s over the whole run)`)}`
  const rows: string[][] = [
    ['requests', formatCount(totals.requests)],
    ['pages', `${formatCount(totals.references)} references to ${formatCount(plan.trace.distinctBlocks)} pages of ${formatBytes(plan.pageBytes)}`],
    ['capacity', plan.capacity === undefined ? 'no limit' : `${formatBytes(plan.capacity)}, ${plan.policies[0]!}`],
    ['hits', `${formatCount(totals.hits)}  ${style.bold(percent(totals.hits, totals.references))}`],
  ]
  if (simulated) {
    rows.push(['evicted', formatCount(totals.evicted)], ['time', formatDuration(seconds)])
    await context.output.write(`${style.bold('Simulated, nothing was stored')}\n${table(rows, 'll', '  ')}`)
    return
  }
  rows.push(
    ['wrong bytes', verdict(totals.wrongBytes, '')],
    ['failures', verdict(totals.failures, '')],
    ['read', rate(totals.bytesRead)],
    ['written', rate(totals.bytesWritten)],
    ['found already', `${formatCount(totals.alreadyThere)} pages behind a miss`],
    ...(plan.capacity === undefined ? [] : [['evicted', `${formatCount(totals.evicted)} pages`]]),
    ['time', formatDuration(seconds)],
  )
  const reasons = Object.entries(totals.missReasons)
  if (reasons.length > 0) rows.push(['refused', style.yellow(reasons.map(([reason, count]) => `${formatCount(count)} ${reason}`).join(', '))])
  const calls: [string, LatencySummary][] = [['lookup', latencyUs.lookup], ['read', latencyUs.read], ['write', latencyUs.write]]
  const cells = (latency: LatencySummary): string[] => [latency.p50, latency.p99, latency.max].map(formatMicroseconds)
  const times = [['per call', 'p50', 'p99', 'max'].map(cell => style.dim(cell)), ...calls.map(([call, latency]) => [call, ...cells(latency)])]
  await context.output.write(`${style.bold(`Replay on ${more.plugin as string}, engine ${more.engine as string}`)}\n${table(rows, 'll', '  ')}\n${table(times, 'lrrr', '  ')}`)
  for (const error of totals.errors) await context.output.line(`  ${style.red('error')}  ${error}`)
}
