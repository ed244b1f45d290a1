import { expect } from 'chai'
import type { ArenaTensor, HiCacheNixl, ReadOutcome, Target, WriteOutcome } from '../../lib/index.js'
import { HiCacheError } from '../../lib/index.js'
import type { Fault } from '../../lib/transfer/native-binding.js'
import { loadAddon } from '../../lib/transfer/load-addon.js'
import { bytes, fill, same } from '../support/content.js'
import { describeDiskLayouts } from '../support/layouts.js'
import { filesBelow } from '../support/page-files.js'
import { STORAGE_PATHS, bounded, descriptors, keys, openFilesBelow, openOn, plan, until } from '../support/planned-faults.js'
import { MIB, workbench } from '../support/workbench.js'

const PAGE = 256 * 1024
const SUFFIX = '__0_1'

const write = (cache: HiCacheNixl, names: readonly string[], options?: { timeoutMs?: number; signal?: AbortSignal }): Promise<WriteOutcome[]> =>
  cache.write(names.map(key => [key, bytes(PAGE, key)]), options)

const quarantined = (cache: HiCacheNixl): number => cache.stats().arena_quarantined_bytes!

/** The kernel has let go of everything. */
async function allFree(cache: HiCacheNixl): Promise<void> {
  await until(() => quarantined(cache) === 0 && cache.stats().arena_used_bytes === 0, 'the arena is free again')
}

/** What callers may hold of the arena, held and filled; `check` says whether every byte is still as it was. */
function fillArena(cache: HiCacheNixl): { readonly held: number; check: () => boolean; release: () => void } {
  const tensors: ArenaTensor[] = []
  try {
    for (;;) {
      const tensor = cache.allocate({ dtype: 'uint8', shape: [PAGE] })
      fill(tensor.data as Uint8Array, `held ${tensors.length}`)
      tensors.push(tensor)
    }
  } catch (error) {
    if (!HiCacheError.is(error) || error.code !== 'ERR_REJECTED') throw error
  }
  return {
    held: tensors.length,
    check: () => tensors.every((tensor, i) => same(tensor, bytes(PAGE, `held ${i}`))),
    release: () => { for (const tensor of tensors) tensor.release() }
  }
}

