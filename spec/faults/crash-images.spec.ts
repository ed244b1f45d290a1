import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { loadAddon } from '../../lib/transfer/load-addon.js'
import { CrashImages, differences, writeImage } from '../trials/crash-images.js'
import { JournalState } from '../trials/journal.js'
import { ModelStore, type Omission } from '../trials/model-store.js'
import { Random } from '../trials/random.js'
import { readRecording } from '../trials/recording.js'
import { workbench } from '../support/workbench.js'

const SLOTS = 8

/** Cuts a model's power `count` times; answers what was wrong and what was lost. */
function cut(omission: Omission, count: number): { wrong: number; lost: number; kept: number; partial: number } {
  const random = new Random(7)
  const store = new ModelStore(omission)
  for (let i = 1; i <= 60; i++) store.put(random.below(SLOTS), i)
  const tally = { wrong: 0, lost: 0, kept: 0, partial: 0 }
  for (let i = 0; i < count; i++) {
    const images = new CrashImages(store.events)
    const state = new JournalState()
    images.advance(random.below(store.events.length + 1), line => { state.add(line) })
    const image = images.image(random)
    for (const [slot, { versions, mayBeAbsent }] of state.keys) {
      const found = store.read(image, Number(slot))
      if (found === 'wrong') tally.wrong++
      else if (found === null) tally[mayBeAbsent || versions.size > 1 ? 'partial' : 'lost']++
      else if (versions.has(found)) tally.kept++
      else tally.lost++
    }
  }
  return tally
}

describe('images of a power cut', () => {
  const bench = workbench()

  it('hold all that a store which synchronises has acknowledged', () => {
    const { wrong, lost, kept, partial } = cut('none', 300)
    expect({ wrong, lost }).to.deep.equal({ wrong: 0, lost: 0 })
    expect(kept).to.be.greaterThan(500)
    expect(partial, 'pages cut while they were written').to.be.greaterThan(0)
  })

  for (const omission of ['sync of data', 'sync of records', 'sync of names'] as const) {
    it(`show what a store loses that forgets the ${omission}`, () => {
      const { wrong, lost } = cut(omission, 300)
      expect(wrong).to.equal(0)
      expect(lost).to.be.greaterThan(5)
    })
  }

  for (const [omission, what] of [['order', 'writes the record before its data'], ['checksum', 'does not check']] as const) {
    it(`show the wrong bytes of a store that ${what}`, () => {
      expect(cut(omission, 300).wrong).to.be.greaterThan(0)
    })
  }

  it('tear what is not synchronised at sectors of 512 bytes, and nothing else', () => {
    const random = new Random(1)
    const data = Buffer.alloc(8192, 1)
    const images = new CrashImages([
      { kind: 'create', path: 'a', inode: 1 }, { kind: 'create', path: 'b', inode: 2 }, { kind: 'sync', id: 1, path: '', inode: 9 }, { kind: 'end', id: 1, result: 0 },
      { kind: 'write', id: 2, path: 'a', inode: 1, offset: 0, length: 8192, data }, { kind: 'end', id: 2, result: 8192 },
      { kind: 'write', id: 3, path: 'b', inode: 2, offset: 0, length: 8192, data }, { kind: 'sync', id: 4, path: 'b', inode: 2 }, { kind: 'end', id: 3, result: 8192 },
      { kind: 'end', id: 4, result: 0 }, { kind: 'sync', id: 5, path: 'a', inode: 1 }, { kind: 'end', id: 5, result: 0 },
      { kind: 'write', id: 6, path: 'a', inode: 1, offset: 4096, length: 4096, data: null }
    ])
    images.advance(13)
    const sectors = new Set<number>()
    let torn = 0, absent = 0
    for (let i = 0; i < 200; i++) {
      const image = images.image(random)
      const a = image.get('a')!
      expect(a.length).to.equal(8192)
      expect(a.subarray(0, 4096).equals(data.subarray(0, 4096)), 'what is synchronised').to.equal(true)
      const zeros = Array.from({ length: 8 }, (_, s) => a.subarray(4096 + s * 512, 4608 + s * 512)).map(sector => {
        expect(sector.every(byte => byte === sector[0]), 'within a sector').to.equal(true)
        return sector[0] === 0
      })
      zeros.forEach((zero, s) => { if (zero) sectors.add(s) })
      if (new Set(zeros).size === 2) torn++
      // A sync that began before the write's end is no promise.
      if (image.get('b')!.length === 0) absent++
    }
    expect(sectors.size).to.equal(8)
    expect(torn).to.be.greaterThan(20)
    expect(absent).to.be.greaterThan(20)
  })

  it('keep the order of names, and those of a folder that was synchronised', () => {
    const random = new Random(3)
    const images = new CrashImages([
      { kind: 'folder', path: 'f' }, { kind: 'sync', id: 1, path: '', inode: 9 }, { kind: 'end', id: 1, result: 0 },
      { kind: 'create', path: 'f/1.new', inode: 1 }, { kind: 'rename', path: 'f/1.new', to: 'f/1' }, { kind: 'unlink', path: 'f/1' }, { kind: 'create', path: 'f/2', inode: 2 }
    ])
    images.advance(7)
    const seen = new Set<string>()
    for (let i = 0; i < 200; i++) seen.add([...images.image(random).keys()].sort().join(' '))
    expect([...seen].sort()).to.deep.equal(['f', 'f f/1', 'f f/1.new', 'f f/2'])
  })

  it('are written as they are, and compared byte by byte', async () => {
    const directory = await bench.directory()
    const image = new Map([['f', null], ['f/a', Buffer.concat([Buffer.alloc(5000), Buffer.from('x'), Buffer.alloc(9000)])], ['f/empty', Buffer.alloc(0)]])
    writeImage(image, directory)
    expect(differences(image, directory)).to.deep.equal([])
    writeFileSync(join(directory, 'f', 'empty'), 'y')
    mkdirSync(join(directory, 'g'))
    expect(differences(image, directory)).to.deep.equal(['g was not recorded', 'f/empty has 1 bytes, 0 were recorded'])
  })
})

describe('the recorder', () => {
  const bench = workbench()

  it('logs marks, and reads back what it wrote', async () => {
    const directory = await bench.directory()
    const log = join(await bench.directory(), 'log')
    const { recorder } = loadAddon()
    recorder.start(log, directory)
    bench.atEnd(() => { recorder.stop() })
    expect(() => { recorder.start(log, directory) }).to.throw().with.property('code', 'EBUSY')
    recorder.mark('b ключ 1')
    recorder.mark('')
    recorder.stop()
    recorder.mark('after its end')
    expect(readRecording(log, directory)).to.deep.equal([{ kind: 'mark', text: 'b ключ 1' }, { kind: 'mark', text: '' }])
  })
})
