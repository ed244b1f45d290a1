import { readFileSync } from 'node:fs'
import { expect } from 'chai'
import * as surface from '../../lib/index.js'
import type { ArenaTensor, CallOptions, DType, DeviceBuffer, ErrorCode, Failure, MissReason, OpenOptions, ReadOutcome, Source, Target, Tensor, WriteOutcome } from '../../lib/index.js'
import { HiCacheError, type HiCacheNixl, type NixlRegistration, type pageHashes } from '../../lib/index.js'
import { rejection } from '../support/rejection.js'
import { workbench } from '../support/workbench.js'

/** The names and shapes that programs rely on, written out once more: if the package's own types drift from them, this file does not compile. */
interface Contract {
  set(key: string, source: Source, options?: CallOptions): Promise<boolean>
  get(key: string, options?: CallOptions): Promise<Tensor | null>
  get<T extends Target>(key: string, target: T, options?: CallOptions): Promise<T | null>
  getInArena(key: string, options?: CallOptions): Promise<ArenaTensor | null>
  batchSet(keys: readonly string[], sources: readonly Source[], options?: CallOptions): Promise<boolean[]>
  batchGet(keys: readonly string[], options?: CallOptions): Promise<(Tensor | null)[]>
  batchGet<T extends Target>(keys: readonly string[], targets: readonly T[], options?: CallOptions): Promise<(T | null)[]>
  write(pages: Iterable<readonly [string, Source]>, options?: CallOptions): Promise<WriteOutcome[]>
  read<T extends Target = Tensor>(pages: Iterable<string | readonly [string, T]>, options?: CallOptions): Promise<ReadOutcome<T>[]>
  exists(key: string, options?: CallOptions): Promise<boolean>
  batchExists(keys: readonly string[], options?: CallOptions): Promise<number>
  delete(key: string, options?: CallOptions): Promise<boolean>
  clear(options?: CallOptions): Promise<{ deleted: number }>
  allocate(spec: { dtype: DType; shape: readonly number[] }): ArenaTensor
  registerMemPoolHost(pool: { buffer: SharedArrayBuffer | ArenaTensor; pageBytes: number; pageCount: number; parts?: 1 | 2 }): NixlRegistration
  batchSetV1(keys: readonly string[], pageIndices: readonly number[], options?: CallOptions): Promise<boolean[]>
  batchGetV1(keys: readonly string[], pageIndices: readonly number[], options?: CallOptions): Promise<boolean[]>
  readonly selection: { plugin: string; engine: string; agent: string; source: string; plugins: readonly { name: string; usable: boolean; reason: string; remedy: string }[] }
  health(): { status: 'ok' | 'degraded' | 'closing' | 'closed'; reasons: string[] }
  stats(): Readonly<Record<string, number>>
  metrics(): string
  ready(bytes: number): boolean
  whenReady(bytes: number, options?: CallOptions): Promise<void>
  flush(options?: CallOptions): Promise<void>
  close(options?: { graceMs?: number }): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}
interface ContractOpenOptions {
  config?: string | object
  storageDir?: string | readonly string[]
  storageLayout?: 'file' | 'segment'
  directoryScheme?: 'bucketed' | 'flat'
  modelName?: string; tpRank?: number; tpSize?: number; ppRank?: number; ppSize?: number; cpRank?: number; cpSize?: number
  isMlaModel?: boolean
  fingerprint?: string
  agent?: 'auto' | 'embedded' | 'nixl'
  workers?: number
  arenaBytes?: number
  inFlightBytesMax?: number
  whenFull?: 'wait' | 'reject'
  timeoutMs?: number
  acceptUnverified?: boolean
  env?: NodeJS.ProcessEnv
  signal?: AbortSignal
}
type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false
type Same<A extends B, B extends C, C = A> = [A, B, C] extends never ? never : true
const holds = <_T extends true>(): void => {}

