import { expect } from 'chai'
import { existsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { loadAddon } from '../../lib/transfer/load-addon.js'
import type { HiCacheNixl } from '../../lib/index.js'
import { bytes, fill, same, tensor } from '../support/content.js'
import { describeDiskLayouts } from '../support/layouts.js'
import { flipByte, pagePath } from '../support/page-files.js'
import { skipLoudly } from '../support/planned-faults.js'
import { rejection } from '../support/rejection.js'
import { MIB, workbench } from '../support/workbench.js'

/** What the engine is asked for, on what. Without O_DIRECT, and on a tmpfs, an agent's own threads move the bytes, whichever engine it is. */
const CASES = [
  { engine: 'io_uring', place: 'a disk', parent: tmpdir(), useDirectIo: true },
  { engine: 'aio', place: 'a disk', parent: tmpdir(), useDirectIo: true },
  { engine: 'posix_aio', place: 'a disk', parent: tmpdir(), useDirectIo: true },
  { engine: 'posix_aio', place: 'a disk', parent: tmpdir(), useDirectIo: false },
  { engine: 'posix_aio', place: 'a tmpfs', parent: '/dev/shm', useDirectIo: true }
] as const
const SIZES = [1, 4095, 4096, 4097, 65_536, 65_537, MIB, 9 * MIB, 4 * MIB + 12_345]

/** One suite for every engine and kind of file system: what a caller sees is the same. */
for (const { engine, place, parent, useDirectIo } of CASES) {
  describeDiskLayouts(`${engine} on ${place}${useDirectIo ? '' : ', without O_DIRECT'}`, storageLayout => {
    const bench = workbench(storageLayout)
    let cache: HiCacheNixl
    let storageDir: string
    before(async function () {
      if (!existsSync(parent)) skipLoudly(this, `there is no ${parent} here`)
      const report = (await loadAddon().probeEngines()).find(({ name }) => name === engine)!
      if (report.usable) return
      // Where the system forbids an engine, opening says so, and that is all there is to see of it.
      const error = await rejection(bench.open({ engine }), 'ERR_PLUGIN_UNAVAILABLE')
      expect(error.message).to.include(report.reason)
      await bench.clear()
      skipLoudly(this, `${engine} cannot be used here: ${report.reason}`)
    })
    beforeEach(async () => {
      storageDir = await bench.directory(parent)
      cache = await bench.open({ engine, useDirectIo, storageDir, arenaBytes: 64 * MIB, modelName: 'm' })
    })

    it('is what was asked for', () => {
      expect(cache.selection).to.include({ plugin: 'posix', engine, agent: 'embedded' })
      if (place === 'a tmpfs') expect(cache.directories[0]).to.include({ fileSystem: 'tmpfs', engine: false })
    })
    it('moves pages of every size in one batch, by copy', async () => {
      const keys = SIZES.map(size => `k${size}`)
      expect(await cache.batchSet(keys, SIZES.map(size => bytes(size, size)))).to.deep.equal(keys.map(() => true))
      const targets = SIZES.map(size => new Uint8Array(size))
      await cache.batchGet(keys, targets)
      SIZES.forEach((size, i) => expect(same(targets[i]!, bytes(size, size)), `${size}`).to.equal(true))
    })
    it('moves pages of every size in one batch, without a copy', async () => {
      for (const size of SIZES) {
        const source = cache.allocate({ dtype: 'uint8', shape: [size] })
        fill(new Uint8Array(source.data.buffer, source.data.byteOffset, size), size)
        expect(await cache.set(`k${size}`, source), `${size}`).to.equal(true)
        source.release()
      }
      const pages = await Promise.all(SIZES.map(size => cache.getInArena(`k${size}`)))
      SIZES.forEach((size, i) => {
        expect(same(pages[i]!, bytes(size, size)), `${size}`).to.equal(true)
        pages[i]!.release()
      })
      expect(cache.stats()['arena_used_bytes']).to.equal(0)
    })
    it('moves more pages than its queue is deep', async () => {
      const narrow = await bench.open({ engine, useDirectIo, storageDir, queueDepth: 4, threads: 2, modelName: 'n' })
      const keys = Array.from({ length: 200 }, (_, i) => `k${i}`)
      expect((await narrow.batchSet(keys, keys.map(key => bytes(5000, key)))).every(Boolean)).to.equal(true)
      const got = await narrow.batchGet(keys)
      got.forEach((page, i) => expect(same(page, bytes(5000, keys[i]!))).to.equal(true))
    })
    if (storageLayout === 'file') {
      it('tells hit, absent, corrupt, length and identity apart in one batch', async () => {
        await cache.batchSet(['hit', 'corrupt', 'length', 'identity'], ['hit', 'corrupt', 'length', 'identity'].map(key => bytes(MIB, key)))
        await flipByte(pagePath(storageDir, 'corrupt_m_0_1'), MIB / 2)
        const other = await bench.open({ engine, storageDir, modelName: 'm', fingerprint: 'other' })
        await other.set('identity', bytes(MIB, 1))
        const outcomes = await cache.read([
          ['hit', new Uint8Array(MIB)], ['absent', new Uint8Array(MIB)], ['corrupt', new Uint8Array(MIB)], ['length', new Uint8Array(MIB - 4096)], ['identity', new Uint8Array(MIB)]
        ])
        expect(outcomes.map(outcome => outcome.status === 'miss' ? outcome.reason : outcome.status)).to.deep.equal(['hit', 'absent', 'corrupt', 'length', 'identity'])
      })
    }
    it('replaces, looks up, deletes and lists', async () => {
      await cache.batchSet(['a', 'b'], [bytes(70_000, 1), bytes(70_000, 2)])
      await cache.set('a', tensor('float32', [10], 'new'))
      expect(same(await cache.get('a'), tensor('float32', [10], 'new'))).to.equal(true)
      expect(await cache.batchExists(['a', 'b', 'c'])).to.equal(2)
      expect(await cache.delete('a')).to.equal(true)
      expect(await cache.exists('a')).to.equal(false)
      const listed: string[] = []
      for await (const { key } of cache.entries()) listed.push(key)
      expect(listed).to.deep.equal(['b'])
      expect(await cache.clear()).to.deep.equal({ deleted: 1 })
    })
    it('stops in the middle of its work', async () => {
      const keys = Array.from({ length: 32 }, (_, i) => `k${i}`)
      const page = bytes(MIB, 'page')
      const writing = cache.write(keys.map(key => [key, page] as const))
      await cache.close({ graceMs: 0 })
      const stored = (await writing).flatMap(({ ok, key }) => ok ? [key] : [])
      const again = await bench.open({ engine, useDirectIo, storageDir, modelName: 'm', arenaBytes: 64 * MIB })
      for (const outcome of await again.read(keys)) {
        // What was said to be stored is there; nothing is there in part.
        if (outcome.ok) expect(same(outcome.value, page)).to.equal(true)
        else expect([outcome.status, stored.includes(outcome.key)]).to.deep.equal(['miss', false])
      }
    })
  })
}
