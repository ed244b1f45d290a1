import { readFile } from 'node:fs/promises'
import { cpus, release, totalmem } from 'node:os'
import type { NixlBackendConfig } from '../../config/nixl-backend-config.js'
import type { NativeAddon, ObjectCredentials, ObjectEndpoint } from '../../transfer/native-binding.js'
import { ExitCode, type CommandContext } from '../command.js'
import { formatBytes } from '../format.js'
import { table } from '../style.js'
import { ObjectBench } from './object-bench.js'
import { ObjectPlan } from './object-plan.js'
import type { ObjectBenchReport } from './object-report.js'
import { ObjectTables } from './object-tables.js'
import { WorkPrefix } from './work-prefix.js'

/** `bench` on the object store that the configuration selects. */
export async function benchObjects(context: CommandContext, config: NixlBackendConfig, addon: NativeAddon): Promise<number> {
  const plan = new ObjectPlan(context.options)
  const place = await WorkPrefix.make(config, addon, 'hicache-nixl-bench')
  const { endpoint } = place.bucket
  const started = performance.now()
  try {
    const ca = endpoint.caBundle === undefined ? undefined : await readFile(endpoint.caBundle)
    const progress = context.progress({ label: 'bench', total: plan.pageBytes.length * ObjectBench.steps(plan), unit: 'steps' })
    const all: ObjectBenchReport = { runs: [], peers: [], leftOut: [] }
    if (!context.json) await context.output.write(head(context, plan, endpoint, addon))
    try {
      for (const pageBytes of plan.pageBytes) {
        const one = await new ObjectBench({ context, plan, bench: addon.bench, endpoint, credentials: keysOf(config), ca, place, pageBytes, progress }).run()
        for (const part of ['runs', 'peers', 'leftOut'] as const) (all[part] as unknown[]).push(...one[part])
      }
    } finally {
      progress.finish()
      await place.remove()
    }
    if (context.json) await context.output.json({ machine: machine(endpoint, addon, plan), ...all, lookups: [], churn: [] })
    else await context.output.write(new ObjectTables(context.style, plan, all).text((performance.now() - started) / 1000))
    return ExitCode.done
  } finally {
    place.close()
  }
}

/** For clients in JavaScript. Those of a credential chain are out of its reach: native code has them. */
function keysOf(config: NixlBackendConfig): ObjectCredentials | null {
  const { access_key: accessKey = '', secret_key: secretKey = '', session_token: sessionToken = '' } = config.section('obj')
  return accessKey === '' || secretKey === '' ? null : { accessKey, secretKey, sessionToken }
}

function machine(endpoint: ObjectEndpoint, addon: NativeAddon, plan: ObjectPlan): object {
  const processors = cpus()
  return {
    cpu: processors[0]?.model.trim() ?? 'unknown', cores: processors.length, memoryBytes: totalmem(), kernel: release(), node: process.version, crc64: addon.crc64Kernel,
    endpoint: endpoint.endpoint, bucket: endpoint.bucket, virtualAddressing: endpoint.virtualAddressing, libcurl: addon.objects.curl().version, connections: endpoint.connections ?? null,
    rounds: plan.rounds, bytesPerRound: Object.fromEntries(plan.pageBytes.map(bytes => [bytes, plan.pagesFor(bytes) * bytes])),
    // In the kernel's KiB: of the whole run, whatever it did.
    peakRssBytes: process.resourceUsage().maxRSS * 1024, date: new Date().toISOString(),
  }
}

function head({ style }: CommandContext, plan: ObjectPlan, endpoint: ObjectEndpoint, addon: NativeAddon): string {
  const processors = cpus()
  const bytes = [...new Set(plan.pageBytes.map(size => formatBytes(plan.pagesFor(size) * size)))].join(', ')
  return `${style.bold('Benchmark')}\n` + table([
    ['machine', `${processors.length} x ${processors[0]?.model.trim() ?? 'unknown processor'}, Linux ${release()}, Node ${process.version}`],
    ['store', `bucket ${endpoint.bucket} at ${endpoint.endpoint}; ${addon.objects.curl().version}`],
    ['rounds', `${plan.rounds} of ${bytes} per contestant, interleaved; ${plan.pagesAtOnce} pages at a time`],
  ], 'll', '  ')
}