holds<Equal<DType, 'int8' | 'int16' | 'int32' | 'int64' | 'uint8' | 'uint16' | 'uint32' | 'uint64' | 'float16' | 'bfloat16' | 'float8_e4m3fn' | 'float8_e5m2' | 'float32' | 'float64' | 'bool'>>()
holds<Equal<ErrorCode, 'ERR_ARGUMENT' | 'ERR_KEY' | 'ERR_CONFIG' | 'ERR_PLUGIN_UNAVAILABLE' | 'ERR_ADDON' | 'ERR_CLOSED' | 'ERR_TIMEOUT' | 'ERR_CANCELLED' | 'ERR_REJECTED' | 'ERR_CORRUPT' | 'ERR_IO' | 'ERR_WORKER'>>()
holds<Equal<MissReason, 'absent' | 'expired' | 'corrupt' | 'stale' | 'identity' | 'length' | 'dtype' | 'unavailable'>>()
holds<Equal<Failure['status'], 'timeout' | 'cancelled' | 'rejected' | 'failed'>>()
holds<Equal<WriteOutcome['status'], 'stored' | 'already-there' | 'backup-skip' | Failure['status']>>()
holds<Equal<ReadOutcome<Tensor>['status'], 'hit' | 'miss' | Failure['status']>>()
holds<Equal<CallOptions, { signal?: AbortSignal; timeoutMs?: number; priority?: 'foreground' | 'background' }>>()
holds<Equal<Source, Tensor | NodeJS.ArrayBufferView | DeviceBuffer>>()
holds<Equal<Target, Source>>()
holds<Same<DeviceBuffer, { readonly type: 'VRAM'; readonly deviceId: number; readonly address: bigint; readonly length: number }>>()
holds<Same<ArenaTensor, Tensor & Disposable & { readonly released: boolean; release(): void }>>()
// Every option of the contract is taken, and open() takes nothing narrower.
holds<ContractOpenOptions extends OpenOptions ? true : false>()
holds<typeof HiCacheNixl extends { open(options?: ContractOpenOptions): Promise<HiCacheNixl> } ? true : false>()
holds<HiCacheNixl extends Contract & AsyncDisposable ? true : false>()
holds<NixlRegistration extends Disposable & { release(): void } ? true : false>()
holds<typeof pageHashes extends (tokens: Uint32Array, options: { pageTokens: number; prior?: string; seed?: string }) => string[] ? true : false>()

describe('the public surface', () => {
  const bench = workbench('file')

  it('exports these names and no others', () => {
    expect(Object.keys(surface).sort()).to.deep.equal(['DeviceMemory', 'HiCacheError', 'HiCacheNixl', 'NixlBackendConfig', 'NixlBackendSelection', 'NixlFileManager', 'NixlRegistration', 'namespaceSeed', 'pageHashes'])
  })
  it('a cache has these methods and properties', async () => {
    const cache = await bench.open()
    const names = [...Object.getOwnPropertyNames(Object.getPrototypeOf(cache)), ...Object.keys(cache)].filter(name => name !== 'constructor').sort()
    expect(names).to.deep.equal([
      'allocDeviceBuffer', 'allocate', 'batchExists', 'batchGet', 'batchGetV1', 'batchSet', 'batchSetV1', 'clear', 'close', 'config', 'delete', 'directories', 'entries', 'exists', 'flush', 'gc', 'get', 'getInArena',
      'health', 'metrics', 'openDeviceBuffer', 'read', 'ready', 'registerBuffers', 'registerDeviceBuffer', 'registerFiles', 'registerMemPoolHost', 'selection', 'set', 'stat', 'stats', 'storageLayout', 'verify', 'whenReady', 'write'
    ])
    expect(cache[Symbol.asyncDispose]).to.be.a('function')
    expect(cache.storageLayout).to.equal('file')
    expect(cache.selection.plugins.map(({ name }) => name)).to.deep.equal(['3fs', 'posix', 'gds_mt', 'gds', 'obj'])
    for (const { reason, remedy, usable } of cache.selection.plugins) {
      expect(reason).to.be.a('string').that.is.not.empty
      expect(remedy).to.be.a('string')
      expect(usable).to.be.a('boolean')
    }
    expect(Object.isFrozen(cache.selection)).to.equal(true)
  })
  it('every error is a HiCacheError with a code, told also across copies of the package', async () => {
    const cache = await bench.open()
    const error = await rejection(cache.set('', new Uint8Array(1)), 'ERR_KEY')
    expect(error).to.be.instanceOf(Error).and.instanceOf(HiCacheError)
    expect(error.name).to.equal('HiCacheError')
    expect(HiCacheError.is(error)).to.equal(true)
    for (const other of [new Error('x'), { code: 'ERR_KEY' }, null, undefined, 'ERR_KEY']) expect(HiCacheError.is(other)).to.equal(false)
    const copy = Object.defineProperty(new Error('x'), Symbol.for('hicache-nixl.error'), { value: true })
    expect(HiCacheError.is(copy)).to.equal(true)
  })
  it('index.ts only re-exports', () => {
    const source = readFileSync(new URL('../../lib/index.js', import.meta.url), 'utf8')
    for (const line of source.split('\n')) expect(line).to.match(/^(\/\*\*?|\s?\*.*|export \{ .* \} from '.*';|\/\/.*|)$/)
  })
  it('inspecting a cache shows where it stands, and no secrets', async () => {
    const { inspect } = await import('node:util')
    const cache = await bench.open({ config: { 'plugin.obj.access_key': 'AKIA', 'plugin.obj.secrete_key': 's3cr3t' } })
    const shown = inspect(cache, { depth: 10, showHidden: true })
    expect(shown).to.match(/^HiCacheNixl \{ plugin: 'posix', engine: '\w+', layout: 'file', directories: \[.*\], status: 'ok' \}$/)
    for (const text of [shown, inspect(cache.config, { depth: 10 }), JSON.stringify(cache.config), JSON.stringify(cache.selection)]) expect(text).not.to.include('s3cr3t')
  })
})
