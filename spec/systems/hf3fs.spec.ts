import { expect } from 'chai'
import type { OpenOptions } from '../../lib/index.js'
import { LAYOUTS } from '../support/layouts.js'
import { bounded, keys, until } from '../support/planned-faults.js'
import { librariesOf, remoteSystem, unavailable, type RemoteSystem } from '../support/remote-system.js'
import { systemsInUse } from '../support/systems.js'
import { workbench } from '../support/workbench.js'

const names = keys('page', 12)
const PAGES = { keys: names, bytes: 70_000 }
const all = (word: string): string[] => names.map(() => word)

for (const system of systemsInUse().filter(({ plugin }) => plugin === '3fs')) {
  describe(`${system.title} as its user sees it (stand-in)`, () => {
    const bench = workbench('file')

    before(async function () {
      this.timeout(120_000)
      await librariesOf(system)
    })

    it('the selection names plugin, engine and agent, and nothing of it is left after close', async () => {
      const remote = await remoteSystem(bench, system, 'file')
      const [directory] = await remote.open()
      expect(directory).to.include({ writable: true, direct: false, engine: false, engineReason: '3FS moves pages by its own interface' })
      const selection = await remote.cache.selection()
      expect(selection).to.include({ plugin: '3fs', engine: 'usrbio', agent: 'embedded', agentReason: 'the embedded agent has plugin 3fs', source: 'configuration' })
      expect(selection.plugins[0]!.reason).to.include('a block was written').and.include(remote.root)
      expect(await remote.cache.write(PAGES)).to.deep.equal(all('stored'))
      expect(await remote.cache.read(PAGES)).to.deep.equal(all('hit'))
      expect(remote.links().length, 'links of memory and rings').to.be.greaterThan(0)
      expect(remote.control.get('usrbio.count.writes'), 'pages went by the library').to.be.at.least(names.length)
      await remote.cache.close(5000)
      expect(remote.links()).to.deep.equal([])
      for (const what of ['iovs', 'rings', 'fds', 'leaked']) expect(remote.control.get(`usrbio.count.${what}`), what).to.equal(0)
    })

    // Before any memory is shared, so one of the modes will do.
    if (system.suites === 'all') describe('what makes it unavailable', () => {
      const section = (keys_: object): OpenOptions => ({ config: { plugin: { '3fs': { active: true, ...keys_ } } } })
      const refused = async (remote: RemoteSystem, options: OpenOptions | undefined, ...parts: readonly string[]): Promise<void> => {
        const message = await unavailable(remote.open(options))
        for (const part of parts) expect(message).to.include(part)
      }

      it('no library', async () => {
        const remote = await remoteSystem(bench, system, 'file', { HICACHE_NIXL_HF3FS_PATH: '/nowhere/libhf3fs_api_shared.so' })
        await refused(remote, undefined, 'the usrbio library of 3FS cannot be loaded', '/nowhere/libhf3fs_api_shared.so', 'install the client of 3FS')
      })
      it('a mount that is none, one that is not there, and none at all', async () => {
        const remote = await remoteSystem(bench, system, 'file')
        const plain = await bench.directory()
        await refused(remote, { ...section({ mount_point: plain }), storageDir: plain }, `${plain} does not lie on a mounted 3FS`, 'plugin.3fs.mount_point')
        await refused(remote, section({ mount_point: `${plain}/nothing` }), 'ENOENT', 'plugin.3fs.mount_point')
        await refused(remote, section({}), 'nobody says where a 3FS is mounted', 'set plugin.3fs.mount_point')
      })
      it('a storage directory outside of the mount', async () => {
        const remote = await remoteSystem(bench, system, 'file')
        const outside = await bench.directory()
        await refused(remote, { storageDir: outside }, `the storage directory ${outside} is not below plugin.3fs.mount_point = ${remote.root}`, 'set storage_dir to a directory of the 3FS')
        await refused(remote, { storageDir: [remote.storageDir, outside] }, outside)
        expect(remote.links()).to.deep.equal([])
      })
      for (const [fault, call] of [['iov_create', 'hf3fs_iovcreate'], ['ring_create', 'hf3fs_iorcreate']] as const) {
        it(`${call} fails; once it does not, the same process opens`, async () => {
          const remote = await remoteSystem(bench, system, 'file')
          remote.control.set(`usrbio.fault.${fault}`, -1)
          remote.control.set('usrbio.param.errno', 28)
          await refused(remote, undefined, call, 'ENOSPC', '3fs-virt/iovs')
          remote.control.set(`usrbio.fault.${fault}`, 0)
          await remote.open()
          expect(await remote.cache.write(PAGES)).to.deep.equal(all('stored'))
          await remote.cache.close(5000)
          expect(remote.links()).to.deep.equal([])
        })
      }
    })

    for (const storageLayout of LAYOUTS) {
      describe(`what its side does to pages, ${storageLayout} layout`, () => {
        it('short results, rings that are full, calls that come back early, answers that come twice: every page all the same', async () => {
          const remote = await remoteSystem(bench, system, storageLayout)
          await remote.open()
          for (const fault of ['short', 'prep_again', 'wake_early', 'twice', 'wait_fail', 'submit_fail']) {
            const pages = { ...PAGES, keys: keys(fault, 12) }
            // Never, it would be no library at all that has no room or does not wait.
            remote.control.set(`usrbio.fault.${fault}`, fault === 'short' ? -1 : 8)
            expect(await remote.cache.write(pages), fault).to.deep.equal(all('stored'))
            remote.control.set(`usrbio.fault.${fault}`, fault === 'short' ? -1 : 8)
            expect(await remote.cache.read(pages), fault).to.deep.equal(all('hit'))
            remote.control.set(`usrbio.fault.${fault}`, 0)
          }
        })
        it('errors, nothing moved, more moved than asked for: failures and misses, never a wrong byte, and it works again', async () => {
          const remote = await remoteSystem(bench, system, storageLayout)
          await remote.open()
          for (const fault of ['fail', 'nothing', 'damage']) {
            const before = { ...PAGES, keys: keys(`${fault}-before`, 12) }
            const pages = { ...PAGES, keys: keys(fault, 12) }
            expect(await remote.cache.write(before), fault).to.deep.equal(all('stored'))
            remote.control.set(`usrbio.fault.${fault}`, -1)
            const written = await bounded(remote.cache.write(pages), 'the writes')
            expect(written, fault).to.deep.equal(all(written[0]!))
            expect(written[0], fault).to.match(/^(failed|rejected|unavailable) /)
            const read = await bounded(remote.cache.read(before), 'the reads')
            for (const word of read) expect(word, fault).to.match(/^(corrupt|absent|stale|truncated|io-error|(failed|unavailable|miss) .*)$/)
            remote.control.set(`usrbio.fault.${fault}`, 0)
            await until(async () => (await remote.cache.write(pages)).every(word => word === 'stored' || word === 'already-there'), `${fault}: pages can be written again`)
            expect(await remote.cache.read(pages), fault).to.deep.equal(all('hit'))
            expect(await remote.cache.read(before), fault).to.not.include('WRONG BYTES')
          }
        })
        it('a request that is never answered ends at its deadline, and the next ones do not hang on it', async () => {
          const remote = await remoteSystem(bench, system, storageLayout)
          await remote.open()
          expect(await remote.cache.write(PAGES)).to.deep.equal(all('stored'))
          remote.control.set('usrbio.fault.hang', 3)
          const read = await bounded(remote.cache.read({ ...PAGES, timeoutMs: 300 }), 'the reads')
          expect(read.filter(word => word === 'timeout ERR_TIMEOUT')).to.have.length.within(1, 12)
          expect(read).to.not.include('WRONG BYTES')
          remote.control.set('usrbio.fault.hang', 0)
          await until(async () => (await remote.cache.read(PAGES)).every(word => word === 'hit'), 'it works again')
          await bounded(remote.cache.close(2000), 'close')
          // The ring that holds them is ended a second after their deadline, perhaps behind close()'s back. An arena that they may have been written to until then stays for
          // as long as its process.
          await until(() => remote.links().length <= (system.arenaBuffer === ArrayBuffer ? 1 : 0), 'the links are gone')
        })
      })
    }
  })
}
