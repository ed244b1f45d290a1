import cluster from 'node:cluster'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { expect } from 'chai'
import type { Tensor } from '../../lib/index.js'
import { bytes, same } from '../support/content.js'
import { describeLayouts, placeOptions } from '../support/layouts.js'
import { until } from '../support/planned-faults.js'
import { SERVANT, childServant, ipcServant, threadServant, type Servant } from '../support/servants.js'
import { MIB, workbench, type Workbench } from '../support/workbench.js'

const keysOf = (name: string, count: number): string[] => Array.from({ length: count }, (_, i) => `${name}-${i}`)
const hits = (keys: readonly string[]): string[] => keys.map(() => 'hit')

function clusterServant(bench: Workbench): Servant {
  cluster.setupPrimary({ exec: SERVANT, serialization: 'advanced' })
  const worker = cluster.fork()
  bench.atEnd(async () => {
    if (worker.isDead()) return
    worker.process.kill('SIGKILL')
    await once(worker, 'exit')
  })
  return ipcServant(worker.process)
}

describeLayouts('two caches on one directory', storageLayout => {
  const bench = workbench(storageLayout)
  const places: Record<string, (bench: Workbench) => Servant> = {
    'a child process': of => childServant(of).servant, 'a worker thread': of => threadServant(of).servant, 'a cluster worker': clusterServant
  }

  const soon = async (holds: () => Promise<boolean>, what: string): Promise<void> => {
    if (storageLayout === 'segment') await until(holds, what)
    else expect(await holds(), what).to.equal(true)
  }

  it('in the same process: each reads what the other writes, replaces and deletes', async () => {
    const storageDir = await bench.directory()
    const [one, other] = await Promise.all([bench.open({ storageDir }), bench.open({ storageDir })])
    await one.set('k', bytes(9000, 1))
    expect(same(await other.get('k'), bytes(9000, 1))).to.equal(true)
    expect((await other.write([['k', bytes(9000, 1)]]))[0]).to.include({ status: 'already-there' })
    await other.set('k', bytes(20, 2))
    // Files are there at once; of segments the others hear within 50 ms.
    await soon(async () => same(await one.get('k'), bytes(20, 2)), 'one has what the other wrote last')
    expect(await one.delete('k')).to.equal(true)
    // Of objects the other believes what it has seen for a while, until it looks.
    if (storageLayout !== 'object') await soon(async () => !await other.exists('k'), 'the other has not what one deleted')
    expect(await other.get('k')).to.equal(null)
    expect(await other.exists('k')).to.equal(false)
    await one.close()
    expect(await other.set('k', bytes(20, 3))).to.equal(true)
  })
  it('the same key at the same time: whoever is last, readers see one or the other, whole', async () => {
    const storageDir = await bench.directory()
    const caches = await Promise.all([bench.open({ storageDir }), bench.open({ storageDir }), bench.open({ storageDir })])
    await caches[0].set('k', bytes(100_000, 'w0'))
    let writing = true
    const writers = Promise.all(caches.slice(0, 2).map(async (cache, w) => {
      for (let i = 0; i < 40; i++) expect(await cache.set('k', bytes(100_000, `w${(w + i) % 2}`))).to.equal(true)
    })).finally(() => { writing = false })
    let reads = 0
    while (writing || reads === 0) {
      const [outcome] = await caches[2].read(['k'])
      reads++
      // Where another process can take a page's place over, a reader may be overtaken: it says so, and never has other bytes.
      if (storageLayout === 'segment' && !outcome!.ok) {
        expect(outcome).to.include({ status: 'miss' }).and.to.have.property('reason').that.is.oneOf(['stale', 'absent'])
        continue
      }
      expect(outcome, 'a page that is always there').to.include({ ok: true })
      const { value } = outcome as { value: Tensor }
      expect(same(value, bytes(100_000, 'w0')) || same(value, bytes(100_000, 'w1'))).to.equal(true)
    }
    await writers
  })
  for (const [name, start] of Object.entries(places)) {
    it(`here and in ${name}`, async () => {
      const storageDir = await bench.directory()
      const servant = start(bench)
      const cache = await bench.open({ storageDir })
      await servant.ask({ do: 'open', options: placeOptions(storageLayout, storageDir) })
      const [mine, theirs] = [keysOf('mine', 30), keysOf('theirs', 30)]
      const [stored] = await Promise.all([servant.ask<string[]>({ do: 'set', keys: theirs, bytes: 9000 }), cache.batchSet(mine, mine.map(key => bytes(9000, key)))])
      expect(stored).to.deep.equal(theirs.map(() => 'stored'))
      expect(await servant.ask({ do: 'get', keys: [...mine, ...theirs], bytes: 9000 })).to.deep.equal(hits([...mine, ...theirs]))
      const got = await cache.batchGet(theirs)
      got.forEach((page, i) => expect(same(page, bytes(9000, theirs[i]!))).to.equal(true))
      await cache.clear()
      const gone = async (): Promise<boolean> =>
        (await servant.ask<string[]>({ do: 'get', keys: [mine[0]!, theirs[0]!], bytes: 9000 })).every(answer => answer === 'absent')
      await soon(gone, 'none of them is there any more')
      await servant.ask({ do: 'close' })
      expect(await cache.set('after', bytes(10, 1))).to.equal(true)
    })
  }
  it('one is killed while it writes: nothing of it is taken for a page, its leftovers go, the other works on', async () => {
    const storageDir = await bench.directory()
    const { servant, child } = childServant(bench)
    await servant.ask({ do: 'open', options: placeOptions(storageLayout, storageDir) })
    const keys = keysOf('k', 60)
    await servant.ask({ do: 'start', keys, bytes: MIB })
    const cache = await bench.open({ storageDir })
    // In the middle of it: some are there, or all.
    while (!await cache.exists(keys[0]!) && child.exitCode === null) await new Promise(resolve => { setImmediate(resolve) })
    child.kill('SIGKILL')
    await once(child, 'exit')
    for (const outcome of await cache.read(keys)) {
      if (outcome.ok) expect(same(outcome.value, bytes(MIB, outcome.key))).to.equal(true)
      else expect(outcome).to.include({ status: 'miss' }).and.to.have.property('reason').that.is.oneOf(storageLayout === 'segment' ? ['absent', 'stale'] : ['absent'])
    }
    await cache.gc()
    expect(readdirSync(storageDir, { recursive: true }).filter(name => /tmp|\.new$/.test(String(name)))).to.deep.equal([])
  })
}, { systems: false })

