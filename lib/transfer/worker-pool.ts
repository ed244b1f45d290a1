import { constants } from 'node:os'
import { fileURLToPath } from 'node:url'
import type { Worker } from 'node:worker_threads'
import { Piscina } from 'piscina'
import { HiCacheError } from '../error.js'
import type { WorkerAnswer, WorkerRefusal, WorkerTask } from '../../workers/worker.js'
import type { AgentOptions, BatchResult, ListedFile } from './native-binding.js'

/** Far above what the lanes ever have in flight: the bound that counts is theirs. */
const TASKS_PER_WORKER = 1024

/** How long the end of the pool waits for workers that are still starting. */
const START_MS_MAX = 2000

/** Workers that fail while they start are started anew this often. */
const RENEW_EVERY_MS = 1000

/**
 * The piscina pool: a fixed number of threads, each with its own native agent. A worker that dies takes its own tasks with it
 * (they reject with ERR_WORKER) and is replaced.
 *
 * Piscina gives up on replacing for good when a worker dies before it is ready. Its pool is then renewed as a whole: tasks that have not begun move over, and what
 * is under way in the old one's workers ends there.
 */
export class WorkerPool {
  readonly size: number
  readonly #agent: AgentOptions
  readonly #onDeath: (error: Error | null) => void
  readonly #onReady: () => void
  readonly #retired = new Set<Piscina>()
  readonly #seen = new WeakSet<Worker>()
  readonly #starting = new Set<Worker>()
  #onStarted: () => void = () => {}
  #pool: Piscina
  #deaths = 0
  #destroyed = false
  #renewedAt = -Infinity
  #renewal: NodeJS.Timeout | null = null

  /** `onDeath` hears of every worker that ends by itself, once its replacement is on the way or not; `onReady` of every worker that can work. */
  constructor(size: number, agent: AgentOptions, onDeath: (error: Error | null) => void, onReady: () => void = () => {}) {
    this.size = size
    this.#agent = agent
    this.#onDeath = onDeath
    this.#onReady = onReady
    this.#pool = this.#start()
  }

  /** Workers that died and were replaced. */
  get deaths(): number { return this.#deaths }
  get alive(): number { return this.#pool.threads.length }
  get threads(): readonly { readonly threadId: number; terminate(): Promise<number> }[] { return this.#pool.threads }

  #start(): Piscina {
    const pool = new Piscina({
      filename: fileURLToPath(new URL('../../workers/entry.cjs', import.meta.url)),
      minThreads: this.size,
      maxThreads: this.size,
      idleTimeout: Infinity,
      concurrentTasksPerWorker: TASKS_PER_WORKER,
      maxQueue: this.size * TASKS_PER_WORKER,
      // The default waits for the next task with the worker's event loop blocked, and no native completion would ever be seen.
      atomics: 'disabled',
      recordTiming: false,
      workerData: { agent: this.#agent },
      // Flags of the host (loaders, inspectors, test runners) have no business in our workers.
      execArgv: []
    })
    this.#watchStart(pool)
    let last: Error | null = null
    // Without a listener, the death of an idle worker would be an uncaught error of the host.
    pool.on('error', (error: Error) => { last = error })
    pool.on('workerCreate', () => { if (pool === this.#pool) this.#onReady() })
    pool.on('workerDestroy', () => {
      if (this.#destroyed || pool !== this.#pool) return
      this.#deaths++
      // Piscina replaces it, or does not, right after this event.
      queueMicrotask(() => {
        const error = last
        last = null
        this.#watchStart(pool)
        if (this.#destroyed || pool !== this.#pool) return
        if (pool.threads.length < this.size) this.#renewSoon()
        this.#onDeath(error)
      })
    })
    return pool
  }

  /** Its first message is a worker's word that it has loaded everything. Piscina itself takes the first ones for ready from the start. */
  #watchStart(pool: Piscina): void {
    for (const worker of pool.threads) {
      if (this.#seen.has(worker)) continue
      this.#seen.add(worker)
      this.#starting.add(worker)
      const started = (): void => {
        this.#starting.delete(worker)
        if (this.#starting.size === 0) this.#onStarted()
      }
      worker.once('message', started)
      worker.once('exit', started)
    }
  }

  /** Not at once every time: workers that fail because the system has no room for them must not be started in a loop. */
  #renewSoon(): void {
    const wait = Math.max(0, this.#renewedAt + RENEW_EVERY_MS - performance.now())
    this.#renewal ??= setTimeout(() => {
      this.#renewal = null
      this.#renewedAt = performance.now()
      const old = this.#pool
      this.#retired.add(old)
      this.#pool = this.#start()
      // What waits there is aborted, and moves over in #run().
      void old.close({ force: true }).finally(() => { this.#retired.delete(old) })
    }, wait).unref()
  }

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
    const pool = this.#pool
    let answer: WorkerAnswer | WorkerRefusal
    try {
      answer = await pool.run(task, { transferList }) as WorkerAnswer | WorkerRefusal
    } catch (cause) {
      const aborted = cause instanceof Error && cause.name === 'AbortError'
      if (aborted && pool !== this.#pool) return await this.#run(task, transferList)
      throw new HiCacheError('ERR_WORKER', `The worker that held the request died: ${cause instanceof Error ? cause.message : String(cause)}.`, { cause })
    }
    if (typeof answer === 'object' && 'refused' in answer) throw refusal(answer)
    return answer
  }

  /** Ends the threads. Each agent drains for its own bounded time and leaves the rest to a reaper thread. */
  async destroy(): Promise<void> {
    this.#destroyed = true
    if (this.#renewal) clearTimeout(this.#renewal)
    if (this.#starting.size > 0) {
      let timer: NodeJS.Timeout | undefined
      await new Promise<void>(resolve => {
        this.#onStarted = resolve
        timer = setTimeout(resolve, START_MS_MAX)
      })
      clearTimeout(timer)
    }
    await Promise.all([this.#pool, ...this.#retired].map(pool => pool.destroy()))
  }
}

function refusal({ refused, code }: WorkerRefusal): HiCacheError {
  if (code in constants.errno) return new HiCacheError('ERR_IO', `A worker could not do its task: ${refused}`, { errno: code })
  return new HiCacheError(code === 'ERR_PLUGIN_UNAVAILABLE' ? code : 'ERR_WORKER', `A worker refused its task: ${refused}`)
}
