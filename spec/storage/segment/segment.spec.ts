import { expect } from 'chai'
import { Segment } from '../../../lib/storage/segment/segment.js'
import { randomNumbers } from '../../support/random-numbers.js'

const segment = (slots: number, own = true, extra = 0): Segment => new Segment({ folder: 'aa-bb-cc', id: 0x1f, dataBytes: slots * 8192 + extra, extentBytes: 8192, own })

describe('a segment', () => {
  it('knows its name, its slots and where they are', () => {
    const of = segment(10, true, 8191)
    expect([of.name, new TextDecoder().decode(of.nameBytes), of.slots]).to.deep.equal(['segments/aa-bb-cc/0000001f', 'segments/aa-bb-cc/0000001f', 10])
    expect([of.fileOffsetOf(0), of.fileOffsetOf(9), of.recordAtOf(0), of.recordAtOf(9)]).to.deep.equal([0, 73_728, 4096, 8704])
    expect([of.directory, of.number, of.pages, of.freeSlots]).to.deep.equal([0, -1, 0, 10])
  })
  for (const slots of [1, 31, 32, 33, 64, 100]) {
    it(`hands out ${slots} slots in ascending order, each once`, () => {
      const of = segment(slots)
      expect(Array.from({ length: slots }, () => of.takeSlot())).to.deep.equal(Array.from({ length: slots }, (_, i) => i))
      expect([of.takeSlot(), of.freeSlots]).to.deep.equal([-1, 0])
    })
  }
  it('goes on behind the last one and round again', () => {
    const of = segment(100)
    for (let i = 0; i < 100; i++) of.takeSlot()
    for (const slot of [70, 3, 40, 99, 41]) of.giveBack(slot)
    expect([of.takeSlot(), of.takeSlot(), of.takeSlot()]).to.deep.equal([3, 40, 41])
    of.giveBack(2)
    expect([of.takeSlot(), of.takeSlot(), of.takeSlot(), of.takeSlot()]).to.deep.equal([70, 99, 2, -1])
  })
  it('what holds a page already is not handed out', () => {
    const of = segment(5)
    expect([of.occupy(0), of.occupy(3), of.occupy(3), of.occupy(5), of.occupy(-1)]).to.deep.equal([true, true, false, false, false])
    expect([of.takeSlot(), of.takeSlot(), of.takeSlot(), of.takeSlot()]).to.deep.equal([1, 2, 4, -1])
  })
  it('a slot is given back once', () => {
    const of = segment(3)
    const slot = of.takeSlot()
    expect([of.giveBack(slot), of.giveBack(slot), of.giveBack(3), of.giveBack(-1), of.freeSlots]).to.deep.equal([true, false, false, false, 3])
  })
  it('of another writer\'s nothing is taken', () => {
    const of = segment(40, false)
    expect([of.takeSlot(), of.freeSlots, of.occupy(1), of.giveBack(1), of.isFree(1)]).to.deep.equal([-1, 0, false, false, false])
  })
  it('random takes and returns agree with a set, and the tally with both', () => {
    const random = randomNumbers(11)
    const tally = { pages: 0, freeSlots: 0 }
    const of = segment(77)
    of.countInto(tally)
    const taken = new Set<number>()
    let last = -1
    for (let i = 0; i < 30_000; i++) {
      const step = random(10)
      if (step < 5) {
        const free = Array.from({ length: 77 }, (_, slot) => slot).filter(slot => !taken.has(slot))
        const slot = of.takeSlot()
        expect(slot).to.equal(free.find(candidate => candidate > last) ?? free[0] ?? -1)
        if (slot >= 0) {
          taken.add(slot)
          last = slot
        }
      } else if (step < 9) {
        const slot = random(80)
        expect(of.giveBack(slot)).to.equal(taken.delete(slot))
      } else {
        const slot = random(77)
        expect(of.occupy(slot)).to.equal(!taken.has(slot))
        taken.add(slot)
      }
      expect([of.freeSlots, tally.freeSlots]).to.deep.equal([77 - taken.size, 77 - taken.size])
    }
    of.countInto(null)
    expect(tally).to.deep.equal({ pages: 0, freeSlots: 0 })
  })
})
