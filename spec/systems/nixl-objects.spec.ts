import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { HiCacheNixl, type OpenOptions } from '../../lib/index.js'
import { bytes, same } from '../support/content.js'
import { ObjectServer } from '../support/object-server.js'
import { bounded, keys, until } from '../support/planned-faults.js'
import { rejection } from '../support/rejection.js'
import { RemoteCache } from '../support/remote-cache.js'
import { unavailable } from '../support/remote-system.js'
import { StandInControl, standInLibrary } from '../support/stand-in.js'
import { systemsInUse } from '../support/systems.js'
import { workbench } from '../support/workbench.js'

const names = keys('page', 12)
const PAGES = { keys: names, bytes: 70_000 }
const all = (word: string): string[] => names.map(() => word)
const RECORD = 4096
const ok = /^(stored|already-there|hit)$/

for (const system of systemsInUse().filter(({ layouts }) => layouts?.includes('object') === true)) {
  describe(`${system.title} as its user sees it (stand-in)`, () => {
    const bench = workbench('file')
    let folder: string
    let server: ObjectServer
    let control: StandInControl

    before(async function () {
      this.timeout(120_000)
      await standInLibrary('nixl_capi')
    })
    beforeEach(async () => {
      const root = await bench.directory()
      folder = join(root, 'objects')
      mkdirSync(folder)
      control = new StandInControl(join(root, 'control'))
      server = await ObjectServer.start(folder)
      bench.atLast(async () => { await server.fake.down() })
    })
    const obj = (section: object = {}): OpenOptions => ({ config: { agent: 'nixl', plugin: { obj: { ...server.section, ...section } } } })
    const blobs = (section: object = {}): OpenOptions => ({ config: { plugin: { BLOBS: { active: true, ...section } } } })
    /** A cache in a process of its own, whose library is told how to fail. */
    const remote = async (options: OpenOptions = obj()): Promise<RemoteCache> => {
      const cache = new RemoteCache(bench, [], {
        HICACHE_NIXL_LIBNIXL_PATH: await standInLibrary('nixl_capi'), HICACHE_STAND_IN_CONTROL: control.path, HICACHE_STAND_IN_NIXL_OBJECTS: folder
      })
      await cache.open(options)
      return cache
    }
    /** The same pages without NIXL. */
    const embedded = async (options: OpenOptions = {}): Promise<HiCacheNixl> => {
      const cache = await HiCacheNixl.open({ env: {}, arenaBytes: 16 * 1024 * 1024, config: { plugin: { obj: server.section } }, ...options })
      bench.atEnd(() => cache.close())
      return cache
    }
    const page = (key: string, version = 0): Uint8Array => bytes(PAGES.bytes, `${key} ${version}`)
    const files = (): string[] => readdirSync(folder).map(name => join(folder, name))

    it('agent and engine are told; pages go there and back; nothing is left of the library', async () => {
      const cache = await remote()
      expect(await cache.selection()).to.include({ plugin: 'obj', engine: 'nixl', agent: 'nixl', agentReason: 'the configuration asks for it (agent = "nixl")' })
      expect(await cache.read(PAGES)).to.deep.equal(all('absent'))
      expect(await cache.write(PAGES)).to.deep.equal(all('stored'))
      expect(await cache.write(PAGES)).to.deep.equal(all('already-there'))
      expect(await cache.read(PAGES)).to.deep.equal(all('hit'))
      expect(await cache.delete(names.slice(0, 2))).to.deep.equal([true, true])
      expect(await cache.read(PAGES)).to.deep.equal([...all('absent').slice(0, 2), ...all('hit').slice(2)])
      expect(control.get('nixl.count.agents_made')).to.be.greaterThan(0)
      await cache.close(5000)
      for (const what of ['agents', 'requests', 'registrations', 'in_flight']) expect(control.get(`nixl.count.${what}`), what).to.equal(0)
    })

    it('a page that the one stored is a page of the other; only what has no record is unverified', async () => {
      const nixl = await remote()
      const other = await embedded()
      expect(await nixl.write(PAGES)).to.deep.equal(all('stored'))
      for (const key of names) {
        const outcome = (await other.read([key]))[0]!
        expect(outcome.ok && outcome.verified && same(outcome.value, page(key)), key).to.equal(true)
      }
      const listed = []
      for await (const { key, bytes: length, verified, shape } of other.entries()) listed.push({ key, length, verified, shape })
      expect(listed.sort((one, two) => one.key.localeCompare(two.key))).to.deep.equal([...names].sort().map(key => ({ key, length: PAGES.bytes, verified: true, shape: [PAGES.bytes] })))
      expect(await other.verify()).to.include({ pages: 12, ok: 12, corrupt: 0 })
      expect((await other.write(names.map(key => [key, page(key)] as const))).map(({ status }) => status)).to.deep.equal(all('already-there'))
      // The embedded agent's have their record in a header, which NIXL does not see.
      expect(await other.clear()).to.deep.equal({ deleted: 12 })
      await other.write(names.map(key => [key, page(key, 1)] as const))
      await until(async () => (await nixl.read({ ...PAGES, version: 1 })).every(word => word === 'hit'), 'they are read')
      const strict = await remote({ ...obj(), acceptUnverified: false })
      expect(await strict.read({ ...PAGES, version: 1 })).to.not.include('hit')
    })

    it('SGLang\'s Python connector reads the first bytes of an object: they are the page', async () => {
      const nixl = await remote()
      await nixl.write(PAGES)
      expect(files()).to.have.length(names.length)
      for (const path of files()) {
        const content = readFileSync(path)
        expect(content.length).to.equal(Math.ceil(PAGES.bytes / 4096) * 4096 + RECORD)
        expect(names.some(key => content.subarray(0, PAGES.bytes).equals(page(key)))).to.equal(true)
      }
    })

    it('damage is a miss, and the next write mends it', async () => {
      const nixl = await remote()
      for (const at of [0, 30_000, PAGES.bytes - 1, -RECORD + 16, -RECORD + 30, -1]) {
        const version = at
        await nixl.write({ ...PAGES, version })
        for (const path of files()) {
          const content = readFileSync(path)
          const index = at < 0 ? content.length + at : at
          content[index]! ^= 1
          writeFileSync(path, content)
        }
        expect(await nixl.read({ ...PAGES, version }), `byte ${at}`).to.deep.equal(all('corrupt'))
        expect(await nixl.write({ ...PAGES, version }), `byte ${at}`).to.deep.equal(all('stored'))
        expect(await nixl.read({ ...PAGES, version }), `byte ${at}`).to.deep.equal(all('hit'))
      }
      for (const length of [0, 100, PAGES.bytes - 1, PAGES.bytes + 1, PAGES.bytes + 5000]) {
        for (const path of files()) writeFileSync(path, readFileSync(path).subarray(0, length))
        const read = await nixl.read({ ...PAGES, version: 7 })
        for (const word of read) expect(word, `${length} bytes`).to.be.oneOf(['absent', 'length', 'corrupt', 'unavailable'])
        await until(async () => (await nixl.write({ ...PAGES, version: 7 })).every(word => ok.test(word)) && (await nixl.read({ ...PAGES, version: 7 })).every(word => word === 'hit'), 'mended')
      }
    })

    it('whatever NIXL says of a transfer: never a wrong byte, and it works again', async () => {
      const nixl = await remote()
      for (const fault of ['short_io', 'io_error', 'create_request', 'post', 'register_file', 'lost_write', 'torn_write', 'query']) {
        const before_ = { ...PAGES, keys: keys(`${fault}-before`, 12) }
        const pages = { ...PAGES, keys: keys(fault, 12) }
        await until(async () => (await nixl.write(before_)).every(word => ok.test(word)), `${fault}: pages can be written`)
        control.set(`nixl.fault.${fault}`, -1)
        await bounded(nixl.write(pages), `${fault}: the writes`)
        expect(await bounded(nixl.read(before_), `${fault}: the reads`), fault).to.not.include('WRONG BYTES')
        control.set(`nixl.fault.${fault}`, 0)
        expect(await bounded(nixl.read(pages), `${fault}: the reads afterwards`), fault).to.not.include('WRONG BYTES')
        const after_ = { ...PAGES, version: 1 }
        await until(async () => (await nixl.write(after_)).every(word => ok.test(word)), `${fault}: pages can be written again`)
        await until(async () => (await nixl.read(after_)).every(word => word === 'hit'), `${fault}: and read`)
      }
      await bounded(nixl.close(5000), 'close')
      expect(control.get('nixl.count.agents')).to.equal(0)
    })

    it('one error fails nothing', async () => {
      const nixl = await remote()
      control.set('nixl.fault.io_error', 1)
      expect(await nixl.write(PAGES)).to.deep.equal(all('stored'))
      control.set('nixl.fault.io_error', 1)
      expect(await nixl.read(PAGES)).to.deep.equal(all('hit'))
    })

    it('a transfer that never ends ends at its page\'s deadline, and so does a question', async () => {
      const nixl = await remote()
      expect(await nixl.write(PAGES)).to.deep.equal(all('stored'))
      control.set('nixl.fault.hang', 1)
      expect(await bounded(nixl.read({ ...PAGES, timeoutMs: 300 }), 'the reads')).to.include('timeout ERR_TIMEOUT').and.not.include('WRONG BYTES')
      control.set('nixl.param.release', 1)
      await until(async () => (await nixl.read(PAGES)).every(word => word === 'hit'), 'it works again')
      control.set('nixl.param.release', 0)
      control.set('nixl.fault.query_hangs', 1)
      expect(await bounded(nixl.exists(keys('asked', 3), 300), 'the look-up')).to.equal(0)
      expect(await bounded(nixl.read(PAGES), 'the reads beside it')).to.not.include('WRONG BYTES')
      control.set('nixl.param.release', 1)
      await until(async () => await nixl.exists(names) === names.length, 'it is asked again')
      await bounded(nixl.close(2000), 'close')
    })

    it('look-ups go together, and are remembered for a while', async () => {
      const nixl = await remote()
      const many = keys('many', 100)
      expect(await nixl.exists(many)).to.equal(0)
      await nixl.write({ keys: many, bytes: 4096 })
      const other = await remote()
      const asked = control.get('nixl.count.keys_asked')
      const queries = control.get('nixl.count.queries')
      expect(await other.exists(many)).to.equal(100)
      expect(control.get('nixl.count.keys_asked') - asked).to.equal(100)
      expect(control.get('nixl.count.queries') - queries).to.be.at.most(4)
      expect(await other.exists(many)).to.equal(100)
      expect(control.get('nixl.count.keys_asked') - asked).to.equal(100)
    })

    describe('a plugin for objects that only NIXL knows', () => {
      it('is taken by itself; pages of any length are found; parameters reach it as they are', async () => {
        const cache = await remote(blobs({ shade: 'red', depth: '8' }))
        expect(await cache.selection()).to.include({ plugin: 'BLOBS', engine: 'nixl', agent: 'nixl', agentReason: 'only NIXL can have plugin BLOBS' })
        expect(await cache.write(PAGES)).to.deep.equal(all('stored'))
        expect(await cache.read(PAGES)).to.deep.equal(all('hit'))
        // Nobody has said how long they are, and nobody remembers.
        const other = await remote(blobs())
        expect(await other.read(PAGES)).to.deep.equal(all('hit'))
        for (const length of [1, 4096, 61_440, 65_536, 1_000_000]) {
          await cache.write({ keys: [`of ${length}`], bytes: length })
          expect(await other.read({ keys: [`of ${length}`], bytes: length })).to.deep.equal(['hit'])
        }
        const message = await unavailable(remote(blobs({ depth: 'many' })))
        expect(message).to.include('BLOBS').and.include('create_backend')
      })

      it('cannot delete, list, ask for dates or verify, and says so', async () => {
        const library = process.env['HICACHE_NIXL_LIBNIXL_PATH']
        const objects = process.env['HICACHE_STAND_IN_NIXL_OBJECTS']
        process.env['HICACHE_NIXL_LIBNIXL_PATH'] = await standInLibrary('nixl_capi')
        process.env['HICACHE_STAND_IN_NIXL_OBJECTS'] = folder
        bench.atLast(() => {
          for (const [name, value] of [['HICACHE_NIXL_LIBNIXL_PATH', library], ['HICACHE_STAND_IN_NIXL_OBJECTS', objects]] as const) {
            if (value === undefined) Reflect.deleteProperty(process.env, name)
            else process.env[name] = value
          }
        })
        const cache = await HiCacheNixl.open({ env: {}, arenaBytes: 16 * 1024 * 1024, ...blobs() })
        bench.atEnd(() => cache.close())
        expect(cache.storageLayout).to.equal('object')
        expect(await cache.set('page', page('page'))).to.equal(true)
        expect(await cache.exists('page')).to.equal(true)
        for (const call of [() => cache.delete('page'), () => cache.clear(), () => cache.stat('page'), () => cache.verify(), () => cache.entries().next()]) {
          const { message } = await rejection(call(), 'ERR_PLUGIN_UNAVAILABLE')
          expect(message).to.include('BLOBS').and.include('NIXL can neither list nor delete objects')
        }
        expect(await cache.gc()).to.deep.equal({ leftovers: 0, evictedPages: 0, evictedBytes: 0 })
        expect(same(await cache.get('page'), page('page'))).to.equal(true)
      })
    })

    it('without our own client NIXL\'s OBJ moves pages all the same', async () => {
      const cache = new RemoteCache(bench, [], {
        HICACHE_NIXL_LIBNIXL_PATH: await standInLibrary('nixl_capi'), HICACHE_STAND_IN_CONTROL: control.path, HICACHE_STAND_IN_NIXL_OBJECTS: folder,
        HICACHE_NIXL_LIBCURL_PATH: '/nowhere/libcurl.so.4'
      })
      await cache.open(obj())
      expect(await cache.write(PAGES)).to.deep.equal(all('stored'))
      expect(await cache.read(PAGES)).to.deep.equal(all('hit'))
      const refused: unknown = await cache.delete(names).catch((error: unknown) => error)
      expect(refused).to.include({ code: 'ERR_PLUGIN_UNAVAILABLE' }).and.have.property('message').that.includes('NIXL can neither list nor delete objects')
    })

    it('a plugin for files is no plugin for objects: without NIXL neither is had', async () => {
      const cache = new RemoteCache(bench, [], { HICACHE_NIXL_LIBNIXL_PATH: '/nowhere/libnixl_capi.so' })
      for (const options of [obj(), blobs()]) expect(await unavailable(cache.open(options))).to.include('NIXL\'s C library cannot be loaded').and.include('install NIXL')
    })
  })
}
