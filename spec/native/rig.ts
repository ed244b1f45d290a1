/** One native agent on one directory, without anything of the layers above it. Used in this process, in children and in worker threads. */
import { loadAddon } from '../../lib/transfer/load-addon.js'
import type { EngineName, NativeAddon, NativeAgent } from '../../lib/transfer/native-binding.js'
import { DESCRIPTOR_STRIDE, Field, Flag, META_BYTES_MAX, Op, RESULT_STRIDE, ResultField, Status, WORD_STATE_BITS, WordState } from '../../lib/transfer/protocol.js'

/** @types/node leaves WebAssembly to the DOM's types; this is all that is used of it here. */
declare const WebAssembly: { readonly Memory: new (descriptor: { initial: number; maximum: number; shared: true }) => { readonly buffer: SharedArrayBuffer } }
/** Page-aligned shared memory, as the arena's. */
export function alignedMemory(pages: number): Uint8Array { return new Uint8Array(new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true }).buffer) }

export const addon: NativeAddon = loadAddon()

export interface Ask {
  readonly op: keyof typeof Op
  readonly name: string
  /** Default: the name with a prefix. */
  readonly identity?: string | Uint8Array
  readonly meta?: string | Uint8Array
  readonly flags?: readonly (keyof typeof Flag)[]
  /** Byte offset in the memory. */
  readonly at?: number
  readonly length?: number
  readonly fileOffset?: number
  readonly recordAt?: number
}

export interface Answer { readonly status: keyof typeof Status; readonly errno: number; readonly length: number; readonly microseconds: number; readonly meta: string; readonly metaBytes: Buffer }

export interface SharedPart { readonly directory: string; readonly engine: EngineName; readonly direct: boolean; readonly words: Int32Array; readonly memory: Uint8Array }

export interface RigOptions {
  readonly directory: string
  readonly engine?: EngineName
  readonly direct?: boolean
  readonly threads?: number
  readonly drainMs?: number
  readonly shared?: SharedPart
  /** Lock of a writer's folder. */
  readonly holdFd?: number
}

const statuses = Object.keys(Status) as (keyof typeof Status)[]
const QUEUED = 1 << WORD_STATE_BITS | WordState.queued

export class Rig {
  readonly shared: SharedPart
  readonly bytes: Uint8Array
  readonly region: number
  readonly agent: NativeAgent
  #words = 0

  constructor({ directory, engine = 'aio', direct = false, threads = 4, drainMs = 2000, shared, holdFd }: RigOptions) {
    this.shared = shared ?? {
      directory, engine, direct,
      words: new Int32Array(new SharedArrayBuffer(4096)),
      memory: alignedMemory(256)
    }
    this.bytes = this.shared.memory
    this.region = addon.registerMemory(this.bytes)
    this.agent = new addon.Agent({
      plugin: 'POSIX', engine: this.shared.engine, words: this.shared.words, threads, drainMs,
      directories: [{ path: this.shared.directory, direct: this.shared.direct, engine: this.shared.direct, ...holdFd === undefined ? {} : { holdFd } }]
    })
  }

  /** Descriptors, their blob, and the words they were given. */
  encode(asks: readonly Ask[]): { descriptors: Float64Array; blob: Uint8Array; words: number[] } {
    const descriptors = new Float64Array(asks.length * DESCRIPTOR_STRIDE)
    const parts: Buffer[] = []
    const words: number[] = []
    let at = 0
    asks.forEach((ask, i) => {
      const [name, identity, meta] = [ask.name, ask.identity ?? `of ${ask.name}`, ask.meta ?? '']
        .map(part => typeof part === 'string' ? Buffer.from(part) : Buffer.from(part)) as [Buffer, Buffer, Buffer]
      const word = this.#words++ % this.shared.words.length
      Atomics.store(this.shared.words, word, QUEUED)
      words.push(word)
      const values: Record<keyof typeof Field, number> = {
        op: Op[ask.op],
        flags: (ask.flags ?? []).reduce((all, flag) => all | Flag[flag], 0),
        directory: 0,
        nameOffset: at,
        nameLength: name.length,
        region: this.region,
        memoryOffset: ask.at ?? 0,
        length: ask.length ?? 0,
        fileOffset: ask.fileOffset ?? 0,
        recordOffset: at + name.length,
        identityLength: identity.length,
        metaLength: meta.length,
        word,
        wordQueued: QUEUED,
        recordAt: ask.recordAt ?? 0
      }
      for (const field of Object.keys(Field) as (keyof typeof Field)[]) descriptors[i * DESCRIPTOR_STRIDE + Field[field]] = values[field]
      parts.push(name, identity, meta)
      at += name.length + identity.length + meta.length
    })
    return { descriptors, blob: Buffer.concat(parts), words }
  }

  /** Starts the operations; the words are those of each. */
  start(asks: readonly Ask[]): { words: number[]; answers: Promise<Answer[]> } {
    const { descriptors, blob, words } = this.encode(asks)
    const answers = this.agent.submit(descriptors, blob, true).then(({ results, metas }) => asks.map((_, i) => ({
      status: statuses.find(name => Status[name] === results[i * RESULT_STRIDE + ResultField.status])!,
      errno: results[i * RESULT_STRIDE + ResultField.errno]!,
      length: results[i * RESULT_STRIDE + ResultField.length]!,
      microseconds: results[i * RESULT_STRIDE + ResultField.microseconds]!,
      meta: Buffer.from(metas.subarray(i * META_BYTES_MAX, (i + 1) * META_BYTES_MAX)).toString().replace(/\0+$/, ''),
      metaBytes: Buffer.from(metas.subarray(i * META_BYTES_MAX, (i + 1) * META_BYTES_MAX))
    })))
    return { words, answers }
  }

  async run(...asks: readonly Ask[]): Promise<Answer[]> { return await this.start(asks).answers }
  async one(ask: Ask): Promise<Answer> { return (await this.run(ask))[0]! }

  state(word: number): keyof typeof WordState {
    const state = Atomics.load(this.shared.words, word) & 7
    return (Object.keys(WordState) as (keyof typeof WordState)[]).find(name => WordState[name] === state)!
  }

  /** As the main thread would: from one state to another, if it still is in the first. */
  change(word: number, from: keyof typeof WordState, to: keyof typeof WordState): boolean {
    const base = 1 << WORD_STATE_BITS
    return Atomics.compareExchange(this.shared.words, word, base | WordState[from], base | WordState[to]) === (base | WordState[from])
  }

  fill(at: number, length: number, seed: number): Uint8Array {
    const part = this.bytes.subarray(at, at + length)
    for (let i = 0; i < length; i++) part[i] = i * 31 + (i >> 8) * 7 + seed
    return Uint8Array.from(part)
  }

  copy(at: number, length: number): Uint8Array { return Uint8Array.from(this.bytes.subarray(at, at + length)) }

  async end(): Promise<void> {
    addon.clearFaults()
    await this.agent.destroy()
    addon.unregisterMemory(this.region)
  }
}