describeLayouts('a caller inside a worker thread', storageLayout => {
  const bench = workbench(storageLayout)

  it('opens, moves pages and closes; the thread then ends by itself', async () => {
    const storageDir = await bench.directory()
    const { servant, worker } = threadServant(bench)
    await servant.ask({ do: 'open', options: placeOptions(storageLayout, storageDir) })
    expect(await servant.ask({ do: 'set', keys: ['a', 'b'], bytes: 100_000 })).to.deep.equal(['stored', 'stored'])
    expect(await servant.ask({ do: 'get', keys: ['a', 'b', 'c'], bytes: 100_000 })).to.deep.equal(['hit', 'hit', 'absent'])
    await servant.ask({ do: 'close' })
    expect(await worker.terminate()).to.equal(1)
  })
  it('is terminated with I/O in flight: the process lives on, and what was stored is whole', async () => {
    const storageDir = await bench.directory()
    const keys = keysOf('k', 40)
    for (let round = 0; round < 4; round++) {
      const { servant, worker } = threadServant(bench)
      await servant.ask({ do: 'open', options: { modelName: `round-${round}`, ...placeOptions(storageLayout, storageDir) } })
      await servant.ask({ do: 'start', keys, bytes: MIB })
      for (let i = 0; i < round * 3; i++) await new Promise(resolve => { setImmediate(resolve) })
      await worker.terminate()
    }
    for (let round = 0; round < 4; round++) {
      const cache = await bench.open({ storageDir, modelName: `round-${round}` })
      for (const outcome of await cache.read(keys)) {
        if (outcome.ok) expect(same(outcome.value, bytes(MIB, outcome.key))).to.equal(true)
        else expect(outcome).to.include({ status: 'miss' }).and.to.have.property('reason').that.is.oneOf(storageLayout === 'segment' ? ['absent', 'stale'] : ['absent'])
      }
      expect(await cache.set('after', bytes(10, 1))).to.equal(true)
    }
  })
}, { systems: false })
