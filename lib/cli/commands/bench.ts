import { cpus, release, totalmem } from 'node:os'
import type { NativeAddon, DirectoryReport } from '../../transfer/native-binding.js'
import { loadAddon } from '../../transfer/load-addon.js'
import { NixlBackendConfig } from '../../config/nixl-backend-config.js'
import { ExitCode, type CommandContext, type OptionSpecs } from '../command.js'
import { configInput } from '../config-input.js'
import { formatBytes } from '../format.js'
import { selectsObjects } from '../object-selection.js'
import { STORE_OPTIONS } from '../store-options.js'
import { table } from '../style.js'
import { peerSteps } from '../workload/bench-arm.js'
import { BenchPlan } from '../workload/bench-plan.js'
import { emptyReport } from '../workload/bench-report.js'
import { benchObjects } from '../workload/bench-objects.js'
import { BenchTables } from '../workload/bench-tables.js'
import { ChurnBench } from '../workload/churn-bench.js'
import { PageSizeBench } from '../workload/page-size-bench.js'
import { WorkDirectory } from '../workload/work-directory.js'

export const name = 'bench'
export const summary = 'Measure the store beside the limit of its device'
export const usage = ''

export const options: OptionSpecs = {
  ...STORE_OPTIONS,
  layout: { type: 'string', value: 'LIST', help: 'Layouts, with commas between: file, segment. Default: that of --storage-layout, else segment.' },
  engine: { type: 'string', value: 'LIST', help: 'Engines, with commas between: auto, io_uring, aio, posix_aio. Default: auto, which is what the configuration says.' },
  workers: { type: 'string', value: 'LIST', help: 'Worker threads, with commas between, 1 to 64 each. Default: 2.' },
  capacity: { type: 'string', value: 'SIZE', help: 'Bytes of a store of the segment layout. Default: twice what a round writes into it and reads from it.' },
  dir: { type: 'string', value: 'DIR', help: 'Work in exactly this directory, instead of in a fresh one inside --storage-dir.' },
  'page-bytes': { type: 'string', value: 'LIST', help: 'Page sizes, with commas between. Default: 64k,1m; on an object store 64k,4m.' },
  batch: { type: 'string', value: 'LIST', help: 'Pages of one call, with commas between. Default: 32 MiB worth of pages, at most 128; on an object store 16, and one number.' },
  'in-flight': { type: 'string', value: 'N', help: 'Calls at once, 1 to 64. Default: 3; on an object store as many as make 64 pages.' },
  ops: { type: 'string', value: 'LIST', help: 'write, read, set, get, one-batch, mix, lookup, churn; see below; on an object store write, read, set, get. Default: write,read.' },
  rounds: { type: 'string', value: 'N', help: 'Measured rounds. Default: 3; one more comes first, unmeasured.' },
  bytes: { type: 'string', value: 'SIZE', help: 'Bytes that each contestant moves in a round. Default: 128MiB, or three calls for each one in flight where that is more; 64MiB at most for fs, lmdb and loop.' },
  'write-load': { type: 'string', value: 'SIZE', help: 'mix: bytes that are being written at any time. Default: what the calls in flight hold. 0: none.' },
  'reads-in-flight': { type: 'string', value: 'N', help: 'mix: pages that are being read at any time, 1 to 256. Default: 4.' },
  lookups: { type: 'string', value: 'N', help: 'lookup: keys asked for in a round. Default: 1000000; each page once in the file layout.' },
  evictions: { type: 'string', value: 'N', help: 'churn: pages given up before the last pass. Default: 100000.' },
  threads: { type: 'string', value: 'N', help: 'Native threads of the store, of all workers together; the C++ loop runs on as many. Default: 16.' },
  'zero-copy': { type: 'boolean', help: 'Only arena memory as source and target.' },
  copying: { type: 'boolean', help: 'Only ordinary memory as source and target. Default: both.' },
  only: { type: 'string', value: 'LIST', help: 'Contestants: hicache, limit, loop, fs, lmdb, ring; on an object store hicache, loop, undici, aws-sdk. Default: all. Memory is told apart best with hicache alone.' },
  checksum: { type: 'string', value: 'LIST', help: 'Whether reads check the bytes of a page, with commas between: on, off. Writes always compute the checksum. Default: on.' },
  quick: { type: 'boolean', help: 'A try in a few seconds: 64 KiB pages, 2 rounds of 8 MiB. Not for figures.' },
}