for (const path of STORAGE_PATHS) {
  describeDiskLayouts(`a completion that never comes: ${path.name}`, storageLayout => {
    const bench = workbench(storageLayout)
    /** The next `times` pages that pass the point: those whose key has that name; in the segment layout, where pages share a file, the next ones of all. */
    const stall = (point: string, name: string, times: number): Fault => ({ point, match: storageLayout === 'file' ? name : '.data', hang: true, times })
    let cache: HiCacheNixl
    let directory: string
    const names = keys('page', 12)
    const stuck = keys('stuck', 4)
    const unanswered = path.complete ?? 'preadv'
    beforeEach(async function () {
      directory = await bench.directory(path.parent)
      cache = await openOn(bench, path, this, { storageDir: directory, directoryScheme: 'flat' })
      expect((await write(cache, [...names, ...stuck])).every(({ ok }) => ok)).to.equal(true)
    })

    /** Reads and writes of other pages work, and nothing of what hangs shows in them. */
    const othersWork = async (round: string): Promise<void> => {
      const fresh = keys(`fresh-${round}`, 6)
      expect((await write(cache, fresh)).map(({ status }) => status)).to.deep.equal(fresh.map(() => 'stored'))
      const outcomes = await cache.read([...names, ...fresh])
      outcomes.forEach(outcome => { expect(outcome.ok && same(outcome.value, bytes(PAGE, outcome.key)), outcome.key).to.equal(true) })
    }

    const expectFailures = (outcomes: readonly (ReadOutcome<Target> | WriteOutcome)[], status: string, code: string): void => {
      for (const outcome of outcomes) {
        expect(outcome).to.include({ ok: false, status })
        expect((outcome as { error: HiCacheError }).error).to.include({ code })
      }
    }

    /** The workers have answered: all memory that is in use is in quarantine. What had not begun is free. */
    const answered = (on = cache): Promise<void> => until(() => quarantined(on) === on.stats().arena_used_bytes, 'the workers have answered')

    it('ends at its deadline as timeout; its memory is not used again until the kernel lets go', async () => {
      const end = plan(bench, stall(unanswered, 'stuck', stuck.length))
      expectFailures(await bounded(cache.read(stuck, { timeoutMs: 400 }), 'a read with a deadline'), 'timeout', 'ERR_TIMEOUT')
      await answered()
      const withheld = quarantined(cache)
      expect(withheld).to.be.greaterThan(0)
      expect(cache.stats()).to.include({ in_flight_requests: 0, in_flight_bytes: 0 })
      expect(cache.stats().pages_read_timeout).to.equal(stuck.length)
      // A directory in which operations pass their deadline is not asked at once again, then it is, and answers.
      expect(cache.health().status).to.equal('degraded')
      await until(async () => (await cache.get(names[0]!)) !== null, 'the directory is tried again')
      expect(cache.health().status).to.equal('ok')

      const held = fillArena(cache)
      await othersWork('meanwhile')
      expect(quarantined(cache)).to.equal(withheld)
      // Late, and into its own memory.
      expect(end()[0]! * PAGE).to.equal(withheld)
      await until(() => quarantined(cache) === 0, 'the kernel has let go')
      expect(held.check(), 'memory of others').to.equal(true)
      await othersWork('afterwards')
      held.release()
      await allFree(cache)
      const outcomes = await cache.read(stuck)
      outcomes.forEach(outcome => { expect(outcome.ok && same(outcome.value, bytes(PAGE, outcome.key))).to.equal(true) })
    })

    // That it has begun shows in the files that are open.
    if (storageLayout === 'file') {
      it('cancelled by its signal after it began: cancelled at once, its memory is not used again', async () => {
        const end = plan(bench, { point: unanswered, match: 'stuck', hang: true, times: 0 })
        const controller = new AbortController()
        const target = new Uint8Array(PAGE).fill(7)
        const reading = cache.read([[stuck[0]!, target], stuck[1]!], { signal: controller.signal })
        await until(() => openFilesBelow(directory).length === 2, 'both have begun')
        controller.abort(new Error('changed my mind'))
        expectFailures(await bounded(reading, 'a cancelled read'), 'cancelled', 'ERR_CANCELLED')
        await answered()
        const held = fillArena(cache)
        await othersWork('meanwhile')
        end()
        await until(() => quarantined(cache) === 0, 'the kernel has let go')
        expect(held.check(), 'memory of others').to.equal(true)
        expect(target.every(byte => byte === 7), 'the target of a cancelled read').to.equal(true)
        held.release()
        await allFree(cache)
      })
    }

    it('cancelled before it began: nothing is done, nothing is held', async () => {
      const aborted = AbortSignal.abort(new Error('too late'))
      const files = await filesBelow(directory)
      expectFailures(await cache.read([names[0]!], { signal: aborted }), 'cancelled', 'ERR_CANCELLED')
      expectFailures(await write(cache, ['never'], { signal: aborted }), 'cancelled', 'ERR_CANCELLED')
      expect(await cache.get(names[0]!, { signal: aborted })).to.equal(null)
      expect(await cache.set('never', bytes(PAGE, 'never'), { signal: aborted })).to.equal(false)
      if (storageLayout === 'file') expect(await filesBelow(directory)).to.deep.equal(files)
      expect(cache.stats()).to.include({ arena_used_bytes: 0, arena_quarantined_bytes: 0, in_flight_requests: 0, queued_requests: 0 })
    })

    // Pages of a segment are not opened one by one.
    if (storageLayout === 'file') {
      for (const together of [true, false]) {
        it(`cancelled while it waits for a thread, ${together ? 'in one batch with what holds the threads up' : 'behind it'}: it never begins, and its memory is free at once`, async function () {
          const on = await openOn(bench, path, this, { storageDir: await bench.directory(path.parent), directoryScheme: 'flat', workers: 1, threads: 2 })
          await on.set('warm', bytes(PAGE, 'warm'))
          const end = plan(bench, { point: 'open', match: 'blocker', hang: true, times: 0 })
          const blockers = write(on, keys('blocker', 2))
          if (!together) await until(() => on.stats().in_flight_requests === 2, 'the blockers are with the worker')
          const controller = new AbortController()
          const waiting = write(on, keys('waiting', 8), { signal: controller.signal })
          await until(() => on.stats().in_flight_requests === 10, 'all are with the worker')
          controller.abort()
          expectFailures(await bounded(waiting, 'a cancelled write'), 'cancelled', 'ERR_CANCELLED')
          expect(on.stats()).to.include({ arena_used_bytes: 2 * PAGE, arena_quarantined_bytes: 0, in_flight_requests: 2 })
          end()
          expect((await blockers).map(({ status }) => status)).to.deep.equal(['stored', 'stored'])
          expect(await on.batchExists(keys('waiting', 8))).to.equal(0)
          await allFree(on)
        })
      }
    }

    it('one page of a batch hangs: the others arrive at the deadline, and the directory does not count as hung', async () => {
      const end = plan(bench, stall(unanswered, 'stuck-02', 1))
      const outcomes = await bounded(cache.read([...names, ...stuck], { timeoutMs: 1000 }), 'a read with a deadline')
      expectFailures(outcomes.filter(({ ok }) => !ok), 'timeout', 'ERR_TIMEOUT')
      if (storageLayout === 'file') expect(outcomes[names.length + 2]).to.include({ ok: false })
      expect(outcomes.filter(outcome => outcome.ok && same(outcome.value, bytes(PAGE, outcome.key)))).to.have.length(names.length + 3)
      expect(cache.health().status).to.equal('ok')
      expect(quarantined(cache)).to.equal(PAGE)
      await othersWork('meanwhile')
      end()
      await allFree(cache)
    })

    // That it has begun shows in the files that are open.
    if (storageLayout === 'file') {
      it('a write that was given up does not replace a later one', async () => {
        const end = plan(bench, { point: 'pwritev', match: 'stuck-00', hang: true })
        const controller = new AbortController()
        const given = cache.write([['stuck-00', bytes(PAGE, 'given up')]], { signal: controller.signal })
        // The new file, which has no name yet.
        await until(() => openFilesBelow(directory).some(path => path.endsWith('(deleted)')), 'it has begun')
        controller.abort()
        expectFailures(await bounded(given, 'a cancelled write'), 'cancelled', 'ERR_CANCELLED')
        expect((await cache.write([['stuck-00', bytes(PAGE, 'later')]]))[0]).to.include({ status: 'stored' })
        end()
        await allFree(cache)
        expect(same(await cache.get('stuck-00'), bytes(PAGE, 'later'))).to.equal(true)
        expect((await filesBelow(directory)).filter(name => !name.endsWith(SUFFIX)), 'temporaries left behind').to.deep.equal([])
      })
    }

    it('a page whose write was given up is whole, or not there', async () => {
      const end = plan(bench, stall(storageLayout === 'file' ? 'pwritev' : path.complete ?? 'pwritev', 'given', 4))
      expectFailures(await bounded(write(cache, keys('given', 4), { timeoutMs: 400 }), 'a write with a deadline'), 'timeout', 'ERR_TIMEOUT')
      if (storageLayout === 'file') expect(await filesBelow(directory), 'no half page').to.have.length(names.length + stuck.length)
      end()
      await allFree(cache)
      await until(() => cache.health().status === 'ok' || cache.exists(names[0]!).then(() => false), 'the directory answers')
      for (const outcome of await cache.read(keys('given', 4))) {
        if (outcome.ok) expect(same(outcome.value, bytes(PAGE, outcome.key))).to.equal(true)
        else expect(outcome).to.include({ status: 'miss', reason: 'absent' })
      }
    })

    it('close() ends within its grace, and what comes back later harms nobody', async () => {
      const opened = descriptors()
      const storageDir = await bench.directory(path.parent)
      const on = await bench.open({ engine: path.engine, storageDir, directoryScheme: 'flat' })
      await write(on, stuck)
      const end = plan(bench, stall(unanswered, 'stuck', stuck.length))
      const reading = on.read(stuck)
      await until(() => on.stats().in_flight_requests === stuck.length, 'it is in flight')
      await bounded(on.close({ graceMs: 50 }), 'close() with a read that hangs')
      expectFailures(await bounded(reading, 'the read'), 'cancelled', 'ERR_CLOSED')
      expect(on.health().status).to.equal('closed')
      // Another cache of the process gets none of that memory.
      const held = fillArena(cache)
      end()
      await until(() => descriptors() <= opened, 'the descriptors of the closed cache are closed')
      expect(held.check()).to.equal(true)
      held.release()
      await othersWork('afterwards')
    })

    // Whatever hangs of many is told by its name.
    if (storageLayout === 'file') {
      it('most of the arena hangs: the rest carries on, and what finds no room ends at its own deadline', async function () {
        const storageDir = await bench.directory(path.parent)
        const on = await openOn(bench, path, this, { storageDir, directoryScheme: 'flat', threads: 64 })
        const many = keys('many', 40)
        expect((await write(on, many)).every(({ ok }) => ok)).to.equal(true)
        const end = plan(bench, { point: unanswered, match: 'many', hang: true, times: 0 })
        const controller = new AbortController()
        const reading = on.read(many, { signal: controller.signal })
        // A file that is open need not be read yet.
        await until(() => openFilesBelow(storageDir).length === many.length && loadAddon().faultsStruck()[0]! > 0, 'all have begun')
        controller.abort()
        expectFailures(await bounded(reading, 'a cancelled read'), 'cancelled', 'ERR_CANCELLED')
        await answered(on)
        const left = quarantined(on)
        expect(left).to.be.greaterThan(0)
        expect((await write(on, keys('rest', 20))).map(({ status }) => status)).to.deep.equal(keys('rest', 20).map(() => 'stored'))
        if (left > 4 * MIB) expectFailures(await bounded(on.write([['large', new Uint8Array(10 * MIB)]], { timeoutMs: 100 }), 'a large write'), 'timeout', 'ERR_TIMEOUT')
        end()
        await allFree(on)
        expect((await on.write([['large', new Uint8Array(10 * MIB)]]))[0]).to.include({ status: 'stored' })
      })
    }
  })
}
