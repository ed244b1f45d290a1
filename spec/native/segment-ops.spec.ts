import { constants } from 'node:os'
import { closeSync, openSync, readFileSync, renameSync, truncateSync, writeSync } from 'node:fs'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { join } from 'node:path'
import { expect } from 'chai'
import { bounded, plan, until } from '../support/planned-faults.js'
import { workbench } from '../support/workbench.js'
import { PLACES, rigOn } from './places.js'
import { addon, Rig } from './rig.js'
import { checksumOf, EXTENT, fillAndSum, SegmentWriter } from './segment-writer.js'

const CHILD = fileURLToPath(new URL('./segment-ops-child.js', import.meta.url))
const TARGET = 4 << 20
const LENGTH = 65_536

for (const place of PLACES) {
  describe(`pages in segments: ${place.name}`, () => {
    const bench = workbench()
    /** Where the data of a write fail. */
    const writing = place.direct ? place.reading : 'pwritev'
    let rig: Rig
    let writer: SegmentWriter
    beforeEach(async function () {
      rig = await rigOn(place, bench, this)
      writer = await SegmentWriter.open(bench, rig.shared.directory)
    })

    /** Slot 0, generation 1. */
    async function written(length = LENGTH): Promise<bigint> {
      const checksum = fillAndSum(rig, 0, length, 1)
      expect(await rig.one(writer.write(0, { length }))).to.include({ status: 'ok', errno: 0, length })
      return checksum
    }

    for (const length of [0, 1, 4095, 4096, 65_536, 70_001, (1 << 20) + 5]) {
      it(`stores ${length} bytes with their record and tells of it, and reads them back`, async () => {
        const checksum = fillAndSum(rig, 0, length, 1)
        // The second write finds its files open.
        for (const slot of [2, 3]) {
          const answer = await rig.one(writer.write(slot, { length, generation: 7 }))
          expect(answer).to.include({ status: 'ok', errno: 0, length })
          expect(checksumOf(answer)).to.equal(checksum)
          expect(writer.generation(slot)).to.equal(7n)
          expect(writer.record(slot).readBigUInt64LE(40)).to.equal(checksum)
          expect(Buffer.compare(readFileSync(writer.path('data')).subarray(slot * EXTENT, slot * EXTENT + length), rig.copy(0, length))).to.equal(0)
        }
        expect(writer.changes()).to.deep.equal([2, 3])
        for (const flags of [[], ['foreign'], ['skipChecksum']] as const) {
          rig.fill(TARGET, length + 100, 9)
          const behind = rig.copy(TARGET + length, 100)
          expect(await rig.one(writer.read(3, { at: TARGET, length, generation: 7, checksum, flags }))).to.include({ status: 'ok', errno: 0, length })
          expect(Buffer.compare(rig.copy(TARGET, length), rig.copy(0, length))).to.equal(0)
          expect(Buffer.compare(rig.copy(TARGET + length, 100), behind)).to.equal(0)
        }
      })
    }

    it('takes memory at any address', async () => {
      const checksum = fillAndSum(rig, 24, 10_000, 2)
      expect(await rig.one(writer.write(1, { at: 24, length: 10_000 }))).to.include({ status: 'ok' })
      expect(await rig.one(writer.read(1, { at: TARGET + 8, length: 10_000, checksum }))).to.include({ status: 'ok' })
      expect(Buffer.compare(rig.copy(TARGET + 8, 10_000), rig.copy(24, 10_000))).to.equal(0)
    })

    it('commits what comes together, each with its own record', async () => {
      for (let round = 1; round <= 4; round++) {
        const answers = await rig.run(...[4, 0, 3, 1, 5, 2].map(slot => {
          rig.fill(slot * LENGTH, LENGTH, slot + round)
          return slot === 5 ? writer.evict(slot, round) : writer.write(slot, { at: slot * LENGTH, length: LENGTH, generation: round })
        }))
        expect(answers.map(answer => answer.status)).to.deep.equal(new Array(6).fill('ok'))
        for (let slot = 0; slot < 6; slot++) expect(writer.generation(slot)).to.equal(BigInt(round))
        expect(writer.changes().slice(-6).sort()).to.deep.equal([0, 1, 2, 3, 4, 5])
      }
      expect((await addon.segments.records(writer.directory, writer.folder, writer.id)).length).to.equal(5 * 512)
    })

    it('calls damage by its name, unless it is not to look', async () => {
      const checksum = await written()
      const file = openSync(writer.path('data'), 'r+')
      writeSync(file, 'x', 1000)
      closeSync(file)
      expect(await rig.one(writer.read(0, { at: TARGET, length: LENGTH, checksum }))).to.include({ status: 'corrupt' })
      expect(await rig.one(writer.read(0, { at: TARGET, length: LENGTH, checksum, flags: ['foreign'] }))).to.include({ status: 'corrupt' })
      expect(await rig.one(writer.read(0, { at: TARGET, length: LENGTH, checksum, flags: ['skipChecksum'] }))).to.include({ status: 'ok' })
    })

    for (const length of [LENGTH, 1 << 20]) {
      it(`writes nothing where the page is there already (${length} bytes)`, async () => {
        const checksum = await written(length)
        const again = await rig.one(writer.write(0, { length, generation: 2, checksum, flags: ['compareFirst'] }))
        expect(again).to.include({ status: 'alreadyThere', length })
        expect(checksumOf(again)).to.equal(checksum)
        expect(writer.generation(0)).to.equal(1n)
        expect(writer.changes()).to.deep.equal([0])
        const other = fillAndSum(rig, 0, length, 5)
        const replaced = await rig.one(writer.write(0, { length, generation: 2, checksum, flags: ['compareFirst'] }))
        expect(replaced).to.include({ status: 'ok' })
        expect(checksumOf(replaced)).to.equal(other)
        expect(writer.generation(0)).to.equal(2n)
      })
    }

    it('finds another writer\'s page stale when its record is another one, evicted or damaged', async () => {
      const checksum = await written()
      const foreign = { at: TARGET, length: LENGTH, checksum, flags: ['foreign'] } as const
      expect(await rig.one(writer.read(0, foreign))).to.include({ status: 'ok' })
      for (const other of [{ generation: 2 }, { length: LENGTH - 1 }, { checksum: checksum ^ 1n }]) {
        expect(await rig.one(writer.read(0, { ...foreign, ...other }))).to.include({ status: 'stale' })
      }
      expect(await rig.one(writer.evict(0, 1))).to.include({ status: 'ok', length: 0 })
      expect(writer.record(0)[5]).to.equal(2)
      expect(writer.changes()).to.deep.equal([0, 0])
      expect(await rig.one(writer.read(0, foreign))).to.include({ status: 'stale' })
      expect(await rig.one(writer.write(0, { length: LENGTH }))).to.include({ status: 'ok' })
      expect(await rig.one(writer.read(0, foreign))).to.include({ status: 'ok' })
      const file = openSync(writer.path('index'), 'r+')
      writeSync(file, 'x', 4096 + 300)
      closeSync(file)
      expect(await rig.one(writer.read(0, foreign))).to.include({ status: 'stale' })
      // One's own pages stand in memory.
      expect(await rig.one(writer.read(0, { at: TARGET, length: LENGTH, checksum }))).to.include({ status: 'ok' })
    })

    it('finds another writer\'s page stale that is overtaken while it is read', async () => {
      const checksum = await written()
      const foreign = writer.read(0, { at: TARGET, length: LENGTH, checksum, flags: ['foreign'] })
      expect(await rig.one(foreign)).to.include({ status: 'ok' })
      const release = plan(bench, { point: place.reading, match: '.data', hang: true })
      const { words, answers } = rig.start([foreign])
      await until(() => rig.state(words[0]!) === 'started', 'the read')
      expect(await rig.one(writer.evict(0, 2))).to.include({ status: 'ok' })
      release()
      expect((await answers)[0]).to.include({ status: 'stale' })
    })

    it('looks at records by the pool where the kernel does not have them in memory', async () => {
      const checksum = await written()
      const foreign = writer.read(0, { at: TARGET, length: LENGTH, checksum, flags: ['foreign'] })
      await rig.one(foreign)
      for (const after of [0, 1]) {
        const release = plan(bench, { point: 'preadv.nowait', errno: 'EAGAIN', times: 0, after })
        expect(await rig.one(foreign)).to.include({ status: 'ok' })
        expect(release()[0]! > 0).to.equal(place.direct)
      }
      plan(bench, { point: 'preadv.nowait', errno: 'EAGAIN', times: 0 }, { point: 'preadv', match: '.index', errno: 'EIO' })
      expect(await rig.one(foreign)).to.include({ status: 'error', errno: constants.errno.EIO })
    })

    it('answers a segment that is gone, or given back, as absent; another writer\'s as stale', async () => {
      const checksum = await written()
      const own = writer.read(0, { at: TARGET, length: LENGTH, checksum })
      const foreign = writer.read(0, { at: TARGET, length: LENGTH, checksum, flags: ['foreign'] })
      const nowhere = `segments/${writer.folder}/ffffffff`
      expect(await rig.one({ ...own, name: nowhere })).to.include({ status: 'absent' })
      expect(await rig.one({ ...foreign, name: nowhere })).to.include({ status: 'stale' })
      expect(await rig.one({ ...foreign, name: 'segments/nobody/00000001' })).to.include({ status: 'stale' })
      expect(await rig.one({ ...writer.write(0, { length: LENGTH }), name: nowhere })).to.include({ status: 'error', errno: constants.errno.ENOENT })
      expect((await rig.run(own, foreign)).map(answer => answer.status)).to.deep.equal(['ok', 'ok'])
      truncateSync(writer.path('data'), 4096)
      expect((await rig.run(own, foreign)).map(answer => answer.status)).to.deep.equal(['absent', 'stale'])
    })

    it('goes on reading when the file has been renamed, as an adoption does', async () => {
      const checksum = await written()
      const foreign = writer.read(0, { at: TARGET, length: LENGTH, checksum, flags: ['foreign'] })
      expect(await rig.one(foreign)).to.include({ status: 'ok' })
      renameSync(writer.path('data'), `${writer.path('data')}x`)
      renameSync(writer.path('index'), `${writer.path('index')}x`)
      expect(await rig.one(foreign)).to.include({ status: 'ok' })
    })

    it('writes no record once the writer is closed', async () => {
      await written()
      const before = readFileSync(writer.path('index'))
      await writer.close()
      for (const ask of [writer.write(0, { length: LENGTH, generation: 2 }), writer.evict(0, 2)]) {
        expect(await rig.one(ask)).to.include({ status: 'error', errno: constants.errno.EBADF })
      }
      expect(readFileSync(writer.path('index')).equals(before)).to.equal(true)
    })

    describe('failures', () => {
      const at = { data: { point: writing, match: '.data' }, record: { point: 'pwritev', match: '.index' }, ring: { point: 'pwritev', match: 'changes' } }
      for (const errno of ['EIO', 'ENOSPC'] as const) {
        for (const [where, point] of Object.entries(at)) {
          it(`${errno} at the ${where}: an error, and what comes after it is not done`, async () => {
            await written()
            const release = plan(bench, { ...point, errno })
            expect(await rig.one(writer.write(0, { length: LENGTH, generation: 2 }))).to.include({ status: 'error', errno: constants.errno[errno] })
            expect(release()).to.deep.equal([1])
            expect(writer.generation(0)).to.equal(where === 'ring' ? 2n : 1n)
            expect(writer.changes()).to.deep.equal([0])
            expect(await rig.one(writer.write(0, { length: LENGTH, generation: 3 }))).to.include({ status: 'ok' })
            expect(writer.generation(0)).to.equal(3n)
            expect(writer.changes()).to.deep.equal([0, 0])
          })
        }
      }

      it('a record that cannot be written fails an eviction', async () => {
        await written()
        plan(bench, { point: 'pwritev', match: '.index', errno: 'EIO' })
        expect(await rig.one(writer.evict(0, 2))).to.include({ status: 'error', errno: constants.errno.EIO })
        expect(writer.generation(0)).to.equal(1n)
      })

      it('short writes and reads are continued', async () => {
        const checksum = await written()
        for (const fault of [{ ...at.data, short: 8192 }, { ...at.record, short: 100 }, { ...at.ring, short: 5 }]) {
          const release = plan(bench, fault)
          expect(await rig.one(writer.write(0, { length: LENGTH, generation: 2 }))).to.include({ status: 'ok' })
          expect(release()).to.deep.equal([1])
          expect(writer.generation(0)).to.equal(2n)
        }
        const release = plan(bench, { point: place.reading, match: '.data', short: 8192 })
        expect(await rig.one(writer.read(0, { at: TARGET, length: LENGTH, checksum }))).to.include({ status: 'ok' })
        expect(release()).to.deep.equal([1])
      })

      it('a read that fails is an error', async () => {
        const checksum = await written()
        plan(bench, { point: place.reading, match: '.data', errno: 'EIO' })
        expect(await rig.one(writer.read(0, { at: TARGET, length: LENGTH, checksum }))).to.include({ status: 'error', errno: constants.errno.EIO })
      })

      it('files that cannot be opened', async () => {
        rig.fill(0, LENGTH, 1)
        for (const match of ['.data', '.index']) {
          plan(bench, { point: 'open', match, errno: 'EMFILE' })
          expect(await rig.one(writer.write(0, { length: LENGTH }))).to.include({ status: 'error', errno: constants.errno.EMFILE })
        }
        expect(await rig.one(writer.write(0, { length: LENGTH }))).to.include({ status: 'ok' })
      })
    })

    describe('Flag.sync', () => {
      it('puts the data on the disk before the record, and the record before the answer', async () => {
        await written()
        for (const [step, { point, match, record }] of [
          { point: 'fsync', match: '.data', record: false }, { point: 'fsync', match: '.index', record: true }
        ].entries()) {
          const generation = 2 + step
          const release = plan(bench, { point, match, hang: true }, { point: 'pwritev', match: '.index', short: 511 }, { point: 'pwritev', match: 'changes', short: 31 })
          let ended = false
          const answer = rig.one(writer.write(0, { length: LENGTH, generation, flags: ['sync'] })).finally(() => { ended = true })
          if (record) await until(() => writer.generation(0) === BigInt(generation), 'the record')
          // Behind the one that hangs: when it has been submitted and nothing moves, that one is at its step.
          else await rig.one({ op: 'pageCheck', name: 'nothing' })
          expect(ended).to.equal(false)
          expect(writer.generation(0)).to.equal(BigInt(record ? generation : generation - 1))
          expect(writer.changes().length).to.equal(1 + step)
          const struck = release()
          expect(await answer).to.include({ status: 'ok' })
          if (record) expect(struck).to.deep.equal([1, 1, 0])
        }
      })

      it('is one fdatasync of each file, and none without it', async () => {
        await written()
        const release = plan(bench, { point: 'fsync', match: '.data', errno: 'EINTR', times: 1 }, { point: 'fsync', match: '.index', errno: 'EINTR', times: 1 })
        expect(await rig.one(writer.write(0, { length: LENGTH, generation: 2 }))).to.include({ status: 'ok' })
        expect(await rig.one(writer.evict(0, 3, ['sync']))).to.include({ status: 'ok' })
        expect(release()).to.deep.equal([0, 1])
      })

      it('without the data on the disk there is no record', async () => {
        await written()
        plan(bench, { point: 'fsync', match: '.data', errno: 'EIO' })
        expect(await rig.one(writer.write(0, { length: LENGTH, generation: 2, flags: ['sync'] }))).to.include({ status: 'error', errno: constants.errno.EIO })
        expect(writer.generation(0)).to.equal(1n)
        plan(bench, { point: 'fsync', match: '.index', errno: 'EIO' })
        expect(await rig.one(writer.write(0, { length: LENGTH, generation: 2, flags: ['sync'] }))).to.include({ status: 'error', errno: constants.errno.EIO })
        expect(writer.changes()).to.deep.equal([0])
      })
    })

    describe('letting go', () => {
      it('a write that was told to let go gets no record', async () => {
        await written()
        const release = plan(bench, { point: writing, match: '.data', hang: true })
        const { words, answers } = rig.start([writer.write(0, { length: LENGTH, generation: 2 })])
        await until(() => rig.state(words[0]!) === 'started', 'the write')
        expect(rig.change(words[0]!, 'started', 'cancelling')).to.equal(true)
        addon.cancel()
        expect((await bounded(answers, 'the batch'))[0]).to.include({ status: 'error', errno: constants.errno.ECANCELED })
        expect(rig.state(words[0]!)).to.equal('cancelling')
        release()
        await until(() => rig.state(words[0]!) === 'done', 'the device')
        expect(writer.generation(0)).to.equal(1n)
        expect(writer.changes()).to.deep.equal([0])
      })

      it('what waits for the committer and is told to let go gets no record, the others get theirs', async () => {
        await written()
        const release = plan(bench, { point: 'pwritev', match: '.index', hang: true })
        const first = rig.start([writer.evict(5, 1)])
        const second = rig.start([1, 2, 3].map(slot => writer.write(slot, { length: LENGTH, generation: 2 })))
        await until(() => second.words.every(word => rig.state(word) === 'started'), 'the writes')
        expect(rig.change(second.words[1]!, 'started', 'cancelling')).to.equal(true)
        addon.cancel()
        release()
        expect((await first.answers)[0]).to.include({ status: 'ok' })
        const answers = await second.answers
        for (const [i, slot] of [1, 2, 3].entries()) expect(writer.generation(slot)).to.equal(answers[i]!.status === 'ok' ? 2n : 0n)
        expect([answers[0]!.status, answers[2]!.status]).to.deep.equal(['ok', 'ok'])
      })

      it('the writer\'s lock is held until a terminated worker\'s writes have ended', async () => {
        await written()
        const owner = join(writer.directory, 'segments', writer.folder, 'owner')
        const release = plan(bench, { point: writing, match: '.data', hang: true, times: 0 })
        const asks = [1, 2, 3].map(slot => writer.write(slot, { length: LENGTH, generation: 2 }))
        const worker = new Worker(CHILD, { workerData: { shared: rig.shared, holdFd: writer.ownerFd, asks } })
        const { words } = rig.shared
        const started = (): boolean => [...words.keys()].some(word => rig.state(word) === 'started')
        await bounded(once(worker, 'message'), 'the start')
        // One that is begun and has not reached the device ends with its worker.
        await until(() => addon.faultsStruck()[0]! > 0, 'a write that hangs')
        await bounded(worker.terminate(), 'termination')
        expect(started(), 'words of what hangs').to.equal(true)
        await writer.close()
        expect(addon.tryLock(owner), 'the lock').to.equal(-1)
        release()
        await until(() => !started(), 'the reaper')
        let locked = -1
        await until(() => (locked = addon.tryLock(owner)) >= 0, 'the lock')
        addon.unlock(locked)
        // The ring was closed before the data were there.
        for (const slot of [1, 2, 3]) expect(writer.generation(slot)).to.equal(0n)
      })
    })

    it('does not start where the writer\'s lock cannot be held', function () {
      if (!place.direct) this.skip()
      const refused = (holdFd: number): void => { new Rig({ directory: writer.directory, engine: place.engine, direct: true, holdFd }) }
      expect(() => { refused(1_000_000) }).to.throw(/holdFd|EBADF|descriptor/i)
      expect(() => { refused(1.5) }).to.throw(/holdFd/)
      if (place.engine !== 'io_uring') return
      plan(bench, { point: 'ring.register', errno: 'ENOMEM' })
      expect(() => { refused(writer.ownerFd) }).to.throw(/registering the writer's lock: ENOMEM/)
    })
  })
}
