import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'chai'
import { routePage } from '../../lib/keys/index.js'
import { describeDiskLayouts, layoutOptions } from '../support/layouts.js'
import { bounded, keys, skipUnlessCi, until } from '../support/planned-faults.js'
import { RemoteCache, fuseAt } from '../support/remote-cache.js'
import { workbench } from '../support/workbench.js'

const PAGE = 70_001
const SUFFIX = '__0_1'

/** Keys of pages that lie in the first, or the second, of two directories. */
function keysIn(directory: 0 | 1, name: string, count: number): string[] {
  return keys(name, count * 8).filter(key => routePage(key + SUFFIX, 2, 'bucketed').directory === directory).slice(0, count)
}

describeDiskLayouts('a mount that hangs', storageLayout => {
  const bench = workbench(storageLayout)
  const layout = layoutOptions(storageLayout)
  let mount: string
  let disk: string
  let cache: RemoteCache
  /** The file system's process is all there is of it: stopped, it answers nothing. */
  const hang = (): void => { cache.process.kill('SIGSTOP') }
  const resume = (): void => { cache.process.kill('SIGCONT') }

  beforeEach(async function () {
    this.timeout(60_000)
    const parent = await bench.directory()
    mount = join(parent, 'mount')
    disk = join(parent, 'disk')
    await mkdir(mount)
    await mkdir(disk, { mode: 0o700 })
    const mounted = fuseAt(mount)
    if ('refusal' in mounted) return skipUnlessCi(this, `mounts that hang: a FUSE file system cannot be mounted here: ${mounted.refusal}`)
    cache = new RemoteCache(bench, mounted.through)
  })

  const there = keysIn(0, 'there', 12)
  const elsewhere = keysIn(1, 'elsewhere', 12)
  const openBoth = async (config: object = {}): Promise<void> => {
    const [first, second] = await cache.open({ storageDir: [mount, disk], config, ...layout })
    expect(first).to.include({ fileSystem: 'fuse.hicache-spec', engine: false })
    expect(second!.fileSystem).to.not.include('fuse')
    expect(await cache.write({ keys: [...there, ...elsewhere], bytes: PAGE })).to.deep.equal([...there, ...elsewhere].map(() => 'stored'))
    expect(await cache.read({ keys: [...there, ...elsewhere], bytes: PAGE })).to.deep.equal([...there, ...elsewhere].map(() => 'hit'))
  }
  /** The second directory writes and reads, `rounds` times, without one failure. */
  const othersGoOn = async (name: string, rounds: number): Promise<void> => {
    for (let round = 0; round < rounds; round++) {
      const fresh = keysIn(1, `${name}-${round}`, 8)
      expect(await cache.write({ keys: fresh, bytes: PAGE })).to.deep.equal(fresh.map(() => 'stored'))
      expect(await cache.read({ keys: [...fresh, ...elsewhere], bytes: PAGE })).to.deep.equal([...fresh, ...elsewhere].map(() => 'hit'))
    }
  }
  const only = (statuses: readonly string[], ...allowed: readonly string[]): void => {
    expect(statuses.filter(status => !allowed.includes(status))).to.deep.equal([])
  }

  it('costs its own requests only, and is asked again when it is back', async function () {
    this.timeout(90_000)
    await openBoth()
    hang()
    // While requests to the hung one, more than all of the arena holds, wait for their deadlines, far away, the other directory carries on.
    let waiting = true
    const patient = Promise.all([cache.read({ keys: there, bytes: PAGE }), cache.write({ keys: keysIn(0, 'never', 250), bytes: PAGE })])
      .finally(() => { waiting = false })
    await othersGoOn('meanwhile', 10)
    expect(waiting, 'nothing of the hung directory has ended').to.equal(true)
    // A deadline is kept, whatever hangs.
    expect(await bounded(cache.read({ keys: there, bytes: PAGE, timeoutMs: 200 }), 'reads with a deadline')).to.deep.equal(there.map(() => 'timeout ERR_TIMEOUT'))
    expect(await cache.health()).to.deep.include({ status: 'degraded' })
    expect((await cache.health()).reasons.join()).to.include(mount)

    // From now on its pages are unavailable at once; one a second is let through to see whether it is back.
    const reads = await bounded(cache.read({ keys: there, bytes: PAGE, timeoutMs: 200 }), 'reads of a hung directory')
    only(reads, 'unavailable', 'timeout ERR_TIMEOUT')
    expect(reads.filter(status => status !== 'unavailable').length).to.be.lessThan(2)
    const refused = await bounded(cache.write({ keys: keysIn(0, 'refused', 12), bytes: PAGE, timeoutMs: 200 }), 'writes to a hung directory')
    only(refused, 'rejected ERR_REJECTED', 'timeout ERR_TIMEOUT')
    expect(refused.filter(status => status !== 'rejected ERR_REJECTED').length).to.be.lessThan(2)
    await othersGoOn('afterwards', 5)

    resume()
    const [read, written] = await bounded(patient, 'what waited')
    only(read, 'hit')
    only(written, 'stored')
    await until(async () => (await cache.read({ keys: there, bytes: PAGE })).every(status => status === 'hit'), 'the directory answers again')
    expect(await cache.health()).to.deep.equal({ status: 'ok', reasons: [] })
    await until(async () => (await cache.stats()).arena_used_bytes === 0, 'all memory is back')
    const late = await cache.read({ keys: keysIn(0, 'refused', 12), bytes: PAGE })
    only(late, 'absent', 'hit')
    await bounded(cache.close(5000), 'close()')
  })

  if (storageLayout === 'file') {
    it('the l3 cleaner and gc() wait for it by themselves: the other directory, close() and the process do not', async function () {
      this.timeout(60_000)
      await openBoth({ l3_cleaner_enabled: true, l3_cleaner_high_watermark: 99.9, l3_cleaner_low_watermark: 99 })
      expect(await cache.gc()).to.deep.equal({ leftovers: 0, evictedPages: 0, evictedBytes: 0 })
      hang()
      let ended = false
      cache.gc().then(() => { ended = true }, () => { ended = true })
      await othersGoOn('meanwhile', 4)
      expect(ended).to.equal(false)
      await bounded(cache.close(100), 'close() with a cleaner that hangs')
      cache.exit(0)
      await until(() => cache.dead(), 'the process ends while the mount hangs')
    })
  }

  it('close() ends within its grace, and so does the process', async function () {
    this.timeout(60_000)
    await openBoth()
    hang()
    const reads = cache.read({ keys: there, bytes: PAGE })
    const writes = cache.write({ keys: keysIn(0, 'never', 8), bytes: PAGE })
    await until(async () => (await cache.stats()).in_flight_requests === 20, 'all are in flight')
    await bounded(cache.close(100), 'close() with a directory that hangs')
    only(await bounded(reads, 'the reads'), 'cancelled ERR_CLOSED')
    only(await bounded(writes, 'the writes'), 'cancelled ERR_CLOSED')
    cache.exit(4)
    // A writer of segments has files open there, and the kernel asks a FUSE server about each that is closed, for as long as it takes: nobody's process ends before that.
    if (storageLayout === 'file') await until(() => cache.dead(), 'the process ends while the mount hangs')
    // The file system ends with its command, when it can.
    resume()
    expect(await bounded(cache.ended, 'the end of the process')).to.deep.equal({ code: 4, signal: null })
  })

  // Opening asks the directory before any layout matters, and takes its time to give it up.
  if (storageLayout !== 'file') return
  it('opening a hung directory fails in bounded time, says what is wrong, and does not hold the process', async function () {
    this.timeout(60_000)
    await openBoth()
    await cache.close(1000)
    hang()
    const abandoned = await bounded(cache.open({ storageDir: mount, ...layout }, 200), 'an opening that is abandoned').then(() => null, (error: unknown) => error)
    expect(abandoned).to.include({ code: 'ERR_CANCELLED' })
    const failed = await bounded(cache.open({ storageDir: mount, ...layout }), 'the opening of a hung directory', 30_000).then(() => null, (error: unknown) => error)
    expect(failed).to.include({ code: 'ERR_IO', errno: 'ETIMEDOUT' })
    expect((failed as Error).message).to.include(mount).and.to.include('hangs')
    // Nothing else of the process suffers.
    await cache.open({ storageDir: disk, ...layout })
    expect(await cache.write({ keys: ['page'], bytes: PAGE })).to.deep.equal(['stored'])
    await cache.close(1000)
    cache.exit(0)
    await until(() => cache.dead(), 'the process ends while the mount hangs')
    resume()
    expect(await bounded(cache.ended, 'the end of the process')).to.deep.equal({ code: 0, signal: null })
  })
})
