import { readdirSync, readFileSync } from 'node:fs'
import { getHeapSpaceStatistics, setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { expect } from 'chai'
import { HiCacheNixl } from '../../lib/index.js'
import { bytes, same } from '../support/content.js'
import { describeLayouts, placeOptions } from '../support/layouts.js'
import { until } from '../support/planned-faults.js'
import { MIB, workbench } from '../support/workbench.js'

const descriptors = (): number => readdirSync('/proc/self/fd').length
const threads = (): number => readdirSync('/proc/self/task').length
setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void
/**
 * What the process takes once nothing is left to collect; finalizers run in turns of their own. Without the young generation, of which V8 keeps the room once it has had
 * it: empty, Node 24's grows from 8 to 51 MB meanwhile, and stays there. That of the workers is held small.
 */
setFlagsFromString('--max-semi-space-size=1')
async function residentBytes(): Promise<number> {
  for (let i = 0; i < 4; i++) {
    collect()
    await new Promise(resolve => { setImmediate(resolve) })
  }
  const young = getHeapSpaceStatistics().find(space => space.space_name === 'new_space')!.physical_space_size
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]) * 1024 - young
}

describeLayouts('steady state', storageLayout => {
  const bench = workbench(storageLayout)
  const KEYS = Array.from({ length: 50 }, (_, i) => `key-${i}`)
  const PAGES = KEYS.map(key => bytes(5000, key))
  const OTHERS = KEYS.map(key => bytes(5000, `other ${key}`))

  /** 500 operations of every kind. */
  async function round(cache: HiCacheNixl, i: number): Promise<void> {
    const pages = i % 2 === 0 ? PAGES : OTHERS
    const stored = await Promise.all([cache.batchSet(KEYS.slice(0, 25), pages.slice(0, 25)), ...KEYS.slice(25).map((key, k) => cache.set(key, pages[25 + k]!))])
    expect(stored.flat().every(Boolean)).to.equal(true)
    const [own, into, arena] = await Promise.all([
      cache.batchGet(KEYS), cache.batchGet(KEYS, KEYS.map(() => new Uint8Array(5000))), Promise.all(KEYS.map(key => cache.getInArena(key)))
    ])
    KEYS.forEach((key, k) => {
      expect(same(own[k]!, pages[k]!) && same(into[k]!, pages[k]!) && same(arena[k]!, pages[k]!), key).to.equal(true)
      arena[k]!.release()
    })
    expect(await cache.batchExists(KEYS)).to.equal(50)
    // Calls that end otherwise: misses, deadlines that do not pass, signals that have fired, refused arguments.
    await Promise.all(KEYS.map(key => cache.get(`no-${key}`)))
    await Promise.all(KEYS.map(key => cache.get(key, { signal: AbortSignal.abort() })))
    await Promise.all(KEYS.map(key => cache.set(key, new Uint8Array(0)).catch(() => {})))
    await Promise.all(KEYS.map(key => cache.delete(`no-${key}`)))
    const tensors = KEYS.slice(0, 20).map(() => cache.allocate({ dtype: 'uint8', shape: [4096] }))
    await cache.batchSet(KEYS.slice(0, 20).map(key => `t-${key}`), tensors)
    for (const tensor of tensors) tensor.release()
    await Promise.all(KEYS.slice(0, 20).map(key => cache.stat(key)))
  }

  // Of objects every operation costs a server a millisecond or more.
  const [warm, measured] = storageLayout === 'object' ? [10, 4] : [30, 10]

  it(`${3 * measured * 500} operations leave descriptors, threads, arena and memory as they were`, async () => {
    const cache = await bench.open()
    // The heaps of three isolates find their size in the first ten thousand.
    for (let i = 0; i < warm; i++) await round(cache, i)
    const before = { descriptors: descriptors(), threads: threads() }
    const resident = [await residentBytes()]
    for (let part = 0; part < 3; part++) {
      for (let i = 0; i < measured; i++) await round(cache, i)
      resident.push(await residentBytes())
    }
    await cache.flush()
    await until(() => descriptors() <= before.descriptors && threads() <= before.threads, 'descriptors and threads are as many as before')
    expect(cache.stats()).to.include({ arena_used_bytes: 0, arena_held_bytes: 0, arena_quarantined_bytes: 0, in_flight_requests: 0, in_flight_bytes: 0, queued_requests: 0, queued_bytes: 0 })
    // A heap grows in steps, now and then. What is lost at each operation, be it a kilobyte, is lost in every part.
    const grown = resident.slice(1).map((bytes, i) => bytes - resident[i]!)
    expect(Math.min(...grown), `resident bytes, part by part: ${grown.join(', ')}`).to.be.below(measured * 500 * 1024)
  }).timeout(60_000)
  it('opening and closing leaves nothing behind', async () => {
    const storageDir = await bench.directory()
    const cycle = async (): Promise<void> => {
      const cache = await HiCacheNixl.open({ arenaBytes: 16 * MIB, env: {}, ...placeOptions(storageLayout, storageDir) })
      const registration = cache.registerMemPoolHost({ buffer: new SharedArrayBuffer(8192), pageBytes: 4096, pageCount: 2 })
      await cache.batchSetV1(['a', 'b'], [0, 1])
      registration.release()
      await cache.close()
    }
    for (let i = 0; i < 3; i++) await cycle()
    const before = { descriptors: descriptors(), threads: threads(), resident: await residentBytes() }
    for (let i = 0; i < 8; i++) await cycle()
    await until(() => descriptors() <= before.descriptors && threads() <= before.threads, 'descriptors and threads are as many as before')
    // An arena of 16 MiB that stayed each time would be 128 MiB.
    expect(await residentBytes() - before.resident, 'resident bytes').to.be.below(64 * MIB)
  }).timeout(60_000)
}, { systems: false })
