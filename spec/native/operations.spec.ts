import { constants } from 'node:os'
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, statSync, truncateSync, utimesSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { Status } from '../../lib/transfer/protocol.js'
import { workbench } from '../support/workbench.js'
import { PLACES, rigOn } from './places.js'
import type { Rig } from './rig.js'

const MIB = 1 << 20
const TARGET = 8 * MIB

for (const place of PLACES) {
  describe(`operations of the native agent: ${place.name}`, () => {
    const bench = workbench()
    let rig: Rig
    let path: (name: string) => string
    beforeEach(async function () {
      rig = await rigOn(place, bench, this)
      path = name => join(rig.shared.directory, name)
    })

    for (const length of [0, 1, 4095, 4096, 4097, 65_536, 70_001, MIB, 4 * MIB + 5]) {
      it(`stores ${length} bytes and reads them back, with their meta`, async () => {
        const payload = rig.fill(0, length, 1)
        expect(await rig.one({ op: 'pageWrite', name: 'd1/page', length, meta: 'about it' })).to.include({ status: 'ok', errno: 0, length })
        expect(statSync(path('d1/page')).size).to.equal(Math.ceil(length / 4096) * 4096 + 4096)
        expect(statSync(path('d1/page')).mode & 0o777).to.equal(0o600)
        expect(statSync(path('d1')).mode & 0o777).to.equal(0o700)
        const answer = await rig.one({ op: 'pageRead', name: 'd1/page', at: TARGET, length })
        expect(answer).to.include({ status: 'ok', errno: 0, length, meta: 'about it' })
        expect(answer.microseconds).to.be.greaterThan(0)
        expect(Buffer.compare(rig.copy(TARGET, length), payload)).to.equal(0)
        expect(readFileSync(path('d1/page')).subarray(0, length).equals(payload)).to.equal(true)
      })
    }

    it('reads and writes memory at any address', async () => {
      const payload = rig.fill(24, 10_000, 2)
      expect(await rig.one({ op: 'pageWrite', name: 'page', at: 24, length: 10_000 })).to.include({ status: 'ok' })
      for (const at of [TARGET, TARGET + 1, TARGET + 4095]) {
        rig.bytes.fill(0xee, at - 16, at + 10_016)
        expect(await rig.one({ op: 'pageRead', name: 'page', at, length: 10_000 })).to.include({ status: 'ok' })
        expect(Buffer.compare(rig.copy(at, 10_000), payload)).to.equal(0)
        expect(rig.copy(at + 10_000, 16).every(byte => byte === 0xee), 'bytes behind the target').to.equal(true)
      }
    })

    it('does not write what is already there, and replaces what differs', async () => {
      const ask = { op: 'pageWrite', name: 'page', length: 5000, meta: 'a' } as const
      rig.fill(0, 5000, 1)
      expect(await rig.one(ask)).to.include({ status: 'ok' })
      const { ino } = statSync(path('page'))
      expect(await rig.one(ask)).to.include({ status: 'alreadyThere', length: 5000 })
      expect(statSync(path('page')).ino).to.equal(ino)
      for (const other of [{ ...ask, meta: 'b' }, { ...ask, length: 4999 }, { ...ask, identity: 'another' }, { ...ask, flags: ['replace'] as const }]) {
        expect(await rig.one(other)).to.include({ status: 'ok' })
        expect(await rig.one(ask)).to.include({ status: JSON.stringify(other) === JSON.stringify({ ...ask, flags: ['replace'] }) ? 'alreadyThere' : 'ok' })
      }
      rig.fill(0, 5000, 9)
      expect(await rig.one(ask)).to.include({ status: 'ok' })
    })

    it('says whose and how long a page is before it says that it is the wrong one', async () => {
      rig.fill(0, 5000, 1)
      await rig.one({ op: 'pageWrite', name: 'page', length: 5000 })
      expect(await rig.one({ op: 'pageRead', name: 'page', at: TARGET, length: 4999 })).to.include({ status: 'length', length: 5000 })
      expect(await rig.one({ op: 'pageRead', name: 'page', at: TARGET, length: 50_000 })).to.include({ status: 'length', length: 5000 })
      expect(await rig.one({ op: 'pageRead', name: 'page', identity: 'x', at: TARGET, length: 5000 })).to.include({ status: 'identity' })
      expect(await rig.one({ op: 'pageRead', name: 'page', identity: 'x', at: TARGET, length: 50_000 })).to.include({ status: 'identity' })
      expect(await rig.one({ op: 'pageRead', name: 'nowhere/page', at: TARGET, length: 5000 })).to.include({ status: 'absent', errno: 0 })
    })

    it('checks pages by their record alone', async () => {
      rig.fill(0, 5000, 1)
      await rig.one({ op: 'pageWrite', name: 'page', length: 5000, meta: 'm' })
      writeFileSync(path('python'), 'no record')
      writeFileSync(path('empty'), '')
      const answers = await rig.run(
        { op: 'pageCheck', name: 'page' }, { op: 'pageCheck', name: 'page', identity: 'x' }, { op: 'pageCheck', name: 'nothing' },
        { op: 'pageCheck', name: 'python' }, { op: 'pageCheck', name: 'python', flags: ['acceptUnverified'] }, { op: 'pageCheck', name: 'empty', flags: ['acceptUnverified'] })
      expect(answers.map(({ status, length, meta }) => `${status} ${length} ${meta}`)).to.deep.equal(
        ['ok 5000 m', 'identity 5000 ', 'absent 0 ', 'corrupt 9 ', 'unverified 9 ', 'corrupt 0 '])
    })

    it('takes files without a record only when asked to, and only of the very length', async () => {
      for (const length of [100, 8192]) {
        const payload = rig.fill(0, length, 4)
        writeFileSync(path('python'), payload)
        expect(await rig.one({ op: 'pageRead', name: 'python', at: TARGET, length })).to.include({ status: 'corrupt' })
        expect(await rig.one({ op: 'pageRead', name: 'python', at: TARGET, length, flags: ['acceptUnverified', 'dropCorrupt'] })).to.include({ status: 'unverified', length })
        expect(Buffer.compare(rig.copy(TARGET, length), payload)).to.equal(0)
        expect(await rig.one({ op: 'pageRead', name: 'python', at: TARGET, length: length - 1, flags: ['acceptUnverified'] })).to.include({ status: 'length', length })
        expect(await rig.one({ op: 'pageRead', name: 'python', at: TARGET, length: length - 1, flags: ['dropCorrupt'] })).to.include({ status: 'length' })
        expect(existsSync(path('python'))).to.equal(true)
      }
    })

    for (const [what, at] of [['payload', 1000], ['padding block', 65_537], ['record', -4000]] as const) {
      it(`finds a changed ${what}, and drops the file when asked to`, async () => {
        rig.fill(0, 65_537, 1)
        await rig.one({ op: 'pageWrite', name: 'page', length: 65_537 })
        const file = openSync(path('page'), 'r+')
        const size = statSync(path('page')).size
        const place = at < 0 ? size + at : at
        writeSync(file, Buffer.from([readFileSync(path('page'))[place]! ^ 4]), 0, 1, place)
        closeSync(file)
        const expected = what === 'padding block' ? 'ok' : 'corrupt'  // nobody ever reads the padding
        expect(await rig.one({ op: 'pageRead', name: 'page', at: TARGET, length: 65_537 })).to.include({ status: expected })
        expect(existsSync(path('page'))).to.equal(true)
        expect(await rig.one({ op: 'pageRead', name: 'page', at: TARGET, length: 65_537, flags: ['dropCorrupt'] })).to.include({ status: expected })
        expect(existsSync(path('page'))).to.equal(expected === 'ok')
      })
    }

    it('never takes a page that was cut short for a page', async () => {
      rig.fill(0, 70_000, 1)
      for (const left of [0, 1, 4096, 69_999, 73_728, 77_823]) {
        await rig.one({ op: 'pageWrite', name: 'page', length: 70_000, flags: ['replace'] })
        truncateSync(path('page'), left)
        for (const flags of [[], ['acceptUnverified', 'dropCorrupt']] as const) {
          expect((await rig.one({ op: 'pageRead', name: 'page', at: TARGET, length: 70_000, flags })).status).to.be.oneOf(['corrupt', 'length'])
        }
      }
    })

    it('leaves the checksum out only when asked to', async () => {
      rig.fill(0, 65_536, 1)
      await rig.one({ op: 'pageWrite', name: 'page', length: 65_536 })
      const file = openSync(path('page'), 'r+')
      writeSync(file, Buffer.from([1, 2, 3]), 0, 3, 100)
      closeSync(file)
      expect(await rig.one({ op: 'pageRead', name: 'page', at: TARGET, length: 65_536, flags: ['skipChecksum'] })).to.include({ status: 'ok' })
      expect(await rig.one({ op: 'pageRead', name: 'page', at: TARGET, length: 65_536 })).to.include({ status: 'corrupt' })
    })

    it('removes its own pages and files without a record, others only by force', async () => {
      rig.fill(0, 100, 1)
      await rig.one({ op: 'pageWrite', name: 'page', length: 100 })
      writeFileSync(path('python'), 'no record')
      expect(await rig.one({ op: 'pageDelete', name: 'page', identity: 'x' })).to.include({ status: 'identity' })
      expect(await rig.one({ op: 'pageDelete', name: 'page' })).to.include({ status: 'ok', length: 100 })
      expect(await rig.one({ op: 'pageDelete', name: 'page' })).to.include({ status: 'absent' })
      expect(await rig.one({ op: 'pageDelete', name: 'python' })).to.include({ status: 'ok' })
      await rig.one({ op: 'pageWrite', name: 'page', length: 100 })
      expect(await rig.one({ op: 'pageDelete', name: 'page', identity: 'x', flags: ['force'] })).to.include({ status: 'ok' })
      expect(existsSync(path('page'))).to.equal(false)
    })

    it('renews the access time and leaves the other one', async () => {
      rig.fill(0, 100, 1)
      await rig.one({ op: 'pageWrite', name: 'page', length: 100 })
      utimesSync(path('page'), 1000, 2000)
      expect(await rig.one({ op: 'pageTouch', name: 'page' })).to.include({ status: 'ok' })
      expect(statSync(path('page')).atimeMs).to.be.greaterThan(1e12)
      expect(statSync(path('page')).mtimeMs).to.equal(2_000_000)
      expect(await rig.one({ op: 'pageTouch', name: 'nothing' })).to.include({ status: 'absent' })
    })

    it('reads and writes extents of files that are there', async () => {
      writeFileSync(path('segment'), Buffer.alloc(MIB, 7))
      for (const round of [1, 2]) {
        const payload = rig.fill(0, 10_000, round)
        expect(await rig.one({ op: 'extentWrite', name: 'segment', length: 10_000, fileOffset: 8192 })).to.include({ status: 'ok', length: 10_000 })
        expect(await rig.one({ op: 'extentRead', name: 'segment', at: TARGET, length: 10_000, fileOffset: 8192 })).to.include({ status: 'ok', length: 10_000 })
        expect(Buffer.compare(rig.copy(TARGET, 10_000), payload)).to.equal(0)
      }
      const file = readFileSync(path('segment'))
      expect(file.length).to.equal(MIB)
      expect(file.subarray(0, 8192).every(byte => byte === 7) && file.subarray(8192 + 12_288).every(byte => byte === 7)).to.equal(true)
      expect(await rig.one({ op: 'extentRead', name: 'segment', at: TARGET, length: 10_000, fileOffset: MIB - 4096 })).to.include({ status: 'length', length: 4096 })
      expect(await rig.one({ op: 'extentRead', name: 'nothing', at: TARGET, length: 10_000 })).to.include({ status: 'absent' })
      expect(await rig.one({ op: 'extentRead', name: 'segment', at: TARGET + 1, length: 10_000, fileOffset: 8193 })).to.include({ status: 'ok' })
      expect(Buffer.compare(rig.copy(TARGET + 1, 9_999), rig.copy(1, 9_999))).to.equal(0)
    })

    it('answers every operation of a large batch by itself', async () => {
      const asks = Array.from({ length: 200 }, (_, i) => ({ op: 'pageWrite', name: `d${i % 7}/page${i}`, at: (i % 8) * 65_536, length: 60_000 + i } as const))
      for (let slot = 0; slot < 8; slot++) rig.fill(slot * 65_536, 65_536, slot)
      expect((await rig.run(...asks)).every(({ status }) => status === 'ok')).to.equal(true)
      const answers = await rig.run(...asks.map((ask, i) => ({ ...ask, op: 'pageRead', at: TARGET + (i % 8) * 65_536, identity: i % 5 === 0 ? 'x' : undefined, name: i % 7 === 0 ? 'gone' : ask.name } as never)))
      answers.forEach(({ status }, i) => expect(status, `page ${i}`).to.equal(i % 7 === 0 ? 'absent' : i % 5 === 0 ? 'identity' : 'ok'))
    })

    it('goes on when folders, or the directory itself, are removed under it', async () => {
      rig.fill(0, 100, 1)
      const write = { op: 'pageWrite', name: 'd1/page', length: 100 } as const
      await rig.one(write)
      rmSync(path('d1'), { recursive: true })
      expect(await rig.one({ op: 'pageRead', name: 'd1/page', length: 100 })).to.include({ status: 'absent' })
      expect(await rig.one(write)).to.include({ status: 'ok' })
      rmSync(rig.shared.directory, { recursive: true })
      expect(await rig.one({ op: 'pageRead', name: 'd1/page', length: 100 })).to.include({ status: 'error', errno: constants.errno.ENOENT })
      expect(await rig.one(write)).to.include({ status: 'error', errno: constants.errno.ENOENT })
      mkdirSync(rig.shared.directory)
      expect(await rig.one({ op: 'pageRead', name: 'd1/page', length: 100 })).to.include({ status: 'absent' })
      expect(await rig.one(write)).to.include({ status: 'ok' })
    })

    it('sets every word to done, and has nothing in flight then', async () => {
      const { words, answers } = rig.start([{ op: 'pageWrite', name: 'page', length: 100 }, { op: 'pageCheck', name: 'nothing' }])
      await answers
      expect(words.map(word => rig.state(word))).to.deep.equal(['done', 'done'])
      expect(rig.agent.inFlight).to.equal(0)
      expect(rig.agent.engine).to.equal(place.engine)
    })

    it('does nothing for a word that was called off before', async () => {
      const { descriptors, blob, words } = rig.encode([{ op: 'pageWrite', name: 'page', length: 100 }])
      expect(rig.change(words[0]!, 'queued', 'cancelled')).to.equal(true)
      const { results } = await rig.agent.submit(descriptors, blob, false)
      expect(results[0]).to.equal(Status.cancelled)
      expect(rig.state(words[0]!)).to.equal('cancelled')
      expect(existsSync(path('page'))).to.equal(false)
    })
  })
}
