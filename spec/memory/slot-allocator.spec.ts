import { expect } from 'chai'
import { SlotAllocator } from '../../lib/memory/slot-allocator.js'

/** A small generator with a seed, so that a failure can be repeated. */
function random(seed: number): (below: number) => number {
  let state = seed
  return below => {
    state = Math.imul(state ^ state >>> 15, 0x2c1b3c6d) + 0x9e3779b9 >>> 0
    return state % below
  }
}

describe('the slot allocator', () => {
  it('gives ranges that never overlap and never leave the whole, whatever is asked for and given back', () => {
    for (let seed = 1; seed <= 20; seed++) {
      const next = random(seed)
      const blocks = 64 + next(200)
      const allocator = new SlotAllocator(blocks)
      const owner = new Array<number>(blocks).fill(-1)
      const live: { id: number; start: number; count: number }[] = []
      for (let id = 0; id < 600; id++) {
        if (live.length > 0 && next(3) === 0) {
          const [{ start, count }] = live.splice(next(live.length), 1) as [{ id: number; start: number; count: number }]
          owner.fill(-1, start, start + count)
          allocator.free(start, count)
        } else {
          const count = 1 + next(next(4) === 0 ? 40 : 6)
          const start = allocator.allocate(count)
          if (start < 0) {
            // Refused only when no run of free blocks is that long.
            let run = 0
            let longest = 0
            for (const block of owner) {
              run = block < 0 ? run + 1 : 0
              longest = Math.max(longest, run)
            }
            expect(longest, `seed ${seed}, step ${id}`).to.be.below(count)
            continue
          }
          expect(start + count).to.be.at.most(blocks)
          for (let block = start; block < start + count; block++) expect(owner[block], `seed ${seed}, step ${id}`).to.equal(-1)
          owner.fill(id, start, start + count)
          live.push({ id, start, count })
        }
        expect(allocator.freeBlocks).to.equal(owner.filter(block => block < 0).length)
      }
      for (const { start, count } of live) allocator.free(start, count)
      expect(allocator.largestFree()).to.equal(blocks)
      expect(allocator.allocate(blocks)).to.equal(0)
      expect(allocator.allocate(1)).to.equal(-1)
    }
  })
  it('gives a freed range of the same size again at once', () => {
    const allocator = new SlotAllocator(100)
    const [a, b] = [allocator.allocate(9), allocator.allocate(9)]
    allocator.free(a, 9)
    expect(allocator.allocate(9)).to.equal(a)
    allocator.free(b, 9)
    expect(allocator.allocate(9)).to.equal(b)
  })
})