export const details = `Every round runs each contestant once, in an order that changes from round to round: this package with arena memory (zero copy) and with ordinary memory, a store \
for each layout, engine, number of workers and checksum on or off; the device's limit (one native ring over one large file); a C++ loop that makes a file a page, on as many threads as the store has; fs.promises \
with a temporary name and a rename, with O_DIRECT and through the page cache; lmdb, where that package is installed, as it comes and without synchronisation. Figures are medians over the rounds; a \
ratio is the median of the rounds' own ratios, with the smallest and the largest beside it.

write and read move batches; set and get move single pages, a batch of them in one turn of the event loop; one-batch has one call in flight. mix reads single pages while batches are being \
written, beside a C++ ring (ring) that does the same. lookup asks batchExists() for page hashes. churn (segment layout) fills a store, passes over it once, evicts --evictions pages and \
passes over it again, the device's limit in between.

--checksum off opens a store whose reads do not compare a page with its checksum, which shows what checking costs (length and key are still compared); on,off measures \
reads of both, and writes once. Only this command can read so: no option of the library, no configuration and no variable leads there.

A store of the segment layout is filled once before the first round, so that all that is measured goes where other pages were; what is read there are pages that it keeps from the first round on. Every page that is read is looked at, a stamp of each and \
all bytes of the last ones; with --checksum off that alone tells a wrong one. Making contents, touching the memory and removing files (at the end, where there is room) are not timed. A page's time is that from handing it over \
until its outcome is known: pages of one batch share the time of the call. What is read through the page cache never meets the device.

With --plugin obj, or a configuration that selects it, the store is the configured bucket. Beside this package run a C++ loop over libcurl with signing of its own, and two clients in JavaScript, each where it is installed: \
undici with signing in node:crypto, and @aws-sdk/client-s3, both with as many connections as pages are under way (--batch times --in-flight). All objects lie below a prefix of this run, .hicache-nixl-bench-*, and are removed after every round and at the end.`

/** Records, folders, and what the file system itself takes. */
const SPACE_FACTOR = 1.15
/** What removes itself only at the end: contestants that keep pages beside those of this package. */
const PEER_STORES = { loop: 1, fs: 2, lmdb: 2 } as const

export async function run(context: CommandContext): Promise<number> {
  const config = NixlBackendConfig.load(configInput(context, options))
  const addon = loadAddon()
  return await selectsObjects(config, addon) ? await benchObjects(context, config, addon) : await benchDirectories(context, addon)
}

async function benchDirectories(context: CommandContext, addon: NativeAddon): Promise<number> {
  const given = context.options
  const plan = new BenchPlan(given)
  const directory = await WorkDirectory.make({ exact: given.string('dir'), parents: given.strings('storage-dir').slice(0, 1), prefix: 'hicache-bench-' })
  const where = directory.paths[0]!
  const started = performance.now()
  const folders = plan.pageBytes.flatMap(bytes => [`pages-${bytes}`, `churn-${bytes}`])
  try {
    const report = await addon.probeDirectory(where)
    const space = plan.pageBytes.map(bytes => spaceOf(plan, bytes))
    await directory.requireSpace(Math.max(...space.map(({ round, fixed, churn }) => Math.max(round + fixed, churn))), 'the benchmark')
    // ext4 leaves the numbers of removed files alone for minutes and, for every new file, looks through all it has to skip: removing pages between
    // rounds makes all contestants slower from round to round. So they stay, where there is room.
    const keep = space.reduce((sum, { round, fixed }) => sum + round * (plan.rounds + 1) + fixed, 0) < await directory.freeBytes() / 2

    const churns = plan.ops.includes('churn')
    const steps = plan.pageBytes.reduce((sum, pageBytes) => sum + PageSizeBench.steps(plan, pageBytes, report.direct) + (churns ? ChurnBench.steps(plan) : 0), 0)
    const progress = context.progress({ label: 'bench', total: steps, unit: 'steps' })
    const all = emptyReport()
    if (!context.json) await context.output.write(head(context, plan, report))
    try {
      for (const pageBytes of plan.pageBytes) {
        const about = { context, plan, bench: addon.bench, directory: where, direct: report.direct, pageBytes, progress, keep }
        if (plan.measured.size > 0) {
          const one = await new PageSizeBench(about).run()
          for (const part of ['runs', 'peers', 'lookups', 'leftOut'] as const) (all[part] as unknown[]).push(...one[part])
          if (!keep) await directory.empty(`pages-${pageBytes}`)
        }
        if (churns) {
          all.churn.push(...await new ChurnBench(about).run())
          await directory.empty(`churn-${pageBytes}`)
        }
      }
    } finally {
      progress.finish()
    }
    if (context.json) await context.output.json({ machine: machine(report, addon, plan, keep), ...all })
    else await context.output.write(new BenchTables(context.style, plan, all).text((performance.now() - started) / 1000))
    return ExitCode.done
  } finally {
    for (const folder of folders) await directory.empty(folder)
    await directory.remove()
  }
}

