import type { Worker } from 'node:worker_threads'
import { expect } from 'chai'
import type { HiCacheError, HiCacheNixl, ReadOutcome, Target, WriteOutcome } from '../../lib/index.js'
import { bytes, same } from '../support/content.js'
import { describeObjects } from '../support/object-place.js'
import { bounded, descriptors, keys, until } from '../support/planned-faults.js'
import { workbench } from '../support/workbench.js'

const PAGE = 256 * 1024

/** As worker-death.spec.ts has it for files; what hangs here are answers. */
describeObjects('a worker dies with requests to an object store', () => {
  const bench = workbench('object', { hangs: true })
  const threads: Worker[] = []
  const hear = (worker: Worker): void => {
    threads.push(worker)
    worker.on('exit', () => { threads.splice(threads.indexOf(worker), 1) })
  }
  before(() => { process.on('worker', hear) })
  after(() => { process.off('worker', hear) })
  let cache: HiCacheNixl
  const names = keys('page', 6)
  const stuck = keys('stuck', 8)
  const write = (all: readonly string[]): Promise<WriteOutcome[]> => cache.write(all.map(key => [key, bytes(PAGE, key)]))
  beforeEach(async () => {
    threads.length = 0
    cache = await bench.open({ workers: 2 })
    expect((await write([...names, ...stuck])).every(({ ok }) => ok)).to.equal(true)
    expect(threads).to.have.length(2)
  })
  const expectLost = (outcomes: readonly (ReadOutcome<Target> | WriteOutcome)[]): void => {
    for (const outcome of outcomes) {
      expect(outcome).to.include({ ok: false, status: 'failed' })
      expect((outcome as { error: HiCacheError }).error).to.include({ code: 'ERR_WORKER' })
    }
  }
  const allAlive = (): Promise<void> => until(() => cache.stats().workers_alive === 2 && threads.length === 2, 'two workers run again')
  const works = async (round: string): Promise<void> => {
    const fresh = keys(`fresh-${round}`, 8)
    expect((await write(fresh)).map(({ status }) => status)).to.deep.equal(fresh.map(() => 'stored'))
    for (const outcome of await cache.read([...names, ...fresh, ...stuck])) expect(outcome.ok && same(outcome.value, bytes(PAGE, outcome.key)), outcome.key).to.equal(true)
  }

  it('its requests fail, those of the other do not; their connections are closed, their memory comes back, it is replaced', async () => {
    const letGo = bench.front.hold('stuck')
    const reading = cache.read(stuck)
    await until(() => bench.front.held === stuck.length, 'all are under way')
    const first = threads[0]!
    await bounded(first.terminate(), 'the end of a worker')
    await until(() => cache.stats().in_flight_requests === stuck.length / 2, 'its requests have ended')
    await until(() => bench.front.held === stuck.length / 2, 'its connections are closed')
    letGo()
    const outcomes = await bounded(reading, 'the reads')
    expect(outcomes.filter(outcome => outcome.ok && same(outcome.value, bytes(PAGE, outcome.key)))).to.have.length(stuck.length / 2)
    expectLost(outcomes.filter(({ ok }) => !ok))
    await allAlive()
    expect(threads).to.not.include(first)
    expect(cache.stats()).to.include({ worker_restarts: 1 })
    await works('after')
    await until(() => cache.stats().arena_used_bytes === 0, 'the arena is free')
  })

  it('all of them, again and again, in the midst of reads and writes', async () => {
    const opened = descriptors()
    for (let round = 0; round < 3; round++) {
      const [writing, reading] = [write(keys(`round-${round}`, 8)), cache.read(names)]
      await Promise.all([...threads].map(thread => thread.terminate()))
      for (const outcome of [...await bounded(writing, 'the writes'), ...await bounded(reading, 'the reads')]) if (!outcome.ok) expectLost([outcome])
    }
    await allAlive()
    await works('after')
    expect(cache.health().status).to.equal('ok')
    for (const outcome of await cache.read(keys('round-0', 8))) {
      expect(outcome.ok ? same(outcome.value, bytes(PAGE, outcome.key)) : outcome.status === 'miss' && outcome.reason === 'absent', outcome.key).to.equal(true)
    }
    await until(() => cache.stats().arena_used_bytes === 0, 'the arena is free')
    expect(cache.stats()).to.include({ arena_quarantined_bytes: 0, in_flight_requests: 0 })
    // Both ends of each connection are in this process.
    bench.front.drop()
    await until(() => descriptors() <= opened, 'the descriptors of the dead are closed')
  })
})
