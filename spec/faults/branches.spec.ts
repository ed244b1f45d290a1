import { expect } from 'chai'
import type { HiCacheNixl, WriteOutcome } from '../../lib/index.js'
import { bytes, same } from '../support/content.js'
import { filesBelow, flipByte, pagePath } from '../support/page-files.js'
import { STORAGE_PATHS, descriptors, keys, openOn, plan } from '../support/planned-faults.js'
import { suiteWorkbench, workbench } from '../support/workbench.js'

/** Not a whole number of blocks: the last one and the record have an iovec of their own. */
const PAGE = 70_001
const COUNT = 32
const SUFFIX = '__0_1'

const made = new Map<string, Uint8Array>()
function page(key: string, version = 0): Uint8Array {
  const seed = `${key} ${version}`
  const known = made.get(seed) ?? bytes(PAGE, seed)
  made.set(seed, known)
  return known
}
const write = (cache: HiCacheNixl, names: readonly string[], version = 0): Promise<WriteOutcome[]> => cache.write(names.map(key => [key, page(key, version)]))

for (const path of STORAGE_PATHS) {
  describe(`rare branches, through the connector: ${path.name}`, () => {
    const suite = suiteWorkbench('file')
    const bench = workbench('file')
    let cache: HiCacheNixl
    let directory: string
    let openAtFirst: number
    const names = keys('read', COUNT)
    before(async function () {
      directory = await suite.directory(path.parent)
      cache = await openOn(suite, path, this, { storageDir: directory, directoryScheme: 'flat', threads: 4 })
      // Every worker has made its agent and opened its folder once more than a page is written and read.
      await write(cache, keys('warm', COUNT))
      await write(cache, names)
      await cache.batchGet(names)
      openAtFirst = descriptors()
    })
    afterEach(async () => {
      const stats = cache.stats()
      expect(stats.arena_used_bytes, 'arena bytes in use').to.equal(0)
      expect(stats.in_flight_requests).to.equal(0)
      expect(stats.arena_quarantined_bytes).to.equal(0)
      const strangers = (await filesBelow(directory)).filter(name => !name.endsWith(SUFFIX))
      expect(strangers, 'temporaries left behind').to.deep.equal([])
    })
    const expectAll = async (): Promise<void> => {
      const outcomes = await cache.read(names)
      outcomes.forEach((outcome, i) => {
        expect(outcome, names[i]).to.include({ ok: true, status: 'hit', verified: true })
        if (outcome.ok) expect(same(outcome.value, page(names[i]!)), names[i]).to.equal(true)
      })
    }

    describe('reads', () => {
      for (const point of path.reading) {
        // O_DIRECT stops inside a block at the end of a file only, and the engines take it for that.
        for (const short of path.submit === null ? [1, 511, 4096, 5000, 69_632, 73_727] : [4096, 8192, 65_536]) {
          it(`${point}: ${short} bytes at a time are continued`, async () => {
            const end = plan(bench, { point, short, times: 60 })
            await expectAll()
            expect(end()[0]).to.be.greaterThan(COUNT - 1)
          })
        }
        if (path.submit !== null) {
          it(`${point}: 5001 bytes, inside a block, are the end of the file: a miss, never a page`, async () => {
            const end = plan(bench, { point, match: names[30]!, short: 5001 })
            const outcomes = await cache.read(names)
            expect(end()).to.deep.equal([1])
            expect(outcomes[30]).to.deep.equal({ ok: false, status: 'miss', key: names[30], reason: 'corrupt' })
            expect(outcomes.filter(({ ok }) => ok)).to.have.length(COUNT - 1)
            await expectAll()
          })
        }
        for (const errno of ['EINTR', 'EAGAIN']) {
          it(`${point}: ${errno} is tried again`, async () => {
            const end = plan(bench, { point, errno, times: 60 })
            await expectAll()
            // How often depends on how many requests one entry of the kernel takes along; without the retry, the first would cost a page.
            expect(end()[0]).to.be.greaterThan(0)
          })
        }
        for (const errno of ['EIO', 'ENOMEM', 'EOPNOTSUPP']) {
          it(`${point}: ${errno} costs the page it happens to, of a batch of ${COUNT}`, async () => {
            const before = cache.stats()
            const end = plan(bench, { point, match: names[7]!, errno })
            const outcomes = await cache.read(names)
            expect(end()).to.deep.equal([1])
            expect(outcomes[7]).to.include({ ok: false, status: 'failed', key: names[7] })
            expect((outcomes[7] as { error: Error }).error).to.include({ code: 'ERR_IO', errno })
            outcomes.forEach((outcome, i) => {
              if (i !== 7) expect(outcome.ok && same(outcome.value, page(names[i]!)), names[i]).to.equal(true)
            })
            const after = cache.stats()
            expect(after.pages_read_failed! - before.pages_read_failed!).to.equal(1)
            expect(after.pages_read_hit! - before.pages_read_hit!).to.equal(COUNT - 1)
            // The page itself is untouched.
            await expectAll()
          })
        }
      }
      if (path.submit !== null) {
        it('a kernel that takes nothing for ever: every page comes all the same', async () => {
          const end = plan(bench, { point: path.submit!, errno: 'EAGAIN', times: 0 })
          await expectAll()
          expect(end()[0]).to.be.greaterThan(0)
        })
      }
      it('a file that ends early while it is read is a miss, and stays', async () => {
        const end = plan(bench, { point: path.reading.at(-1)!, match: names[3]!, short: 0 })
        const outcomes = await cache.read(names)
        expect(end()[0]).to.equal(1)
        expect(outcomes[3]).to.deep.equal({ ok: false, status: 'miss', key: names[3], reason: 'corrupt' })
        await expectAll()
      })
      for (const [point, errno] of [['open', 'EMFILE'], ['open', 'EACCES'], ['open', 'EIO'], ['stat', 'EIO']] as const) {
        it(`${point}: ${errno} costs the page it happens to`, async () => {
          const end = plan(bench, { point, match: names[9]!, errno })
          const outcomes = await cache.read(names)
          expect(end()).to.deep.equal([1])
          expect((outcomes[9] as { error?: Error }).error).to.include({ code: 'ERR_IO', errno })
          expect(outcomes.filter(({ ok }) => ok)).to.have.length(COUNT - 1)
          await expectAll()
        })
      }
      it('EINTR at open is tried again', async () => {
        const end = plan(bench, { point: 'open', errno: 'EINTR', times: 60 }, { point: 'stat', errno: 'EINTR', times: 60 })
        await expectAll()
        expect(end()).to.deep.equal([60, 60])
      })
      it('a damaged file that cannot be removed is a miss each time, and goes when it can', async () => {
        await cache.set('damaged', page('damaged'))
        const file = pagePath(directory, `damaged${SUFFIX}`, 'flat')
        await flipByte(file, 100)
        const end = plan(bench, { point: 'unlink', errno: 'EIO', times: 1 })
        const [first] = await cache.read(['damaged'])
        expect(first).to.include({ status: 'miss', reason: 'corrupt' })
        expect(end()).to.deep.equal([1])
        const [second] = await cache.read(['damaged'])
        expect(second).to.include({ status: 'miss', reason: 'corrupt' })
        const [third] = await cache.read(['damaged'])
        expect(third).to.include({ status: 'miss', reason: 'absent' })
      })
      it('a look-up that fails answers no, and a delete that fails leaves the page', async () => {
        let end = plan(bench, { point: 'open', match: names[5]!, errno: 'EIO' })
        expect(await cache.batchExists(names)).to.equal(5)
        expect(end()).to.deep.equal([1])
        for (const point of ['open', 'stat', 'unlink']) {
          end = plan(bench, { point, match: names[5]!, errno: 'EIO' })
          expect(await cache.delete(names[5]!), point).to.equal(false)
          expect(end(), point).to.deep.equal([1])
        }
        expect(await cache.batchExists(names)).to.equal(COUNT)
        await expectAll()
      })
      it('a folder that cannot be listed is an error of ours that says so', async () => {
        const end = plan(bench, { point: 'list', errno: 'EIO' })
        const error = await cache.entries().next().then(() => null, (reason: unknown) => reason)
        expect(end()).to.deep.equal([1])
        expect(error).to.include({ code: 'ERR_IO', errno: 'EIO' })
      })
    })

    describe('writes', () => {
      let series = 0
      let fresh: string[]
      beforeEach(() => { fresh = keys(`write-${series++}`, COUNT) })

      const expectStored = async (version = 0): Promise<void> => {
        const got = await cache.batchGet(fresh)
        got.forEach((value, i) => expect(same(value, page(fresh[i]!, version)), fresh[i]).to.equal(true))
      }

      for (const short of [1, 100, 4096, 5000, 69_632, 73_727]) {
        it(`pwritev: ${short} bytes at a time are continued`, async () => {
          const end = plan(bench, { point: 'pwritev', short, times: 60 })
          expect((await write(cache, fresh)).every(({ status }) => status === 'stored')).to.equal(true)
          expect(end()[0]).to.equal(60)
          await expectStored()
        })
      }
      for (const point of ['pwritev', 'open', 'link', 'mkdir'] as const) {
        for (const errno of point === 'pwritev' ? ['EINTR', 'EAGAIN'] : ['EINTR']) {
          it(`${point}: ${errno} is tried again`, async function () {
            // Folders are made once each, and only by the bucketed scheme.
            const on = point === 'mkdir' ? await openOn(bench, path, this, { directoryScheme: 'bucketed' }) : cache
            const end = plan(bench, { point, errno, times: 10 })
            expect((await write(on, fresh)).every(({ status }) => status === 'stored')).to.equal(true)
            expect(end()[0]).to.equal(10)
          })
        }
      }
      const costsItself: [point: string, errno: string, after: number][] = [
        ['pwritev', 'ENOSPC', 0], ['pwritev', 'EIO', 0], ['pwritev', 'EDQUOT', 0], ['open', 'EIO', 0], ['open', 'ENOSPC', 1], ['open', 'EMFILE', 1],
        ['link', 'ENOSPC', 0], ['link', 'EDQUOT', 0], ['link', 'EIO', 0]
      ]
      for (const [point, errno, after] of costsItself) {
        it(`${point}${after > 0 ? ' of the new file' : ''}: ${errno} costs the page it happens to, of a batch of ${COUNT}`, async () => {
          const before = cache.stats()
          const end = plan(bench, { point, match: fresh[11]!, errno, after })
          const outcomes = await write(cache, fresh)
          expect(end()).to.deep.equal([1])
          expect(outcomes[11]).to.include({ ok: false, status: 'failed', key: fresh[11] })
          expect((outcomes[11] as { error: Error }).error).to.include({ code: 'ERR_IO', errno })
          outcomes.forEach((outcome, i) => { if (i !== 11) expect(outcome.status, fresh[i]).to.equal('stored') })
          const stats = cache.stats()
          expect(stats.pages_write_failed! - before.pages_write_failed!).to.equal(1)
          expect(stats.pages_write_stored! - before.pages_write_stored!).to.equal(COUNT - 1)
          expect(await cache.batchExists(fresh)).to.equal(11)
          expect(await filesBelow(directory)).to.not.include(`${fresh[11]!}${SUFFIX}`)
          expect((await write(cache, [fresh[11]!]))[0]).to.include({ status: 'stored' })
          await expectStored()
        })
      }
      for (const [point, errno] of [['rename', 'EIO'], ['rename', 'ENOSPC'], ['flock', 'EIO'], ['link', 'EDQUOT'], ['pwritev', 'ENOSPC'], ['stat', 'EIO']] as const) {
        it(`${point}: ${errno} when a page is replaced leaves the one that was there`, async () => {
          await write(cache, fresh)
          const end = plan(bench, { point, match: fresh[2]!, errno })
          const outcomes = await write(cache, fresh, 1)
          expect(end()).to.deep.equal([1])
          expect((outcomes[2] as { error?: Error }).error).to.include({ code: 'ERR_IO', errno })
          expect(outcomes.filter(({ ok }) => ok)).to.have.length(COUNT - 1)
          expect(same(await cache.get(fresh[2]!), page(fresh[2]!, 0))).to.equal(true)
          expect((await write(cache, fresh, 1))[2]).to.include({ status: 'stored' })
          await expectStored(1)
        })
      }
      it('another writer was first: the page is replaced as a whole', async () => {
        const end = plan(bench, { point: 'link', errno: 'EEXIST', times: 5 })
        expect((await write(cache, fresh)).every(({ ok }) => ok)).to.equal(true)
        expect(end()).to.deep.equal([5])
        await expectStored()
      })
      it('a file system without locks, without which pages are written all the same', async () => {
        await write(cache, fresh)
        const end = plan(bench, { point: 'flock', errno: 'ENOLCK', times: 0 })
        expect((await write(cache, fresh, 1)).every(({ status }) => status === 'stored')).to.equal(true)
        expect(end()[0]).to.equal(COUNT)
        await expectStored(1)
      })
      it('mkdir: a folder that cannot be made costs its pages', async function () {
        const on = await openOn(bench, path, this, { directoryScheme: 'bucketed' })
        const end = plan(bench, { point: 'mkdir', match: fresh[4]!, errno: 'ENOSPC' })
        const outcomes = await write(on, fresh)
        expect(end()).to.deep.equal([1])
        expect((outcomes[4] as { error?: Error }).error).to.include({ code: 'ERR_IO', errno: 'ENOSPC' })
        expect(outcomes.filter(({ ok }) => ok)).to.have.length(COUNT - 1)
        expect((await write(on, fresh)).every(({ ok }) => ok)).to.equal(true)
      })
    })

    describe('a file system without O_TMPFILE', () => {
      let on: HiCacheNixl
      let where: string
      const fresh = keys('named', COUNT)
      beforeEach(async function () {
        where = await bench.directory(path.parent)
        on = await openOn(bench, path, this, { storageDir: where, directoryScheme: 'flat', workers: 1 })
        // The second open of a write is that of the new file; the answer is remembered by the one worker's store.
        const end = plan(bench, { point: 'open', match: 'first', errno: 'EOPNOTSUPP', after: 1 })
        expect(await on.set('first', page('first'))).to.equal(true)
        expect(end()).to.deep.equal([1])
        const clash = plan(bench, { point: 'link', errno: 'EIO', times: 0 })
        expect(await on.set('second', page('second')), 'written without a link').to.equal(true)
        expect(clash()).to.deep.equal([0])
      })
      const strangers = async (): Promise<string[]> => (await filesBelow(where)).filter(name => !name.endsWith(SUFFIX))

      it('pages come and go by temporary names, and none stays', async () => {
        expect((await write(on, fresh)).every(({ status }) => status === 'stored')).to.equal(true)
        expect((await write(on, fresh, 1)).every(({ status }) => status === 'stored')).to.equal(true)
        const got = await on.batchGet(fresh)
        got.forEach((value, i) => expect(same(value, page(fresh[i]!, 1))).to.equal(true))
        expect(await strangers()).to.deep.equal([])
      })
      for (const [point, errno] of [['pwritev', 'ENOSPC'], ['pwritev', 'EIO'], ['rename', 'EDQUOT'], ['flock', 'EIO']] as const) {
        it(`${point}: ${errno} leaves no temporary`, async () => {
          const end = plan(bench, { point, match: fresh[6]!, errno })
          const outcomes = await write(on, fresh)
          expect(end()).to.deep.equal([1])
          expect((outcomes[6] as { error?: Error }).error).to.include({ code: 'ERR_IO', errno })
          expect(outcomes.filter(({ ok }) => ok)).to.have.length(COUNT - 1)
          expect(await strangers()).to.deep.equal([])
          expect(await on.exists(fresh[6]!)).to.equal(false)
        })
      }
    })

    it('no descriptor stays open', () => {
      expect(descriptors()).to.equal(openAtFirst)
    })
  })
}
