import { Arena } from '../../lib/memory/arena.js'
import { Metrics, type Gauges } from '../../lib/observe/metrics.js'
import { FileLayout } from '../../lib/storage/file-layout.js'
import { Batcher, type BatcherOptions } from '../../lib/transfer/batcher.js'
import { CallScope, type CallOptions } from '../../lib/transfer/call-scope.js'
import { CompletionWords } from '../../lib/transfer/completion-words.js'
import type { BatchResult, NativeAddon } from '../../lib/transfer/native-binding.js'
import type { PageNaming } from '../../lib/transfer/page-naming.js'
import { DESCRIPTOR_STRIDE, Field, META_BYTES_MAX, RESULT_STRIDE, ResultField, Status, WORD_STATE_BITS, WordState } from '../../lib/transfer/protocol.js'
import { TransferRequest, type RequestMemory, type RequestResult } from '../../lib/transfer/transfer-request.js'
import type { WorkerPool } from '../../lib/transfer/worker-pool.js'

/** A batch as native code has it: the spec decides what becomes of each of its operations, and when. */
export class RigBatch {
  readonly descriptors: Float64Array
  readonly blob: Uint8Array
  readonly count: number
  readonly #words: CompletionWords
  readonly #results: Float64Array
  readonly #metas: Uint8Array
  readonly #resolve: (answer: BatchResult) => void
  readonly #reject: (error: unknown) => void

  constructor(descriptors: Float64Array, blob: Uint8Array, words: CompletionWords, resolve: (answer: BatchResult) => void, reject: (error: unknown) => void) {
    this.descriptors = descriptors
    this.blob = blob
    this.count = descriptors.length / DESCRIPTOR_STRIDE
    this.#words = words
    this.#results = new Float64Array(this.count * RESULT_STRIDE)
    this.#metas = new Uint8Array(this.count * META_BYTES_MAX)
    this.#resolve = resolve
    this.#reject = reject
  }

  field(i: number, name: keyof typeof Field): number { return this.descriptors[i * DESCRIPTOR_STRIDE + Field[name]]! }
  start(i = 0): void { this.#say(i, WordState.started) }
  /** Neither native code nor the kernel touches the operation's memory any more. */
  done(i = 0, status: number = Status.ok, more: { errno?: number; text?: string } = {}): void {
    this.#say(i, WordState.done)
    this.#results[i * RESULT_STRIDE] = status
    this.#results[i * RESULT_STRIDE + ResultField.errno] = more.errno ?? 0
    if (more.text !== undefined) this.#metas.set(new TextEncoder().encode(more.text), i * META_BYTES_MAX)
  }

  async answer(): Promise<void> {
    this.#resolve({ results: this.#results, metas: this.#metas })
    await settled()
  }

  /** Everything ends at once. */
  async end(status: number = Status.ok): Promise<void> {
    for (let i = 0; i < this.count; i++) this.done(i, status)
    await this.answer()
  }

  async lose(): Promise<void> {
    this.#reject(new Error('the worker died'))
    await settled()
  }

  #say(i: number, state: number): void {
    const word = this.field(i, 'word')
    Atomics.store(this.#words.shared, word, this.field(i, 'wordQueued') >>> WORD_STATE_BITS << WORD_STATE_BITS | state)
  }
}

/** Lets promises and one turn of the event loop go by. */
export const settled = (): Promise<void> => new Promise(resolve => { setImmediate(resolve) })

/** A batcher whose workers are the spec. */
export class BatcherRig {
  readonly batches: RigBatch[] = []
  readonly words = new CompletionWords(256)
  readonly metrics = new Metrics({ plugin: 'POSIX', engine: 'none', layout: 'file' }, () => ({}) as Gauges)
  readonly arena: Arena
  readonly batcher: Batcher

  constructor({ inFlightBytesMax = 12 * 1024 * 1024, whenFull = 'wait', layout = new FileLayout({ suffix: '', fingerprint: '' }, 1, 'flat'), onDirectory = () => {} }:
  { inFlightBytesMax?: number; whenFull?: 'wait' | 'reject'; layout?: PageNaming; onDirectory?: BatcherOptions['onDirectory'] } = {}) {
    const addon = { registerMemory: () => 1, cancel: () => {} } as unknown as NativeAddon
    this.arena = new Arena(16 * 1024 * 1024, addon)
    const pool = {
      size: 1,
      transfer: (descriptors: Float64Array, blob: Uint8Array): Promise<BatchResult> => new Promise((resolve, reject) => {
        this.batches.push(new RigBatch(descriptors, blob, this.words, resolve, reject))
      })
    } as unknown as WorkerPool
    this.batcher = new Batcher({
      arena: this.arena, words: this.words, pool, addon, layout, metrics: this.metrics, inFlightBytesMax, whenFull, onDirectory
    }, 1)
  }

  scope(options: CallOptions = {}): CallScope { return new CallScope(options, 60_000) }

  /** Submits a request; its result comes into `results`. */
  submit(op: number, storedKey: string, rest: Partial<ConstructorParameters<typeof TransferRequest>[0]> & { memory?: RequestMemory } = {}): { request: TransferRequest; results: RequestResult[] } {
    const results: RequestResult[] = []
    const request = new TransferRequest({
      op, flags: 0, directory: 0, storedKey, memory: { kind: 'none' }, length: 0, meta: new Uint8Array(0), scope: this.scope(), ...rest,
      onResult: (result, request) => {
        results.push(result)
        rest.onResult?.(result, request)
      }
    })
    this.batcher.submit(request)
    return { request, results }
  }
}
