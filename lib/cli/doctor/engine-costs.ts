import { randomBytes } from 'node:crypto'
import { mkdtemp, open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { EngineName, NativeAddon, NativeAgent } from '../../transfer/native-binding.js'
import { DESCRIPTOR_STRIDE, Field, Op, RESULT_STRIDE, ResultField, Status, WordState, WORD_STATE_BITS } from '../../transfer/protocol.js'

/** @types/node leaves WebAssembly to the DOM's types; this is all that is used of it here. */
declare const WebAssembly: { readonly Memory: new (descriptor: { initial: number; maximum: number; shared: true }) => { readonly buffer: SharedArrayBuffer } }

export interface EngineCost {
  readonly engine: EngineName
  /** Medians of the rounds. */
  readonly readMibPerSecond: number
  readonly writeMibPerSecond: number
  /** CPU time of this process (native threads included) for a GiB read. */
  readonly readCpuSecondsPerGib: number
  readonly rounds: number
}

export interface EngineCostsOptions {
  readonly addon: NativeAddon
  /** Where to measure: a temporary folder is made in it, and removed. */
  readonly directory: string
  readonly direct: boolean
  readonly engines: readonly EngineName[]
  /** After this no new round begins. */
  readonly budgetMs: number
  readonly signal: AbortSignal
}

const EXTENT_BYTES = 256 * 1024
const EXTENTS = 64
const FILE_BYTES = EXTENTS * EXTENT_BYTES
const ROUNDS_MAX = 5
const FILE_NAME = 'extents'

/**
 * A short run of every engine over one file of 16 MiB, extents of 256 KiB, all in flight at once: first written once (a file's first write costs
 * more than any later one), then rounds that take the engines in turn, so that what else the machine does meets all of them alike.
 */
export async function measureEngines(options: EngineCostsOptions): Promise<EngineCost[]> {
  const { addon, engines, signal } = options
  const deadlineMs = performance.now() + options.budgetMs
  const folder = await mkdtemp(join(options.directory, '.hicache-nixl-doctor-'))
  // A shared WebAssembly memory: page-aligned, which O_DIRECT needs, as the arena is.
  const memory = new WebAssembly.Memory({ initial: FILE_BYTES / 65536, maximum: FILE_BYTES / 65536, shared: true })
  const bytes = new Uint8Array(memory.buffer)
  bytes.set(randomBytes(65536))
  for (let filled = 65536; filled < bytes.length; filled *= 2) bytes.copyWithin(filled, 0, Math.min(filled, bytes.length - filled))
  const words = new Int32Array(new SharedArrayBuffer(EXTENTS * Int32Array.BYTES_PER_ELEMENT))
  const region = addon.registerMemory(bytes)
  const agents = new Map<EngineName, NativeAgent>()
  try {
    const file = await open(join(folder, FILE_NAME), 'wx', 0o600)
    await file.truncate(FILE_BYTES).finally(async () => await file.close())
    for (const engine of engines) {
      agents.set(engine, new addon.Agent({
        plugin: 'POSIX', engine, words, queueDepth: EXTENTS, threads: 4, directories: [{ path: folder, direct: options.direct, engine: true }],
      }))
    }
    const first = agents.get(engines[0]!)
    if (first === undefined) return []
    await transfer(first, Op.extentWrite, region, words)

    const samples = new Map(engines.map((engine) => [engine, { read: [] as number[], write: [] as number[], cpu: [] as number[] }]))
    for (let round = 0; round < ROUNDS_MAX; round++) {
      for (const [engine, agent] of agents) {
        const { read, write, cpu } = samples.get(engine)!
        write.push((await transfer(agent, Op.extentWrite, region, words)).mibPerSecond)
        const result = await transfer(agent, Op.extentRead, region, words)
        read.push(result.mibPerSecond)
        cpu.push(result.cpuSecondsPerGib)
      }
      // The first round is made by all engines, whatever it takes: a comparison needs one of each.
      if (performance.now() > deadlineMs || signal.aborted) break
    }
    return engines.map((engine) => {
      const { read, write, cpu } = samples.get(engine)!
      return { engine, readMibPerSecond: median(read), writeMibPerSecond: median(write), readCpuSecondsPerGib: median(cpu), rounds: read.length }
    })
  } finally {
    const left = await Promise.all([...agents.values()].map(async (agent) => await agent.destroy()))
    // Memory that the kernel still holds stays registered: this process ends soon anyway.
    if (left.every((count) => count === 0)) addon.unregisterMemory(region)
    await rm(folder, { recursive: true, force: true })
  }
}

async function transfer(agent: NativeAgent, op: number, region: number, words: Int32Array): Promise<{ mibPerSecond: number; cpuSecondsPerGib: number }> {
  const blob = Buffer.from(FILE_NAME)
  const descriptors = new Float64Array(EXTENTS * DESCRIPTOR_STRIDE)
  for (let index = 0; index < EXTENTS; index++) {
    const generation = (Atomics.load(words, index) >>> WORD_STATE_BITS) + 1
    const queued = generation << WORD_STATE_BITS | WordState.queued
    Atomics.store(words, index, queued)
    const at = index * DESCRIPTOR_STRIDE
    descriptors[at + Field.op] = op
    descriptors[at + Field.nameLength] = blob.length
    descriptors[at + Field.region] = region
    descriptors[at + Field.memoryOffset] = index * EXTENT_BYTES
    descriptors[at + Field.length] = EXTENT_BYTES
    descriptors[at + Field.fileOffset] = index * EXTENT_BYTES
    descriptors[at + Field.word] = index
    descriptors[at + Field.wordQueued] = queued
  }
  const cpuBefore = process.cpuUsage()
  const started = performance.now()
  const { results } = await agent.submit(descriptors, blob, false)
  const seconds = (performance.now() - started) / 1000
  const { user, system } = process.cpuUsage(cpuBefore)
  for (let index = 0; index < EXTENTS; index++) {
    const status = results[index * RESULT_STRIDE + ResultField.status]
    if (status !== Status.ok) {
      const errno = results[index * RESULT_STRIDE + ResultField.errno]
      throw new Error(`${agent.engine} ${op === Op.extentRead ? 'read' : 'write'} ended with status ${status!}, errno ${errno!}`)
    }
  }
  return { mibPerSecond: FILE_BYTES / 2 ** 20 / seconds, cpuSecondsPerGib: (user + system) / 1e6 / (FILE_BYTES / 2 ** 30) }
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}
