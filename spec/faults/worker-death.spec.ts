import type { Worker } from 'node:worker_threads'
import { expect } from 'chai'
import { type HiCacheError, type HiCacheNixl, type ReadOutcome, type Target, type WriteOutcome } from '../../lib/index.js'
import { bytes, fill, same } from '../support/content.js'
import { describeDiskLayouts } from '../support/layouts.js'
import { filesBelow } from '../support/page-files.js'
import { STORAGE_PATHS, bounded, descriptors, keys, openFilesBelow, openOn, plan, until } from '../support/planned-faults.js'
import { workbench } from '../support/workbench.js'

const PAGE = 256 * 1024
const SUFFIX = '__0_1'

const write = (cache: HiCacheNixl, names: readonly string[]): Promise<WriteOutcome[]> => cache.write(names.map(key => [key, bytes(PAGE, key)]))

for (const path of STORAGE_PATHS) {
  describeDiskLayouts(`a worker dies: ${path.name}`, storageLayout => {
    const bench = workbench(storageLayout)
    const threads: Worker[] = []
    /** Node tells of every thread that this process starts: those of the caches' pools. */
    const hear = (worker: Worker): void => {
      threads.push(worker)
      worker.on('exit', () => { threads.splice(threads.indexOf(worker), 1) })
    }
    before(() => { process.on('worker', hear) })
    after(() => { process.off('worker', hear) })

    let cache: HiCacheNixl
    let directory: string
    const names = keys('page', 12)
    const stuck = keys('stuck', 8)
    const unanswered = path.complete ?? 'preadv'
    beforeEach(async function () {
      threads.length = 0
      directory = await bench.directory(path.parent)
      cache = await openOn(bench, path, this, { storageDir: directory, directoryScheme: 'flat', threads: 64 })
      expect((await write(cache, [...names, ...stuck])).every(({ ok }) => ok)).to.equal(true)
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
      expect((await write(cache, fresh)).map(({ status }) => status)).to.deep.equal(fresh.map(() => 'stored'))
      for (const outcome of await cache.read([...names, ...fresh, ...stuck])) {
        expect(outcome.ok && same(outcome.value, bytes(PAGE, outcome.key)), outcome.key).to.equal(true)
      }
    }

    it('its requests fail, those of the other worker do not; it is replaced, and the next requests work', async () => {
      // A batch of 2 MiB is split: half of it is with each worker, and all of it hangs.
      let end = plan(bench, { point: unanswered, match: storageLayout === 'file' ? 'stuck' : '.data', hang: true, times: stuck.length })
      const reading = cache.read(stuck)
      await until(() => cache.stats().in_flight_requests === stuck.length, 'all are in flight')
      const first = threads[0]!
      await bounded(first.terminate(), 'the end of a worker with reads in the kernel')
      await until(() => cache.stats().in_flight_requests === stuck.length / 2, 'its requests have ended')
      end()
      const outcomes = await bounded(reading, 'the reads')
      expect(outcomes.filter(outcome => outcome.ok && same(outcome.value, bytes(PAGE, outcome.key)))).to.have.length(stuck.length / 2)
      expectLost(outcomes.filter(({ ok }) => !ok))
      expect(cache.stats()).to.include({ worker_restarts: 1 })
      await allAlive()
      expect(threads).to.not.include(first)
      await works('after')
      end = plan(bench)
      await until(() => cache.stats().arena_used_bytes === 0, 'the arena is free')
    })

    // That all have begun shows in the files that are open.
    if (storageLayout === 'file') {
      it('the memory of its requests is not used before the kernel has let go', async () => {
        const end = plan(bench, { point: unanswered, match: 'stuck', hang: true, times: 0 })
        const reading = cache.read(stuck)
        await until(() => openFilesBelow(directory).length === stuck.length, 'all have begun')
        // Both workers at once.
        await bounded(Promise.all([...threads].map(thread => thread.terminate())), 'the end of the workers')
        expectLost(await bounded(reading, 'the reads'))
        const held = cache.stats().arena_quarantined_bytes!
        expect(held).to.be.greaterThan(0)
        await allAlive()
        expect(cache.stats()).to.include({ worker_restarts: 2 })
        const tensors = Array.from({ length: 30 }, (_, i) => {
          const tensor = cache.allocate({ dtype: 'uint8', shape: [PAGE] })
          fill(tensor.data as Uint8Array, `held ${i}`)
          return tensor
        })
        const fresh = keys('meanwhile', 10)
        expect((await write(cache, fresh)).every(({ ok }) => ok)).to.equal(true)
        expect(cache.stats().arena_quarantined_bytes).to.equal(held)
        // The dead workers' completions come now, and touch no byte of anybody else.
        end()
        await until(() => cache.stats().arena_quarantined_bytes === 0, 'the kernel has let go')
        tensors.forEach((tensor, i) => {
          expect(same(tensor, bytes(PAGE, `held ${i}`)), `memory of others, ${i}`).to.equal(true)
          tensor.release()
        })
        await works('after')
        expect(cache.stats().arena_used_bytes).to.equal(0)
      })
    }

    it('twice in a row, all of them, also while the replacements start', async () => {
      // Segments stay open, and there are more of them with every round.
      const open = (): number => descriptors() - (storageLayout === 'file' ? 0 : openFilesBelow(directory).length)
      const opened = open()
      for (let round = 0; round < 3; round++) {
        const writing = write(cache, keys(`round-${round}`, 8))
        const reading = cache.read(names)
        await Promise.all([...threads].map(thread => thread.terminate()))
        for (const outcome of [...await bounded(writing, 'the writes'), ...await bounded(reading, 'the reads')]) {
          if (!outcome.ok) expectLost([outcome])
        }
      }
      await allAlive()
      await works('after')
      expect(cache.health().status).to.equal('ok')
      // What was lost is not there, or whole.
      for (const outcome of await cache.read(keys('round-0', 8))) {
        expect(outcome.ok ? same(outcome.value, bytes(PAGE, outcome.key)) : outcome.status === 'miss' && outcome.reason === 'absent', outcome.key).to.equal(true)
      }
      if (storageLayout === 'file') expect((await filesBelow(directory)).filter(name => !name.endsWith(SUFFIX)), 'temporaries left behind').to.deep.equal([])
      expect(cache.stats()).to.include({ arena_used_bytes: 0, arena_quarantined_bytes: 0, in_flight_requests: 0 })
      await until(() => open() <= opened, 'the descriptors of the dead are closed')
    })
  })
}
