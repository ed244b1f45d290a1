import { createHash } from 'node:crypto'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { HiCacheError } from '../../error.js'
import type { ArmSample, BenchArm, BenchOp } from './bench-arm.js'
import { PeerPages } from './peer-pages.js'

/** What is used of the package lmdb, which is not installed with this one. */
interface LmdbModule {
  open(options: { path: string; encoding: 'binary'; compression: false; noSync: boolean }): LmdbStore
}

interface LmdbStore {
  put(key: string, value: Uint8Array): Promise<boolean>
  getBinaryFast(key: string): Uint8Array | undefined
  remove(key: string): Promise<boolean>
  close(): Promise<void>
}

export interface LmdbArmOptions {
  readonly directory: string
  readonly pageBytes: number
  readonly pages: number
  /** Pages handed over at once; lmdb puts them into few transactions. */
  readonly inFlight: number
  /** Without any synchronisation (its own default synchronises in the background). The file is in the page cache either way. */
  readonly noSync: boolean
  readonly steps: ReadonlySet<BenchOp>
}

/** The fastest embedded key-value store that Node has: values in one memory-mapped file, reads copied out of the page cache. No checksum. */
export class LmdbArm implements BenchArm {
  readonly name: string
  readonly steps: ReadonlySet<BenchOp>
  private readonly pages: PeerPages
  private store: LmdbStore | null = null

  constructor(private readonly options: LmdbArmOptions) {
    this.name = options.noSync ? 'lmdb-nosync' : 'lmdb'
    this.steps = options.steps
    // It writes properties on the memory that it is given, which that of WebAssembly does not take.
    this.pages = new PeerPages(this.name, options.pages, options.pageBytes, options.inFlight, (count, bytes) => Array.from({ length: count }, () => Buffer.from(new ArrayBuffer(bytes))))
  }

  async run(op: BenchOp, round: number): Promise<ArmSample> {
    this.store ??= await this.openStore()
    const store = this.store
    if (op === 'read') {
      return await this.pages.read(round, async (page, buffer) => {
        const value = store.getBinaryFast(this.key(round, page))
        // It hands out a view of its own memory that is longer than the value; `length` is the value's.
        if (value?.length !== buffer.length) throw new HiCacheError('ERR_IO', `${this.name}: page ${page} is not there`)
        buffer.set(value.subarray(0, buffer.length))
        // It reads without a promise; a lane that never yields would be a round on one lane.
        await Promise.resolve()
      })
    }
    const sample = await this.pages.write(round, async (page, buffer) => { await store.put(this.key(round, page), buffer) })
    const started = performance.now()
    const handle = await open(this.file)
    try {
      await handle.datasync()
    } finally {
      await handle.close()
    }
    return { ...sample, flushSeconds: (performance.now() - started) / 1000 }
  }

  async discard(round: number): Promise<void> {
    const store = this.store
    if (store !== null) await Promise.all(Array.from({ length: this.options.pages }, async (_, page) => await store.remove(this.key(round, page))))
  }

  async close(): Promise<void> { await this.store?.close() }

  /** A path with a dot is the file itself to lmdb. */
  private get file(): string { return join(this.options.directory, `${this.name}.mdb`) }

  private key(round: number, page: number): string { return createHash('sha256').update(`${this.name} ${round} ${page}`).digest('hex') }

  private async openStore(): Promise<LmdbStore> {
    const name = 'lmdb'
    let module: LmdbModule
    try {
      module = await import(name) as LmdbModule
    } catch (cause) {
      throw new HiCacheError('ERR_IO', `the package lmdb is not installed (npm install lmdb): ${(cause as Error).message.split('\n')[0]!}`, { cause })
    }
    return module.open({ path: this.file, encoding: 'binary', compression: false, noSync: this.options.noSync })
  }
}
