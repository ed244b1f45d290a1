import { expect } from 'chai'
import { Leases } from '../../../lib/storage/segment/leases.js'
import { PageIndex } from '../../../lib/storage/segment/page-index.js'
import { Segment } from '../../../lib/storage/segment/segment.js'
import { randomNumbers } from '../../support/random-numbers.js'

const META = new Uint8Array(8)

function pages(count: number): { index: PageIndex; entries: number[] } {
  const index = new PageIndex()
  const number = index.addSegment(new Segment({ folder: 'f', id: 1, dataBytes: count * 4096, extentBytes: 4096, own: true }))
  const entries = Array.from({ length: count }, (_, i) => index.insert(Uint32Array.of(i, i, i, i), 0, number, i, 1, 0, 0, 0, META))
  return { index, entries }
}

describe('leases', () => {
  it('what a lookup answered is not given up until its lease is over', () => {
    const { index, entries: [a] } = pages(4)
    const leases = new Leases({ index, pages: () => 4 })
    expect(leases.leaseMs).to.equal(1000)
    expect(leases.mayEvict(a!, 5000)).to.equal(true)
    expect(leases.lease(a!, 5000)).to.equal(true)
    for (const now of [5000, 5500, 5999]) expect(leases.mayEvict(a!, now), `${now}`).to.equal(false)
    expect(leases.mayEvict(a!, 6016)).to.equal(true)
    expect(leases.count(6016)).to.equal(0)
  })
  it('a second lookup makes it longer and counts once', () => {
    const { index, entries: [a] } = pages(4)
    const leases = new Leases({ index, pages: () => 4, leaseMs: 100 })
    for (const now of [0, 50, 90]) leases.lease(a!, now)
    expect(leases.count(90)).to.equal(1)
    expect(leases.isLeased(a!, 180)).to.equal(true)
    expect(leases.count(180)).to.equal(1)
    expect(leases.isLeased(a!, 208)).to.equal(false)
  })
  it('at most half of the pages at once; those that have one can have it made longer', () => {
    const { index, entries } = pages(9)
    const leases = new Leases({ index, pages: () => index.size })
    expect(entries.map(entry => leases.lease(entry, 0))).to.deep.equal([true, true, true, true, false, false, false, false, false])
    expect(leases.lease(entries[2]!, 500)).to.equal(true)
    expect(leases.lease(entries[8]!, 500)).to.equal(false)
    expect(leases.mayEvict(entries[8]!, 500)).to.equal(true)
    expect(leases.count(1100), 'the three others are over').to.equal(1)
    expect(leases.lease(entries[8]!, 1100)).to.equal(true)
  })
  it('a pinned page is not given up, leased or not', () => {
    const { index, entries: [a] } = pages(4)
    const leases = new Leases({ index, pages: () => 4, leaseMs: 0 })
    expect(leases.lease(a!, 0), 'a lease of no time is none').to.equal(false)
    index.pin(a!)
    expect(leases.mayEvict(a!, 0)).to.equal(false)
    index.unpin(a!)
    expect(leases.mayEvict(a!, 0)).to.equal(true)
  })
  it('a new page in an old one\'s entry has no lease of it', () => {
    const { index, entries: [a] } = pages(4)
    const leases = new Leases({ index, pages: () => 4 })
    leases.lease(a!, 0)
    index.remove(a!)
    expect(index.insert(Uint32Array.of(9, 9, 9, 9), 0, 0, 0, 1, 0, 0, 0, META)).to.equal(a)
    expect(leases.mayEvict(a!, 10)).to.equal(true)
  })
  it('a lease of years ago means nothing, where ticks come round too', () => {
    const { index, entries: [a] } = pages(4)
    const leases = new Leases({ index, pages: () => 4 })
    const years = 2 ** 32 * 16
    leases.lease(a!, years - 500)
    expect([leases.isLeased(a!, years + 400), leases.isLeased(a!, years + 600)]).to.deep.equal([true, false])
  })
  it('random lookups agree with a map', () => {
    const random = randomNumbers(21)
    const { index, entries } = pages(200)
    const leases = new Leases({ index, pages: () => 200, leaseMs: 320 })
    const until = new Map<number, number>()
    let now = 0
    for (let i = 0; i < 40_000; i++) {
      // Whole ticks, so that the model needs no rounding; now and then a long rest.
      now += random(1000) === 0 ? 16_000 : random(3) === 0 ? 16 : 0
      for (const [entry, end] of until) if (end <= now) until.delete(entry)
      const entry = entries[random(200)]!
      expect(leases.isLeased(entry, now)).to.equal(until.has(entry))
      const may = until.has(entry) || until.size < 100
      expect(leases.lease(entry, now)).to.equal(may)
      if (may) until.set(entry, now + 320)
      expect(leases.count(now)).to.equal(until.size)
    }
  })
})
