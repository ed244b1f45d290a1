// The same package from CommonJS: no module of it awaits at its top level, so require() takes it.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { HiCacheNixl, pageHashes } from 'hicache-nixl'

const directory = mkdtempSync(join(tmpdir(), 'hicache-nixl-consumer-'))

async function main(): Promise<void> {
  const [key] = pageHashes(Uint32Array.of(1, 2, 3, 4), { pageTokens: 4 })
  await using cache = await HiCacheNixl.open({ storageDir: directory, modelName: 'consumer', arenaBytes: 64 * 2 ** 20 })
  if (!key || !(await cache.set(key, new Uint8Array(4096).fill(1)))) throw new Error('the page was not stored')
  const page = await cache.get(key)
  if (page?.data.byteLength !== 4096) throw new Error('the page did not come back')
}

main().finally(() => { rmSync(directory, { recursive: true }) }).catch((error: unknown) => {
  console.error(error)
  process.exitCode = 1
})
