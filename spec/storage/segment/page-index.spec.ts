import { expect } from 'chai'
import { FileLayout } from '../../../lib/storage/file-layout.js'
import { PageIndex, type LoadedRows } from '../../../lib/storage/segment/page-index.js'
import { Segment } from '../../../lib/storage/segment/segment.js'
import { LOADED_STRIDE } from '../../../lib/transfer/native-binding.js'
import { randomNumbers } from '../../support/random-numbers.js'

const META = FileLayout.encodeMeta('uint8', [4096])
const EXTENT = 4096

const segment = (id: number, slots: number, own = true): Segment => new Segment({ folder: own ? 'own' : 'other', id, dataBytes: slots * EXTENT, extentBytes: EXTENT, own })

/** Digests by number. `home` says where in the table they belong: few homes make long runs. */
function digestOf(i: number, homes = 2 ** 32): Uint32Array {
  return Uint32Array.of(Math.imul(i, 0x9e3779b1) >>> 0, Math.imul(i, 0x85ebca77) >>> 0, i, ~i).map((word, at) => at === 0 ? word % homes : word)
}

interface Row { digest: Uint32Array; segment: number; slot: number; generation: number; writtenAt: number; length?: number; meta?: number; evicted?: boolean; fileOffset?: number }

function loaded(rows: readonly Row[], metas: readonly Uint8Array[] = [META], at = 0): LoadedRows {
  const buffer = new ArrayBuffer(rows.length * LOADED_STRIDE + at)
  const view = new DataView(buffer, at)
  rows.forEach((row, i) => {
    const start = i * LOADED_STRIDE
    row.digest.forEach((word, w) => view.setUint32(start + 4 * w, word, true))
    view.setUint32(start + 16, row.segment, true)
    view.setUint32(start + 20, row.slot, true)
    view.setFloat64(start + 24, row.generation, true)
    view.setFloat64(start + 32, row.writtenAt, true)
    view.setFloat64(start + 40, row.fileOffset ?? row.slot * EXTENT, true)
    view.setFloat64(start + 48, row.length ?? 100, true)
    view.setUint32(start + 56, 0xfffffff0 + row.slot % 8, true)
    view.setUint32(start + 60, 0xf0000000 + row.slot, true)
    view.setUint32(start + 64, row.meta ?? 0, true)
    view.setUint32(start + 68, row.evicted ? 2 : 1, true)
  })
  return { rows: new Uint8Array(buffer, at), metas }
}

function withSegments(...segments: Segment[]): { index: PageIndex; segmentOf: (id: number) => Segment | undefined } {
  const index = new PageIndex()
  for (const one of segments) index.addSegment(one)
  return { index, segmentOf: id => segments.find(one => one.id === id) }
}

