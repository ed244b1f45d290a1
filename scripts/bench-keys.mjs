// Costs of the keys, each way of computing them: `node scripts/bench-keys.mjs [dist/lib/keys]`. Medians of interleaved rounds.
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

const dist = resolve(process.argv[2] ?? 'dist/lib/keys')
const load = (name) => import(pathToFileURL(`${dist}/${name}`).href)
const { instantiateWasmKernel, referenceKernel } = await load('kernel/kernel.js')
const { cryptoPageHashes } = await load('page-hashes.js')
const { KeyNames, routePage } = await load('index.js')

const tokens = Uint32Array.from({ length: 100_000 }, (_, i) => Math.imul(i, 2654435761) >>> 0)
const pages = Math.floor(tokens.length / 64)
const names = new KeyNames({ modelName: 'Qwen/Qwen3-8B', tpRank: 0, tpSize: 2 })
const hashes = cryptoPageHashes(tokens, 64)
const stored = hashes.map((hash) => names.pageKeys(hash)[0])
const [wasm, js] = [instantiateWasmKernel(), referenceKernel()]

const ways = {
  'page hash, crypto.hash': () => cryptoPageHashes(tokens, 64),
  'page hash, wasm kernel': () => wasm.pageHashes(tokens, 64),
  'page hash, js reference': () => js.pageHashes(tokens, 64),
  'blake2b64 of a stored key, wasm kernel': () => { for (const key of stored) wasm.blake2b64(key) },
  'blake2b64 of a stored key, js reference': () => { for (const key of stored) js.blake2b64(key) },
  'storedKey': () => { for (const hash of hashes) names.storedKey(hash) },
  'routePage, 3 directories, bucketed': () => { for (const key of stored) routePage(key, 3, 'bucketed') }
}
const times = Object.fromEntries(Object.keys(ways).map((way) => [way, []]))
for (let round = 0; round < 25; round++) {
  for (const [way, compute] of Object.entries(ways)) {
    const start = performance.now()
    compute()
    times[way].push((performance.now() - start) * 1e6 / pages)
  }
}
for (const [way, values] of Object.entries(times)) {
  values.sort((a, b) => a - b)
  console.log(`${way.padEnd(40)} ${values[12].toFixed(0).padStart(6)} ns (${values[0].toFixed(0)} to ${values[24].toFixed(0)})`)
}
