import { expect } from 'chai'
import { TurnTimer } from '../../lib/transfer/turn-timer.js'

class Call {
  expired = 0
  readonly done: Promise<void>
  #resolve!: () => void
  constructor() { this.done = new Promise(resolve => { this.#resolve = resolve }) }
  expire(): void {
    this.expired++
    this.#resolve()
  }
}

const timers = (): number => process.getActiveResourcesInfo().filter(name => name === 'Timeout').length

describe('one timer for what is watched in one turn', () => {
  it('tells all that are left, once each, and nobody who has left', async () => {
    const calls = Array.from({ length: 5 }, () => new Call())
    const watched = calls.map(call => TurnTimer.watch(call, 5))
    expect(new Set(watched).size).to.equal(1)
    watched[1]!.leave(calls[1]!)
    watched[3]!.leave(calls[3]!)
    await Promise.all([0, 2, 4].map(i => calls[i]!.done))
    watched[0]!.leave(calls[0]!)
    expect(calls.map(({ expired }) => expired)).to.deep.equal([1, 0, 1, 0, 1])
  })
  it('those who leave while it tells the others are not told', async () => {
    const [first, second] = [new Call(), new Call()]
    const timer = TurnTimer.watch(first, 1)
    TurnTimer.watch(second, 1)
    first.expire = () => { timer.leave(second); Call.prototype.expire.call(first) }
    await first.done
    expect([first.expired, second.expired]).to.deep.equal([1, 0])
  })
  it('another time, or another turn, is another timer', async () => {
    const [one, other, later] = [new Call(), new Call(), new Call()]
    const timer = TurnTimer.watch(one, 60_000)
    const longer = TurnTimer.watch(other, 120_000)
    expect(longer).not.to.equal(timer)
    await Promise.resolve()
    const next = TurnTimer.watch(later, 120_000)
    expect(next).not.to.equal(longer)
    timer.leave(one)
    longer.leave(other)
    next.leave(later)
  })
  it('ends when all have left, and the next one in the same turn gets another', () => {
    const before = timers()
    const calls = [new Call(), new Call()]
    const timer = TurnTimer.watch(calls[0]!, 60_000)
    TurnTimer.watch(calls[1]!, 60_000)
    expect(timers()).to.equal(before + 1)
    for (const call of calls) timer.leave(call)
    expect(timers()).to.equal(before)
    const again = TurnTimer.watch(calls[0]!, 60_000)
    expect(again).not.to.equal(timer)
    expect(timers()).to.equal(before + 1)
    again.leave(calls[0]!)
  })
})
