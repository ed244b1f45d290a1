import { readFile, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'chai'
import type { HiCacheNixl } from '../../lib/index.js'
import { BusyChild, inTurns, type Ending } from '../support/busy-children.js'
import { bytes } from '../support/content.js'
import { describeLayouts, placeOptions } from '../support/layouts.js'
import { objectPlace } from '../support/object-place.js'
import { filesBelow } from '../support/page-files.js'
import { STORAGE_PATHS, bounded, keys, plan, until } from '../support/planned-faults.js'
import { s3Front } from '../support/s3-front.js'
import { isWhole } from '../support/versioned-pages.js'
import { workbench } from '../support/workbench.js'

const PAGE = 100_000
const SUFFIX = '__0_1'
const names = keys('page', 40)
/** Children at a time: as many as the smallest machine we know has cores. */
const AT_ONCE = 2

/** Children of each ending. */
const CHILDREN = { file: 10, segment: 4, object: 2 }
const KILLS = { file: 100, segment: 20, object: 8 }

const engines = [...STORAGE_PATHS]
const ends = [
  { name: 'process.exit()', end: 'exit', signal: null, expected: { code: 7, signal: null } },
  { name: 'an exception that nobody catches', end: 'throw', signal: null, expected: { code: 1, signal: null } },
  { name: 'the end of its main module', end: 'return', signal: null, expected: { code: 0, signal: null } },
  { name: 'SIGTERM', end: 'never', signal: 'SIGTERM', expected: { code: null, signal: 'SIGTERM' } },
  { name: 'SIGKILL', end: 'never', signal: 'SIGKILL', expected: { code: null, signal: 'SIGKILL' } }
] as const

const temporaries = async (directory: string): Promise<string[]> => (await filesBelow(directory)).filter(name => !name.endsWith(SUFFIX))

const lockedTemporaries = async (directory: string): Promise<string[]> => {
  const locked = new Set([...(await readFile('/proc/locks', 'utf8')).matchAll(/ FLOCK .*:(\d+) 0 EOF$/gm)].map(([, inode]) => inode))
  const names = await temporaries(directory)
  const inodes = await Promise.all(names.map(async name => String((await stat(join(directory, name))).ino)))
  return names.filter((_, i) => locked.has(inodes[i]))
}

/** Every page is one of its versions, or not there. */
async function expectWhole(cache: HiCacheNixl): Promise<void> {
  for (const outcome of await cache.read(names)) {
    if (outcome.ok) expect(isWhole(outcome.key, outcome.value, PAGE), outcome.key).to.equal(true)
    else expect(outcome, outcome.key).to.include({ status: 'miss', reason: 'absent' })
  }
  expect(await cache.verify()).to.include({ corrupt: 0, unverified: 0, missing: 0 })
}

describeLayouts('a process ends with transfers in flight', storageLayout => {
  const bench = workbench(storageLayout)

  for (const { name, end, signal, expected } of ends) {
    it(`${name}: it does not crash, and what it leaves is whole pages`, async function () {
      this.timeout(60_000)
      const directories = await Promise.all(engines.map(({ parent }) => bench.directory(parent)))
      // Different moments, over the engines and, in the file layout, both ways of writing.
      await inTurns(CHILDREN[storageLayout], AT_ONCE, async i => {
        const at = i % engines.length
        const child = new BusyChild(bench, {
          options: { ...placeOptions(storageLayout, directories[at]!), engine: engines[at]!.engine, ...(i >= 4 && i < 8 ? { workers: 1 } : {}) },
          keys: names, pageBytes: PAGE, end, batches: i, turns: i * 3 % 7, seed: i + 1, named: storageLayout === 'file' && i >= 4 && i < 8
        })
        if (signal !== null) {
          await child.says('busy', i + 1)
          child.process.kill(signal)
        }
        const ending: Ending = await bounded(child.ended, 'the end of the process', 30_000)
        expect({ code: ending.code, signal: ending.signal }, ending.stderr).to.deep.equal(expected)
        expect(ending.said).to.include('ready')
        expect(ending.said.filter(line => line.startsWith('WRONG'))).to.deep.equal([])
        expect(ending.stderr.includes('thrown on purpose')).to.equal(end === 'throw')
      })
      for (const storageDir of directories) {
        const cache = await bench.open({ storageDir, directoryScheme: 'flat' })
        await cache.gc()
        await expectWhole(cache)
        if (storageLayout === 'file') expect(await temporaries(storageDir), 'leftovers').to.deep.equal([])
        await cache.close()
      }
    })
  }

  it('what hangs does not keep a process from its end', async function () {
    this.timeout(60_000)
    await inTurns(storageLayout === 'object' ? 2 : engines.length, AT_ONCE, async i => {
      const { engine, parent, complete } = engines[i]!
      const storageDir = await bench.directory(parent)
      // Behind an endpoint it is the answers that do not come.
      const front = storageLayout === 'object' ? await s3Front(bench, objectPlace().gateway.endpoint) : null
      front?.hold('page')
      const child = new BusyChild(bench, {
        options: { ...placeOptions(storageLayout, storageDir, front?.endpoint), engine, timeoutMs: 50 }, keys: names, pageBytes: PAGE, end: i % 2 === 0 ? 'exit' : 'throw', batches: 4, turns: 1, seed: i + 1,
        faults: [{ point: complete ?? 'preadv', hang: true, times: 0 }, { point: 'pwritev', hang: true, times: 0, after: 20 }]
      })
      const ending = await bounded(child.ended, 'the end of the process', 30_000)
      expect({ code: ending.code, signal: ending.signal }, ending.stderr).to.deep.equal({ code: i % 2 === 0 ? 7 : 1, signal: null })
      const cache = await bench.open({ storageDir, directoryScheme: 'flat' })
      await expectWhole(cache)
      await cache.close()
    })
  })
}, { systems: false })

/** Are all threads of the process stopped? */
async function standsStill(pid: number): Promise<boolean> {
  const threads = await readdir(`/proc/${pid}/task`)
  const states = await Promise.all(threads.map(async thread => await readFile(`/proc/${pid}/task/${thread}/stat`, 'utf8')))
  // The state follows the name, which is in brackets and may hold anything.
  return states.every(stat => stat.slice(stat.lastIndexOf(')')).startsWith(') T'))
}

describe('leftovers', () => {
  const bench = workbench('file')

  it('of a writer that was killed are swept at the next opening, and pages of its name are as they were', async () => {
    const storageDir = await bench.directory()
    const first = await bench.open({ storageDir, directoryScheme: 'flat' })
    await first.set('page-00', bytes(PAGE, 'before'))
    await first.close()
    const child = new BusyChild(bench, {
      options: { storageDir, workers: 1 }, keys: ['page-00'], pageBytes: PAGE, end: 'never', batches: 0, turns: 0, seed: 1,
      faults: [{ point: 'rename', hang: true, times: 0 }]
    })
    await child.says('ready')
    await until(async () => (await temporaries(storageDir)).length > 0, 'the child holds a temporary')
    child.process.kill('SIGKILL')
    await child.ended
    expect(await temporaries(storageDir)).to.have.length(1)
    const second = await bench.open({ storageDir, directoryScheme: 'flat' })
    await until(() => second.stats().leftovers_removed === 1, 'it is swept')
    expect(await temporaries(storageDir)).to.deep.equal([])
    expect(await second.get('page-00')).to.not.equal(null)
  })

  it('of one that lives, also one that stands still, are never touched', async () => {
    const storageDir = await bench.directory()
    const first = await bench.open({ storageDir, directoryScheme: 'flat', workers: 1 })
    await first.set('page-00', bytes(PAGE, 'before'))
    const end = plan(bench, { point: 'rename', match: 'page-00', hang: true })
    const writing = first.set('page-00', bytes(PAGE, 'after'))
    await until(async () => (await temporaries(storageDir)).length === 1, 'it holds a temporary')
    // A process of its own, stopped in the middle of its writes.
    const child = new BusyChild(bench, {
      options: { storageDir, workers: 1 }, keys: names.slice(1), pageBytes: PAGE, end: 'never', batches: 0, turns: 0, seed: 2, named: true,
      faults: [{ point: 'rename', hang: true, times: 0 }]
    })
    await child.says('ready')
    await until(async () => (await temporaries(storageDir)).length > 1, 'the child holds temporaries')
    child.process.kill('SIGSTOP')
    // The signal is on its way: each thread stops when it next leaves the kernel, and until then its system call goes on.
    await until(() => standsStill(child.process.pid!), 'every thread of the child stands still')
    // One that has its name and not yet its lock may go: its writer sees that, and makes another.
    const held = await lockedTemporaries(storageDir)
    expect(held).to.have.length.greaterThan(1)
    const second = await bench.open({ storageDir, directoryScheme: 'flat' })
    await second.gc()
    expect(await temporaries(storageDir)).to.include.members(held)
    end()
    expect(await writing).to.equal(true)
    child.process.kill('SIGKILL')
    await child.ended
    expect((await second.gc()).leftovers).to.be.at.least(held.length - 1)
    expect(await temporaries(storageDir)).to.deep.equal([])
  })
})

describeLayouts('writers are killed at random while another process reads', storageLayout => {
  const bench = workbench(storageLayout)
  const kills = KILLS[storageLayout]

  it('no byte is ever wrong', async function () {
    this.timeout(120_000)
    const storageDir = await bench.directory()
    const reader = await bench.open({ storageDir, directoryScheme: 'flat' })
    const tally = { hits: 0, absent: 0, other: [] as unknown[] }
    // Whenever a writer has written, and so at the time of other writers' deaths.
    const now: { reading: Promise<void> | null } = { reading: null }
    const readAll = (): void => {
      now.reading ??= reader.read(names).then(outcomes => {
        now.reading = null
        for (const outcome of outcomes) {
          if (outcome.ok && isWhole(outcome.key, outcome.value, PAGE)) tally.hits++
          else if (!outcome.ok && outcome.status === 'miss' && (outcome.reason === 'absent' || storageLayout === 'segment' && outcome.reason === 'stale')) tally.absent++
          else tally.other.push(outcome)
        }
      })
    }
    const wrong: string[] = []
    await inTurns(kills, AT_ONCE, async i => {
      const named = storageLayout === 'file' && i % 2 === 0
      const child = new BusyChild(bench, {
        options: { ...placeOptions(storageLayout, storageDir), workers: 1 }, keys: names, pageBytes: PAGE, end: 'never', batches: 0, turns: 0, seed: i + 1, named
      })
      child.process.on('message', readAll)
      await child.says('busy', 1 + i % 5)
      child.process.kill('SIGKILL')
      const { signal, said } = await child.ended
      expect(signal).to.equal('SIGKILL')
      wrong.push(...said.filter(line => line.startsWith('WRONG')))
    })
    await now.reading
    expect(wrong).to.deep.equal([])
    expect(tally.other).to.deep.equal([])
    expect(tally.hits).to.be.greaterThan(kills)
    await reader.gc()
    expect(await reader.verify()).to.include({ corrupt: 0, unverified: 0, missing: 0 })
    if (storageLayout === 'file') expect((await readdir(join(storageDir, '.hicache-nixl-tmp')).catch(() => [])), 'leftovers').to.deep.equal([])
  })
}, { systems: false })
