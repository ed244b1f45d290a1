import { constants } from 'node:os'
import { fileURLToPath } from 'node:url'
import { Piscina } from 'piscina'
import { HiCacheError } from '../error.js'
import type { WorkerAnswer, WorkerRefusal, WorkerTask } from '../../workers/worker.js'
import type { AgentOptions, BatchResult, ListedFile } from './native-binding.js'

/** Far above what the lanes ever have in flight: the bound that counts is theirs. */
const TASKS_PER_WORKER = 1024

/**
 * The piscina pool: a fixed number of threads, each with its own native agent. A worker that dies takes its own tasks with it
 * (they reject with ERR_WORKER) and is replaced.
 */
export class WorkerPool {
  readonly size: number
  readonly #pool: Piscina
  #deaths = 0
  #destroyed = false

  /** `onDeath` hears of every worker that ends by itself. */
  constructor(size: number, agent: AgentOptions, onDeath: (error: Error | null) => void) {
    this.size = size
    this.#pool = new Piscina({
      filename: fileURLToPath(new URL('../../workers/worker.js', import.meta.url)),
      minThreads: size,
      maxThreads: size,
      idleTimeout: Infinity,
      concurrentTasksPerWorker: TASKS_PER_WORKER,
      maxQueue: size * TASKS_PER_WORKER,
      // The default waits for the next task with the worker's event loop blocked, and no native completion would ever be seen.
      atomics: 'disabled',
      recordTiming: false,
      workerData: { agent },
      // Flags of the host (loaders, inspectors, test runners) have no business in our workers.
      execArgv: []
    })
    // Without a listener, the death of an idle worker would be an uncaught error of the host.
    this.#pool.on('error', (error: Error) => { if (!this.#destroyed) onDeath(error) })
    this.#pool.on('workerDestroy', () => {
      if (this.#destroyed) return
      this.#deaths++
      onDeath(null)
    })
  }

  /** Workers that died and were replaced. */
  get deaths(): number { return this.#deaths }
  get alive(): number { return this.#pool.threads.length }
  get threads(): readonly { readonly threadId: number; terminate(): Promise<number> }[] { return this.#pool.threads }

  async transfer(descriptors: Float64Array, blob: Uint8Array, wantMetas: boolean): Promise<BatchResult> {
    return await this.#run({ kind: 'transfer', descriptors, blob, wantMetas },
      [descriptors.buffer as ArrayBuffer, blob.buffer as ArrayBuffer]) as BatchResult
  }

  async list(directory: number, folder: string, records: boolean): Promise<ListedFile[]> {
    return await this.#run({ kind: 'list', directory, folder, records }) as ListedFile[]
  }

  async sweep(directory: number, folder: string): Promise<number> {
    return await this.#run({ kind: 'sweep', directory, folder }) as number
  }

  async #run(task: WorkerTask, transferList: ArrayBuffer[] = []): Promise<WorkerAnswer> {
    if (this.#destroyed) throw new HiCacheError('ERR_CLOSED', 'The worker pool is closed.')
    let answer: WorkerAnswer | WorkerRefusal
    try {
      answer = await this.#pool.run(task, { transferList }) as WorkerAnswer | WorkerRefusal
    } catch (cause) {
      throw new HiCacheError('ERR_WORKER', `The worker that held the request died: ${cause instanceof Error ? cause.message : String(cause)}.`, { cause })
    }
    if (typeof answer === 'object' && 'refused' in answer) throw refusal(answer)
    return answer
  }

  /** Ends the threads. Each agent drains for its own bounded time and leaves the rest to a reaper thread. */
  async destroy(): Promise<void> {
    this.#destroyed = true
    await this.#pool.destroy()
  }
}

function refusal({ refused, code }: WorkerRefusal): HiCacheError {
  if (code in constants.errno) return new HiCacheError('ERR_IO', `A worker could not do its task: ${refused}`, { errno: code })
  return new HiCacheError(code === 'ERR_PLUGIN_UNAVAILABLE' ? code : 'ERR_WORKER', `A worker refused its task: ${refused}`)
}
