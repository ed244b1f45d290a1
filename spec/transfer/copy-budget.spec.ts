import { expect } from 'chai'
import { COPY_BYTES_PER_TICK, CopyBudget, FRESH_MEMORY_WEIGHT, WHOLE_BYTES_MAX } from '../../lib/transfer/copy-budget.js'

const turn = (): Promise<void> => new Promise(resolve => { setImmediate(resolve) })

describe('the copy budget', () => {
  it('grants its bytes once a turn, and tells when there are more', async () => {
    let renewed = 0
    const budget = new CopyBudget(() => { renewed++ })
    expect(budget.take(COPY_BYTES_PER_TICK - 100)).to.equal(COPY_BYTES_PER_TICK - 100)
    expect(budget.take(1000)).to.equal(100)
    expect(budget.take(1000)).to.equal(0)
    await turn()
    expect(renewed).to.equal(1)
    expect(budget.take(1000)).to.equal(1000)
    await turn()
    expect(renewed, 'nobody had to wait').to.equal(1)
  })
  it('fresh memory counts for more', () => {
    const budget = new CopyBudget(() => {})
    expect(budget.take(COPY_BYTES_PER_TICK, FRESH_MEMORY_WEIGHT)).to.equal(COPY_BYTES_PER_TICK / FRESH_MEMORY_WEIGHT)
    expect(budget.take(1)).to.equal(0)
  })
  it('a page is granted whole: in this turn if it fits, else in the next, also one larger than a turn\'s budget', async () => {
    let renewed = 0
    const budget = new CopyBudget(() => { renewed++ })
    expect(budget.takeWhole(100)).to.equal(100)
    expect(budget.takeWhole(COPY_BYTES_PER_TICK)).to.equal(0)
    await turn()
    expect(renewed).to.equal(1)
    expect(budget.takeWhole(WHOLE_BYTES_MAX)).to.equal(WHOLE_BYTES_MAX)
    expect(budget.takeWhole(1)).to.equal(0)
    expect(budget.take(1), 'nothing is left, and nothing below it').to.equal(0)
    await turn()
    expect(renewed).to.equal(2)
    expect(budget.takeWhole(WHOLE_BYTES_MAX + 1), 'larger ones in parts').to.equal(COPY_BYTES_PER_TICK)
  })
})
