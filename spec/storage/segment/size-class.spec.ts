import { expect } from 'chai'
import type { EvictionPolicy } from '../../../lib/storage/policies/eviction-policy.js'
import { PageIndex } from '../../../lib/storage/segment/page-index.js'
import { Segment } from '../../../lib/storage/segment/segment.js'
import { SizeClass } from '../../../lib/storage/segment/size-class.js'
import { randomNumbers } from '../../support/random-numbers.js'

const POLICY: EvictionPolicy = { name: 'none', insert: () => undefined, touch: () => undefined, remove: () => undefined, victim: () => -1 }

let ids = 0
const segment = (slots: number): Segment => new Segment({ folder: 'f', id: ++ids, dataBytes: slots * 4096, extentBytes: 4096, own: true })

function sizeClass(...segments: Segment[]): SizeClass {
  const of = new SizeClass({ extentBytes: 4096, policy: POLICY, index: new PageIndex() })
  for (const one of segments) of.add(one)
  return of
}

describe('the segments of one size', () => {
  it('fill one segment before the next, the emptiest first', () => {
    const [a, b] = [segment(3), segment(5)]
    const of = sizeClass(a, b)
    expect([of.slots, of.freeSlots, of.segments.size]).to.deep.equal([8, 8, 2])
    const taken = Array.from({ length: 8 }, () => of.takeSlot()!)
    expect(taken.map(slot => slot.segment)).to.deep.equal([b, b, b, b, b, a, a, a])
    expect(taken.map(slot => slot.slot)).to.deep.equal([0, 1, 2, 3, 4, 0, 1, 2])
    expect([of.takeSlot(), of.freeSlots]).to.deep.equal([null, 0])
    of.giveBack(b, 2)
    expect(of.takeSlot()).to.deep.equal({ segment: b, slot: 2 })
  })
  it('go on in the segment that was used last, though another has more room', () => {
    const [a, b] = [segment(4), segment(9)]
    const of = sizeClass(a)
    expect(of.takeSlot()!.segment).to.equal(a)
    of.add(b)
    of.add(b)
    expect([of.slots, of.freeSlots]).to.deep.equal([13, 12])
    expect([of.takeSlot()!.segment, of.takeSlot()!.segment, of.takeSlot()!.segment, of.takeSlot()!.segment]).to.deep.equal([a, a, a, b])
  })
  it('a segment that is taken out gives and gets nothing more', () => {
    const [a, b] = [segment(2), segment(3)]
    const of = sizeClass(a, b)
    const slot = of.takeSlot()!
    expect(slot.segment).to.equal(b)
    expect([of.remove(b), of.remove(b), of.slots, of.freeSlots]).to.deep.equal([true, false, 2, 2])
    of.giveBack(b, slot.slot)
    expect([of.freeSlots, b.freeSlots]).to.deep.equal([2, 3])
    expect([of.takeSlot()?.segment, of.takeSlot()?.segment, of.takeSlot()]).to.deep.equal([a, a, null])
  })
  it('what was taken before it came stays taken', () => {
    const a = segment(3)
    a.occupy(1)
    const of = sizeClass(a)
    expect([of.takeSlot()!.slot, of.takeSlot()!.slot, of.takeSlot()]).to.deep.equal([0, 2, null])
  })
  it('the segment whose last use is longest ago', () => {
    const [a, b, c] = [segment(1), segment(1), segment(1)]
    const of = sizeClass(a, b, c)
    expect(sizeClass().leastUsed()).to.equal(null)
    for (const now of [30, 20, 10]) of.takeSlot(now)
    const byUse = [a, b, c].sort((x, y) => x.lastUse - y.lastUse)
    expect(byUse.map(one => one.lastUse)).to.deep.equal([10, 20, 30])
    expect(of.leastUsed()).to.equal(byUse[0])
    expect(of.leastUsed(one => one !== byUse[0])).to.equal(byUse[1])
    expect(of.leastUsed(() => false)).to.equal(null)
  })
  it('pages are counted as they come into the index and go', () => {
    const index = new PageIndex()
    const of = new SizeClass({ extentBytes: 4096, policy: POLICY, index })
    const [a, b] = [segment(4), segment(4)]
    index.addSegment(a)
    index.addSegment(b)
    of.add(a)
    const insert = (where: Segment, slot: number, digest: number): number => index.insert(Uint32Array.of(digest, 1, 2, 3), 0, where.number, slot, 10, 0, 0, 0, new Uint8Array(8))
    const first = insert(a, 0, 1)
    insert(a, 1, 2)
    insert(b, 0, 3)
    expect([of.pages, a.pages, b.pages]).to.deep.equal([2, 2, 1])
    of.add(b)
    index.remove(first)
    expect([of.pages, a.pages]).to.deep.equal([2, 1])
    of.remove(b)
    expect(of.pages).to.equal(1)
    index.removeSegment(a)
    expect(of.pages).to.equal(0)
  })
  it('random takes, returns, comings and goings: each slot is handed out once at a time, all of them in the end', () => {
    const random = randomNumbers(5)
    const all = Array.from({ length: 40 }, () => segment(1 + random(40)))
    const inside = new Set<Segment>()
    const taken = new Map<Segment, Set<number>>(all.map(one => [one, new Set()]))
    const of = sizeClass()
    for (let i = 0; i < 40_000; i++) {
      const one = all[random(all.length)]!
      const step = random(100)
      if (step < 1) {
        expect(of.remove(one)).to.equal(inside.delete(one))
      } else if (step < 3) {
        of.add(one)
        inside.add(one)
      } else if (step < 60) {
        const slot = of.takeSlot(i)
        if (slot === null) {
          for (const other of inside) expect(taken.get(other)!.size).to.equal(other.slots)
        } else {
          expect(inside.has(slot.segment)).to.equal(true)
          expect(taken.get(slot.segment)!.has(slot.slot)).to.equal(false)
          taken.get(slot.segment)!.add(slot.slot)
        }
      } else {
        const [slot] = taken.get(one)!
        if (slot === undefined) continue
        of.giveBack(one, slot)
        taken.get(one)!.delete(slot)
      }
      if (i % 16 === 0) {
        let free = 0
        for (const other of inside) free += other.slots - taken.get(other)!.size
        expect(of.freeSlots).to.equal(free)
      }
    }
  })
})