describe('the page index', () => {
  it('answers what was put in', () => {
    const [a, b] = [segment(1, 8), segment(2, 8, false)]
    const { index } = withSegments(a, b)
    const meta = FileLayout.encodeMeta('bfloat16', [3])
    const digest = Uint32Array.of(0xffffffff, 0xfffffffe, 0xfffffffd, 0xfffffffc)
    b.generations[5] = 2 ** 40
    const entry = index.insert(Uint32Array.of(0, ...digest), 1, b.number, 5, 0xffff_ffff, 0x89abcdef, 0xfedcba98, 1_790_000_000_123_457, meta)
    expect([index.find(digest), index.find(Uint32Array.of(7, ...digest), 1), index.find(Uint32Array.of(...digest.subarray(1), 0))]).to.deep.equal([entry, entry, -1])
    expect([index.segment(entry), index.slot(entry), index.generation(entry), index.length(entry)]).to.deep.equal([b, 5, 2 ** 40, 0xffff_ffff])
    expect([index.checksumLow(entry), index.checksumHigh(entry), index.writtenAt(entry)]).to.deep.equal([0x89abcdef, 0xfedcba98, 1_790_000_000_123_457])
    expect([index.meta(entry), index.pins(entry), index.flags(entry), index.isHidden(entry), index.has(entry)]).to.deep.equal([meta, 0, 0, false, true])
    const out = new Uint32Array(5)
    index.digestOf(entry, out, 1)
    expect([...out]).to.deep.equal([0, ...digest])
    expect([index.size, index.used, b.pages, b.entries[5], a.pages]).to.deep.equal([1, 1, 1, entry, 0])
    index.remove(entry)
    index.remove(entry)
    expect([index.find(digest), index.has(entry), index.size, b.pages, b.entries[5]]).to.deep.equal([-1, false, 0, 0, -1])
    expect([index.has(-1), index.has(1)]).to.deep.equal([false, false])
  })
  it('pins, flags and what else shares their words do not touch each other', () => {
    const a = segment(1, 8)
    const { index } = withSegments(segment(9, 1), a)
    const entry = index.insert(digestOf(1), 0, a.number, 3, 10, 0, 0, 5, META)
    index.setFlags(entry, 21)
    for (let i = 0; i < 65_535; i++) expect(index.pin(entry)).to.equal(true)
    expect(index.pin(entry)).to.equal(false)
    expect([index.pins(entry), index.flags(entry), index.segment(entry), index.meta(entry)]).to.deep.equal([65_535, 21, a, META])
    index.setFlags(entry, 255)
    expect([index.flags(entry), index.isHidden(entry), index.has(entry)]).to.deep.equal([31, false, true])
    index.setFlags(entry, 0)
    expect([index.flags(entry), index.meta(entry), index.unpin(entry)]).to.deep.equal([0, META, 65_534])
    for (let i = 0; i < 65_534; i++) index.unpin(entry)
    expect([index.unpin(entry), index.segment(entry)]).to.deep.equal([0, a])
  })
  it('refuses what cannot be', () => {
    const a = segment(1, 8)
    const { index } = withSegments(a)
    const insert = (digest: Uint32Array, number: number, slot: number, length: number) => () => index.insert(digest, 0, number, slot, length, 0, 0, 0, META)
    insert(digestOf(1), 0, 0, 10)()
    for (const wrong of [insert(digestOf(1), 0, 1, 10), insert(digestOf(2), 1, 0, 10), insert(digestOf(2), 0, 8, 10), insert(digestOf(2), 0, -1, 10), insert(digestOf(2), 0, 1, 2 ** 32)]) {
      expect(wrong).to.throw().with.property('code', 'ERR_ARGUMENT')
    }
    expect(index.size).to.equal(1)
  })
  it('a hidden page is not found and stays as it is; a new one takes its digest', () => {
    const a = segment(1, 8)
    const { index } = withSegments(a)
    const old = index.insert(digestOf(1), 0, 0, 0, 10, 0, 0, 1, META)
    index.pin(old)
    index.hide(old)
    index.hide(old)
    expect([index.find(digestOf(1)), index.size, index.used, index.isHidden(old)]).to.deep.equal([-1, 0, 1, true])
    const next = index.insert(digestOf(1), 0, 0, 1, 20, 0, 0, 2, META)
    expect([index.find(digestOf(1)), index.length(old), index.pins(old), a.pages]).to.deep.equal([next, 10, 1, 2])
    index.reserve(5000)
    expect(index.find(digestOf(1)), 'after the table grew').to.equal(next)
    index.remove(old)
    expect([index.find(digestOf(1)), index.size, index.used, a.pages]).to.deep.equal([next, 1, 1, 1])
  })
  it('an entry that the slot has still goes when another page is there', () => {
    const other = segment(1, 8, false)
    const { index } = withSegments(other)
    index.insert(digestOf(1), 0, 0, 4, 10, 0, 0, 1, META)
    const next = index.insert(digestOf(2), 0, 0, 4, 10, 0, 0, 2, META)
    expect([index.find(digestOf(1)), index.find(digestOf(2)), other.entries[4], other.pages, index.size]).to.deep.equal([-1, next, next, 1, 1])
  })
  it('segments keep their numbers, which are used again; their pages go with them', () => {
    const [a, b, c] = [segment(1, 40), segment(2, 40), segment(3, 40)]
    const { index } = withSegments(a, b)
    expect([a.number, b.number, index.addSegment(b)]).to.deep.equal([0, 1, 1])
    for (let i = 0; i < 40; i++) index.insert(digestOf(i), 0, i % 2, i, 10, 0, 0, 0, META)
    const left: number[] = []
    expect(index.removeSegment(a, entry => left.push(index.slot(entry)))).to.equal(20)
    expect(left).to.deep.equal(Array.from({ length: 20 }, (_, i) => 2 * i))
    expect([a.number, index.removeSegment(a), index.addSegment(c), [...index.segments()]]).to.deep.equal([-1, 0, 0, [c, b]])
    for (let i = 0; i < 40; i++) expect(index.find(digestOf(i)) >= 0).to.equal(i % 2 === 1)
    const slots: number[] = []
    index.forEachIn(b, (entry, slot) => {
      slots.push(slot)
      index.remove(entry)
    })
    expect([slots.length, index.size, b.pages]).to.deep.equal([20, 0, 0])
  })
  // One home is the worst run there can be, and a home at the table's end makes runs that go round it.
  for (const [homes, what] of [[2 ** 32, 'spread out'], [7, 'in long runs'], [1, 'in one run']] as const) {
    it(`random operations agree with a map: digests ${what}`, () => {
      const random = randomNumbers(homes % 1000 + 1)
      const segments = Array.from({ length: 5 }, (_, i) => segment(i + 1, 400))
      const { index } = withSegments(...segments)
      const metas = [META, FileLayout.encodeMeta('uint8', [1]), FileLayout.encodeMeta('int8', [])]
      const model = new Map<number, { entry: number; slot: number; segment: Segment; length: number; meta: Uint8Array; pins: number }>()
      const hidden: number[] = []
      const limit = homes === 1 ? 300 : 1500
      const end = (i: number): Uint32Array => {
        const digest = digestOf(i, homes)
        digest[0]! += homes === 2 ** 32 ? 0 : 1020
        return digest
      }
      for (let i = 0; i < 40_000; i++) {
        const page = random(limit)
        const known = model.get(page)
        expect(index.find(end(page))).to.equal(known?.entry ?? -1)
        const step = random(10)
        if (known === undefined && step < 6) {
          const where = segments[random(5)]!
          const slot = where.takeSlot()
          if (slot < 0) continue
          const meta = metas[random(3)]!
          const entry = index.insert(end(page), 0, where.number, slot, i, i, ~i, i * 1e6, meta)
          model.set(page, { entry, slot, segment: where, length: i, meta, pins: 0 })
        } else if (known !== undefined && step < 3) {
          index.remove(known.entry)
          known.segment.giveBack(known.slot)
          model.delete(page)
        } else if (known !== undefined && step === 3) {
          index.hide(known.entry)
          hidden.push(known.entry)
          model.delete(page)
        } else if (known !== undefined && step < 6) {
          index.pin(known.entry)
          known.pins++
        } else if (hidden.length > 0) {
          const entry = hidden.splice(random(hidden.length), 1)[0]!
          const [where, slot] = [index.segment(entry), index.slot(entry)]
          index.remove(entry)
          where.giveBack(slot)
        }
        if (known !== undefined && index.has(known.entry)) {
          const { entry } = known
          expect([index.segment(entry), index.slot(entry), index.length(entry), index.checksumHigh(entry), index.writtenAt(entry), index.pins(entry)])
            .to.deep.equal([known.segment, known.slot, known.length, ~known.length >>> 0, known.length * 1e6, known.pins])
          expect([...index.meta(entry)]).to.deep.equal([...known.meta])
        }
        expect([index.size, index.used]).to.deep.equal([model.size, model.size + hidden.length])
      }
      for (let page = 0; page < limit; page++) expect(index.find(end(page))).to.equal(model.get(page)?.entry ?? -1)
      const all = new Set<number>()
      index.forEach(entry => all.add(entry))
      expect([...all].sort()).to.deep.equal([...[...model.values()].map(known => known.entry), ...hidden].sort())
      expect(index.entries, 'numbers are used again').to.be.at.most(limit * 2)
    }).timeout(60_000)
  }
  it('grows over many tables and row arrays', () => {
    const a = segment(1, 60_000)
    const { index } = withSegments(a)
    for (let i = 0; i < 60_000; i++) expect(index.insert(digestOf(i), 0, 0, i, i, 0, 0, i, META)).to.equal(i)
    const digests = new Uint32Array(4 * 60_100)
    for (let i = 0; i < 60_100; i++) digests.set(digestOf(i), 4 * i)
    const entries = new Int32Array(60_100)
    expect(index.findMany(digests, 60_100, entries)).to.equal(60_000)
    expect(entries.every((entry, i) => entry === (i < 60_000 ? i : -1))).to.equal(true)
    expect(index.bytes / 60_000, 'bytes a page').to.be.within(52, 72)
  })
  it('sorts entries by age', () => {
    const random = randomNumbers(8)
    const { index } = withSegments(segment(1, 5000))
    const now = 1_790_000_000_000_000
    const entries = Int32Array.from({ length: 5000 }, (_, i) => index.insert(digestOf(i), 0, 0, i, 1, 0, 0, now + random(86_400) * 1e6, META))
    const sorted = index.sortByAge(entries.slice())
    expect(new Set(sorted).size).to.equal(5000)
    for (let i = 1; i < 5000; i++) expect(index.writtenAt(sorted[i]!)).to.be.at.least(index.writtenAt(sorted[i - 1]!))
    expect([...index.sortByAge(Int32Array.of(7, 7))]).to.deep.equal([7, 7])
    expect(index.sortByAge(new Int32Array(0))).to.have.length(0)
  })

  describe('takes over a folder', () => {
    it('pages, their places and generations; taken slots are taken', () => {
      const [a, b] = [segment(0xfffffff0, 4), segment(2, 4, false)]
      const { index, segmentOf } = withSegments(a, b)
      const metas = [META, FileLayout.encodeMeta('int8', [7])]
      const entered: number[] = []
      const rows = loaded([
        { digest: digestOf(1), segment: a.id, slot: 0, generation: 3, writtenAt: 1e15 + 1, meta: 1, length: 4096 },
        { digest: digestOf(0), segment: a.id, slot: 1, generation: 8, writtenAt: 5, evicted: true },
        { digest: digestOf(2), segment: a.id, slot: 2, generation: 1, writtenAt: 7 },
        { digest: digestOf(3), segment: b.id, slot: 3, generation: 2, writtenAt: 9 }
      ], metas, 4)
      expect(index.load(rows, segmentOf, { enter: entry => entered.push(entry) })).to.deep.equal({ added: 3, removed: 0, skipped: 0, superseded: [], pinned: [] })
      const entry = index.find(digestOf(1))
      expect([index.segment(entry), index.slot(entry), index.generation(entry), index.writtenAt(entry), index.length(entry)]).to.deep.equal([a, 0, 3, 1e15 + 1, 4096])
      expect([index.checksumLow(entry), index.checksumHigh(entry), index.meta(entry)]).to.deep.equal([0xfffffff0, 0xf0000000, metas[1]])
      expect([...a.generations]).to.deep.equal([3, 8, 1, 0])
      expect([a.takeSlot(), a.takeSlot(), a.takeSlot(), a.pages, b.pages]).to.deep.equal([1, 3, -1, 2, 1])
      expect(entered).to.deep.equal([1, 2, 3].map(i => index.find(digestOf(i))))
      expect(index.find(digestOf(0))).to.equal(-1)
    })
    it('what has changed since: evicted, overtaken, new; what is older or known is passed over', () => {
      const b = segment(2, 4, false)
      const { index, segmentOf } = withSegments(b)
      const page = (i: number, slot: number, generation: number, evicted = false): Row => ({ digest: digestOf(i), segment: 2, slot, generation, writtenAt: generation, evicted })
      index.load(loaded([page(1, 0, 5), page(2, 1, 5), page(3, 2, 5)]), segmentOf)
      const kept = index.find(digestOf(3))
      index.pin(kept)
      const left: number[] = []
      const leave = (entry: number): void => {
        expect(index.has(entry)).to.equal(true)
        left.push(index.slot(entry))
      }
      const changes = loaded([page(0, 0, 6, true), page(4, 1, 7), page(3, 2, 5), page(5, 3, 1)])
      expect(index.load(changes, segmentOf, { leave })).to.deep.equal({ added: 2, removed: 2, skipped: 0, superseded: [], pinned: [] })
      expect(left).to.deep.equal([0, 1])
      expect([1, 2, 3, 4, 5].map(i => index.find(digestOf(i)) >= 0)).to.deep.equal([false, false, true, true, true])
      expect([index.find(digestOf(3)), index.pins(kept), ...b.generations]).to.deep.equal([kept, 1, 6, 7, 5, 1])
      expect(index.load(loaded([page(1, 0, 5), page(2, 1, 6)]), segmentOf), 'older').to.deep.equal({ added: 0, removed: 0, skipped: 0, superseded: [], pinned: [] })
      expect(index.load(changes, segmentOf), 'again').to.deep.equal({ added: 0, removed: 0, skipped: 0, superseded: [], pinned: [] })
    })
    it('one page twice: the one written last, whoever wrote it; own slots without an entry are named', () => {
      const [a, b] = [segment(1, 4), segment(2, 4, false)]
      const { index, segmentOf } = withSegments(a, b)
      const page = (i: number, id: number, slot: number, writtenAt: number): Row => ({ digest: digestOf(i), segment: id, slot, generation: 1, writtenAt })
      expect(index.load(loaded([page(1, 1, 0, 10), page(1, 1, 1, 11), page(2, 1, 2, 11), page(2, 1, 3, 10)]), segmentOf))
        .to.deep.equal({ added: 3, removed: 1, skipped: 0, superseded: [a.number, 0, a.number, 3], pinned: [] })
      expect([index.slot(index.find(digestOf(1))), index.slot(index.find(digestOf(2))), a.takeSlot(), a.pages]).to.deep.equal([1, 2, -1, 2])
      expect(index.load(loaded([page(1, 2, 0, 99), page(3, 2, 1, 5)]), segmentOf), 'a newer foreign copy')
        .to.deep.equal({ added: 2, removed: 1, skipped: 0, superseded: [a.number, 1], pinned: [] })
      expect(index.segment(index.find(digestOf(1)))).to.equal(b)
      expect(index.load(loaded([page(2, 2, 2, 10)]), segmentOf), 'an older one').to.deep.equal({ added: 0, removed: 0, skipped: 0, superseded: [], pinned: [] })
      expect(index.segment(index.find(digestOf(2)))).to.equal(a)
      const c = segment(3, 4)
      index.addSegment(c)
      expect(index.load(loaded([page(3, 3, 0, 5)]), () => c), 'of one age, the own one').to.deep.equal({ added: 1, removed: 1, skipped: 0, superseded: [], pinned: [] })
      expect([index.segment(index.find(digestOf(3))), b.entries[1], b.pages]).to.deep.equal([c, -1, 1])
    })
    it('a page that is read while a newer copy comes in stays until the read is over', () => {
      const [a, b] = [segment(1, 4), segment(2, 4)]
      const { index, segmentOf } = withSegments(a, b)
      const old = index.insert(digestOf(1), 0, a.number, a.takeSlot(), 10, 0, 0, 5, META)
      index.pin(old)
      const left: number[] = []
      const summary = index.load(loaded([{ digest: digestOf(1), segment: 2, slot: 3, generation: 1, writtenAt: 6 }]), segmentOf, { leave: entry => left.push(entry) })
      expect(summary).to.deep.equal({ added: 1, removed: 1, skipped: 0, superseded: [], pinned: [old] })
      expect([left, index.isHidden(old), index.length(old), index.pins(old), a.isFree(0)]).to.deep.equal([[old], true, 10, 1, false])
      expect(index.segment(index.find(digestOf(1)))).to.equal(b)
    })
    it('rows that make no sense are skipped, and own slots of them named', () => {
      const [a, b] = [segment(1, 4), segment(2, 4, false)]
      const { index, segmentOf } = withSegments(a, b)
      const page = { digest: digestOf(1), segment: 1, slot: 0, generation: 1, writtenAt: 1 }
      const summary = index.load(loaded([
        { ...page, segment: 7 }, { ...page, slot: 4 }, { ...page, segment: 2, length: 4097 }, { ...page, segment: 2, slot: 1, fileOffset: 0 }, { ...page, meta: 1 }, { ...page, slot: 3, length: NaN }
      ]), segmentOf)
      expect(summary).to.deep.equal({ added: 0, removed: 0, skipped: 6, superseded: [a.number, 0, a.number, 3], pinned: [] })
      expect([index.size, a.takeSlot(), a.takeSlot(), a.takeSlot()]).to.deep.equal([0, 1, 2, -1])
      expect(index.load({ rows: new Uint8Array(79), metas: [] }, segmentOf).added).to.equal(0)
    })
    it('a large one, of which each page is found', () => {
      const a = segment(1, 100_000)
      const { index, segmentOf } = withSegments(a)
      const rows = Array.from({ length: 100_000 }, (_, i): Row => ({ digest: digestOf(i), segment: 1, slot: i, generation: 1, writtenAt: i }))
      expect(index.load(loaded(rows), segmentOf).added).to.equal(100_000)
      for (let i = 0; i < 100_000; i += 7) expect(index.slot(index.find(digestOf(i)))).to.equal(i)
      expect([index.size, a.freeSlots, index.find(digestOf(100_000))]).to.deep.equal([100_000, 0, -1])
    })
  })
})
