import { expect } from 'chai'
import type { OpenOptions } from '../../lib/index.js'
import { LAYOUTS } from '../support/layouts.js'
import { bounded, keys, until } from '../support/planned-faults.js'
import { librariesOf, remoteSystem, unavailable } from '../support/remote-system.js'
import { systemsInUse } from '../support/systems.js'
import { workbench } from '../support/workbench.js'

const names = keys('page', 12)
const PAGES = { keys: names, bytes: 70_000 }
const all = (word: string): string[] => names.map(() => word)
const ok = /^(stored|already-there|hit)$/
/** How NIXL's plugin POSIX moves, and so how it fails. */
const MOVERS = { 'Linux AIO': {}, 'io_uring': { use_uring: true }, 'POSIX AIO': { use_posix_aio: true } }
const posix = (keys_: object): OpenOptions => ({ config: { agent: 'nixl', plugin: { posix: { active: true, ...keys_ } } } })
/** Agents that a process keeps after errors, at most (nixl::Options::kept_max). */
const KEPT_MAX = 8
const nowhere = { HICACHE_NIXL_LIBNIXL_PATH: '/nowhere/libnixl_capi.so' }

for (const system of systemsInUse().filter(({ agent, plugin }) => agent === 'nixl' && plugin === 'posix')) {
  describe(`${system.title} as its user sees it (stand-in)`, () => {
    const bench = workbench('file')

    before(async function () {
      this.timeout(120_000)
      await Promise.all([librariesOf(system), librariesOf(system, ['STUB'])])
    })

    describe('who moves the bytes', () => {
      for (const [title, config, expected] of [
        ['asked for', { agent: 'nixl', plugin: { posix: { active: true } } }, { plugin: 'posix', engine: 'nixl', agent: 'nixl', agentReason: 'the configuration asks for it (agent = "nixl")' }],
        ['asked not to', { agent: 'embedded', plugin: { posix: { active: true } } }, { plugin: 'posix', agent: 'embedded', agentReason: 'the configuration asks for it (agent = "embedded")' }],
        ['not asked for, of a plugin that the embedded agent has', { plugin: { posix: { active: true } } }, { plugin: 'posix', agent: 'embedded', agentReason: 'the embedded agent has plugin posix' }],
        ['not asked for, of a plugin that only NIXL knows', { plugin: { FANCY: { active: true, colour: 'red', depth: '8' } } },
          { plugin: 'FANCY', engine: 'nixl', agent: 'nixl', agentReason: 'only NIXL can have plugin FANCY', source: 'configuration' }],
        ['asked for, of a plugin that only NIXL knows', { agent: 'nixl', plugin: { FANCY: { active: true } } }, { plugin: 'FANCY', engine: 'nixl', agent: 'nixl' }]
      ] as const) {
        it(`an agent of NIXL ${title}: ${expected.agent}`, async () => {
          const remote = await remoteSystem(bench, system, 'file')
          await remote.open({ config })
          expect(await remote.cache.selection()).to.include(expected)
          expect(await remote.cache.write(PAGES)).to.deep.equal(all('stored'))
          expect(await remote.cache.read(PAGES)).to.deep.equal(all('hit'))
          await remote.cache.close(5000)
          expect(remote.control.get('nixl.count.agents_made') > 0, 'was there an agent of NIXL').to.equal(expected.agent === 'nixl')
          for (const what of ['agents', 'requests', 'registrations', 'in_flight']) expect(remote.control.get(`nixl.count.${what}`), what).to.equal(0)
        })
      }
      it('the parameters of a plugin that only NIXL knows reach it as they are', async () => {
        const remote = await remoteSystem(bench, system, 'file')
        const message = await unavailable(remote.open({ config: { plugin: { FANCY: { active: true, depth: 'many' } } } }))
        expect(message).to.include('FANCY').and.include('create_backend')
      })
      it('without NIXL: what only it has is unavailable, with the reason and what to do; the rest goes on without it', async () => {
        const remote = await remoteSystem(bench, system, 'file', nowhere)
        for (const config of [{ plugin: { FANCY: { active: true } } }, { agent: 'nixl', plugin: { posix: { active: true } } }, { agent: 'nixl', plugin: { FANCY: { active: true } } }]) {
          const message = await unavailable(remote.open({ config }))
          expect(message).to.include('NIXL\'s C library cannot be loaded').and.include('/nowhere/libnixl_capi.so').and.include('install NIXL')
        }
        await remote.open({ config: { agent: 'auto', plugin: { posix: { active: true } } } })
        expect(await remote.cache.selection()).to.include({ plugin: 'posix', agent: 'embedded' })
      })
      it('a plugin that NIXL does not have', async () => {
        const remote = await remoteSystem(bench, system, 'file')
        const message = await unavailable(remote.open({ config: { plugin: { UNHEARD: { active: true } } } }))
        expect(message).to.include('UNHEARD').and.include('FANCY')
      })
      it('a library that is a stub is refused', async () => {
        const remote = await remoteSystem(bench, system, 'file', await librariesOf(system, ['STUB']))
        const message = await unavailable(remote.open())
        expect(message).to.include('stub').and.include('install NIXL')
      })
    })

    for (const storageLayout of LAYOUTS) {
      describe(`what its plugins do to pages, ${storageLayout} layout`, () => {
        for (const [mover, keys_] of Object.entries(MOVERS)) {
          it(`${mover}: half of what was asked for, a full disk, an error, whatever it says of them: never a wrong byte, and it works again`, async () => {
            const remote = await remoteSystem(bench, system, storageLayout)
            await remote.open(posix(keys_))
            for (const fault of ['short_io', 'no_space', 'io_error']) {
              const before = { ...PAGES, keys: keys(`${fault}-before`, 12) }
              const pages = { ...PAGES, keys: keys(fault, 12) }
              expect(await remote.cache.write(before), fault).to.deep.equal(all('stored'))
              remote.control.set(`nixl.fault.${fault}`, -1)
              const written = await bounded(remote.cache.write(pages), `${fault}: the writes`)
              if (storageLayout === 'file') for (const word of written) expect(word, fault).to.not.match(ok)
              const read = await bounded(remote.cache.read(before), `${fault}: the reads`)
              expect(read, fault).to.not.include('WRONG BYTES')
              if (fault !== 'no_space') for (const word of read) expect(word, fault).to.not.equal('hit')
              remote.control.set(`nixl.fault.${fault}`, 0)
              // What was written while it said success to nothing is told by its checksum.
              for (const word of await remote.cache.read(pages)) expect(word, fault).to.not.equal('WRONG BYTES')
              const after = { ...PAGES, version: 1 }
              await until(async () => (await remote.cache.write(after)).every(word => ok.test(word)), `${fault}: pages can be written again`)
              expect(await remote.cache.read(after), fault).to.deep.equal(all('hit'))
            }
            await bounded(remote.cache.close(5000), 'close')
            // Where an error leaves open whether the kernel still writes, the failed agent is kept, with the blocks that it may write to.
            expect(remote.control.get('nixl.count.agents')).to.be.at.most(mover === 'Linux AIO' ? 0 : KEPT_MAX)
          })
        }
        it('one error among many transfers fails or spoils nothing else', async () => {
          const remote = await remoteSystem(bench, system, storageLayout)
          await remote.open(posix(MOVERS['POSIX AIO']))
          remote.control.set('nixl.fault.io_error', 1)
          expect(await bounded(remote.cache.write(PAGES), 'the writes')).to.deep.equal(all('stored'))
          remote.control.set('nixl.fault.io_error', 1)
          expect(await bounded(remote.cache.read(PAGES), 'the reads')).to.deep.equal(all('hit'))
        })
        it('a transfer that never ends ends at its page\'s deadline, and the next ones do not hang on it', async () => {
          const remote = await remoteSystem(bench, system, storageLayout)
          await remote.open()
          expect(await remote.cache.write(PAGES)).to.deep.equal(all('stored'))
          remote.control.set('nixl.fault.hang', 1)
          const read = await bounded(remote.cache.read({ ...PAGES, timeoutMs: 300 }), 'the reads')
          expect(read).to.include('timeout ERR_TIMEOUT').and.not.include('WRONG BYTES')
          remote.control.set('nixl.param.release', 1)
          await until(async () => (await remote.cache.read(PAGES)).every(word => word === 'hit'), 'it works again')
          await bounded(remote.cache.close(2000), 'close')
        })
      })
    }
    it('io_uring, which hangs with more than 512 requests in flight, never gets as many', async () => {
      const remote = await remoteSystem(bench, system, 'file')
      await remote.open({ ...posix(MOVERS['io_uring']), queueDepth: 1024 })
      const many = { keys: keys('many', 700), bytes: 4096 }
      expect(new Set(await bounded(remote.cache.write(many), 'the writes'))).to.deep.equal(new Set(['stored']))
      expect(new Set(await bounded(remote.cache.read(many), 'the reads'))).to.deep.equal(new Set(['hit']))
      expect(remote.control.get('nixl.count.in_flight_max')).to.be.within(2, 512)
    })
  })
}
