import { expect } from 'chai'
import { MetaTable } from '../../../lib/storage/segment/meta-table.js'
import { randomNumbers } from '../../support/random-numbers.js'

describe('the table of metas', () => {
  it('keeps equal metas once, as a copy', () => {
    const table = new MetaTable()
    const given = Uint8Array.of(1, 2, 3)
    const number = table.acquire(given)
    given[0] = 9
    expect([...table.get(number)]).to.deep.equal([1, 2, 3])
    expect(table.acquire(given)).not.to.equal(number)
    expect(table.acquire(Uint8Array.of(0, 1, 2, 3).subarray(1))).to.equal(number)
    expect(table.size).to.equal(2)
  })
  it('random uses agree with a map; what nobody uses is forgotten', () => {
    const random = randomNumbers(2)
    const table = new MetaTable()
    const uses = new Map<number, { meta: string; count: number }>()
    for (let i = 0; i < 20_000; i++) {
      const held = [...uses]
      if (random(2) === 0 || held.length === 0) {
        const meta = Uint8Array.from({ length: random(3) }, () => random(4))
        const number = table.acquire(meta)
        const use = uses.get(number) ?? { meta: meta.join(), count: 0 }
        expect(use.meta).to.equal(meta.join())
        use.count++
        uses.set(number, use)
      } else {
        const [number, use] = held[random(held.length)]!
        expect(table.get(number).join()).to.equal(use.meta)
        table.release(number)
        if (--use.count === 0) uses.delete(number)
      }
      expect(table.size).to.equal(uses.size)
      expect(new Set([...uses.values()].map(use => use.meta)).size).to.equal(uses.size)
    }
  })
})