/** Bytes that pages of one size take: what every round adds, what is there once, and what churn takes afterwards. */
function spaceOf(plan: BenchPlan, pageBytes: number): { round: number; fixed: number; churn: number } {
  const bytes = plan.pagesFor(pageBytes) * pageBytes
  const device = Math.max(bytes, plan.measured.has('mix') ? plan.mixPages(pageBytes) * pageBytes : 0)
  const ours = plan.only.has('hicache') && plan.measured.size > 0 ? plan.stores : []
  const files = ours.filter(({ layout }) => layout === 'file')
  const peers = peerSteps(plan.measured).size === 0 ? 0 : Object.entries(PEER_STORES).reduce((sum, [peer, stores]) => sum + (plan.only.has(peer as keyof typeof PEER_STORES) ? stores : 0), 0)
  return {
    round: (peers * bytes + files.reduce((sum, store) => sum + plan.roundBytes(pageBytes, store), 0)) * SPACE_FACTOR,
    fixed: (device + (ours.length - files.length) * plan.capacityFor(pageBytes)) * SPACE_FACTOR,
    churn: plan.ops.includes('churn') ? (bytes + plan.churnStores.length * plan.churnCapacity(pageBytes)) * SPACE_FACTOR : 0,
  }
}

function machine(report: DirectoryReport, addon: NativeAddon, plan: BenchPlan, keep: boolean): object {
  const processors = cpus()
  return {
    cpu: processors[0]?.model.trim() ?? 'unknown', cores: processors.length, memoryBytes: totalmem(), kernel: release(), node: process.version,
    directory: report.realPath, fileSystem: report.fileSystem, direct: report.direct, crc64: addon.crc64Kernel,
    rounds: plan.rounds, bytesPerRound: Object.fromEntries(plan.pageBytes.map(bytes => [bytes, plan.pagesFor(bytes) * bytes])), removedBetweenRounds: !keep,
    // In the kernel's KiB: of the whole run, whatever it did.
    peakRssBytes: process.resourceUsage().maxRSS * 1024, date: new Date().toISOString(),
  }
}

function head({ style }: CommandContext, plan: BenchPlan, report: DirectoryReport): string {
  const processors = cpus()
  const unique = (values: readonly (string | number)[]): string => [...new Set(values)].join(', ')
  const bytes = unique(plan.pageBytes.map(size => formatBytes(plan.pagesFor(size) * size)))
  return `${style.bold('Benchmark')}\n` + table([
    ['machine', `${processors.length} x ${processors[0]?.model.trim() ?? 'unknown processor'}, Linux ${release()}, Node ${process.version}`],
    ['directory', `${report.realPath}, ${report.fileSystem}, ${report.direct ? 'O_DIRECT' : `no O_DIRECT (${report.directReason})`}`],
    ['stores', `layout ${unique(plan.stores.map(store => store.layout))}; engine ${unique(plan.stores.map(store => store.engine))}; ${unique(plan.stores.map(store => store.workers))} workers`],
    ['rounds', `${plan.rounds} of ${bytes} per contestant, interleaved; ${plan.inFlight} calls in flight`],
  ], 'll', '  ')
}
