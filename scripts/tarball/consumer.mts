// What somebody else's service does with the installed package: scripts/try-tarball.mjs compiles it against the packed declarations and runs the result.
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  HiCacheError, HiCacheNixl, namespaceSeed, NixlBackendConfig, NixlBackendSelection, NixlFileManager, NixlRegistration, pageHashes,
  type ArenaTensor, type CallOptions, type DType, type ErrorCode, type HealthReport, type Logger, type MissReason, type OpenOptions, type ReadOutcome, type Source,
  type Target, type Tensor, type WriteOutcome
} from 'hicache-nixl'

const PAGE_BYTES = 64 * 1024
const dtype: DType = 'float16'
const lines: string[] = []
const logger: Logger | undefined = undefined
const call: CallOptions = { timeoutMs: 30_000 }

/** Every member has the type that a caller writes down; nothing here is `any`. */
async function use(cache: HiCacheNixl): Promise<void> {
  const tokens = Uint32Array.from({ length: 128 }, (_, index) => index)
  const hashes: string[] = pageHashes(tokens, { pageTokens: 64 })
  assert.equal(hashes.length, 2)
  const [first, second] = hashes as [string, string]

  const page: Tensor = { dtype, shape: [PAGE_BYTES / 2], data: new Uint16Array(PAGE_BYTES / 2).fill(0x3c00) }
  const source: Source = page
  const stored: boolean = await cache.set(first, source, call)
  assert.equal(stored, true)
  const got: Tensor | null = await cache.get(first)
  assert.deepEqual(got, page)
  const target = new Uint8Array(PAGE_BYTES)
  const same: Uint8Array | null = await cache.get(first, target)
  assert.equal(same, target)
  assert.deepEqual(new Uint16Array(target.buffer), page.data)

  const own: ArenaTensor = cache.allocate({ dtype: 'uint8', shape: [PAGE_BYTES] })
  new Uint8Array(own.data.buffer, own.data.byteOffset, own.data.byteLength).fill(7)
  const written: WriteOutcome[] = await cache.write([[second, own]])
  assert.equal(written[0]?.ok && written[0].status, 'stored')
  own.release()
  const read: ReadOutcome<Tensor>[] = await cache.read([second, 'a'.repeat(64)])
  assert.equal(read[0]?.ok && read[0].verified, true)
  const reason: MissReason | undefined = read[1]?.status === 'miss' ? read[1].reason : undefined
  assert.equal(reason, 'absent')
  const inArena: ArenaTensor | null = await cache.getInArena(second)
  assert.ok(inArena)
  inArena.release()

  const booleans: boolean[] = await cache.batchSet(hashes, [page, page])
  assert.deepEqual(booleans, [true, true])
  const targets: Target[] = [new Uint8Array(PAGE_BYTES), new Uint8Array(PAGE_BYTES)]
  assert.equal((await cache.batchGet(hashes, targets)).every(value => value !== null), true)
  const run: number = await cache.batchExists([...hashes, 'b'.repeat(64)])
  assert.equal(run, 2)
  assert.equal(await cache.exists(first), true)

  const pool = new SharedArrayBuffer(2 * PAGE_BYTES)
  const registration: NixlRegistration = cache.registerMemPoolHost({ buffer: pool, pageBytes: PAGE_BYTES, pageCount: 2 })
  assert.deepEqual(await cache.batchGetV1([first], [1]), [true])
  assert.deepEqual(new Uint16Array(pool, PAGE_BYTES, PAGE_BYTES / 2), page.data)
  registration.release()

  const health: HealthReport = cache.health()
  assert.equal(health.status, 'ok')
  const stats: Readonly<Record<string, number>> = cache.stats()
  assert.ok(Object.keys(stats).length > 0)
  const metrics: string = cache.metrics()
  assert.match(metrics, /^# TYPE /m)
  const ready: boolean = cache.ready(PAGE_BYTES)
  assert.equal(ready, true)
  await cache.whenReady(PAGE_BYTES, call)
  await cache.flush()
  assert.equal(await cache.delete(second), true)
  const { deleted }: { deleted: number } = await cache.clear()
  assert.equal(deleted, 1)
  lines.push(`${cache.selection.plugin}, ${cache.selection.engine}`)
}

const directory = await mkdtemp(join(tmpdir(), 'hicache-nixl-consumer-'))
try {
  const options: OpenOptions = { storageDir: directory, modelName: 'consumer', arenaBytes: 64 * 2 ** 20, ...(logger ? { logger } : {}) }
  if (process.argv.includes('--without-addon')) {
    const error: unknown = await HiCacheNixl.open(options).then(() => undefined, (reason: unknown) => reason)
    assert.ok(HiCacheError.is(error), `open() did not fail with a HiCacheError: ${String(error)}`)
    const code: ErrorCode = error.code
    assert.equal(code, 'ERR_ADDON')
    console.log(error.message)
  } else {
    const cache = await HiCacheNixl.open(options)
    try {
      await use(cache)
    } finally {
      await cache.close({ graceMs: 5000 })
    }
    assert.equal(cache.health().status, 'closed')
    for (const part of [namespaceSeed, NixlBackendConfig, NixlBackendSelection, NixlFileManager, NixlRegistration]) assert.equal(typeof part, 'function')
    console.log(lines.join('\n'))
  }
} finally {
  await rm(directory, { recursive: true })
}
