import { expect } from 'chai'
import { CANDIDATES_MAX } from '../../../lib/storage/policies/candidates.js'
import { ClairvoyantPolicy } from '../../../lib/storage/policies/clairvoyant.js'
import { FifoPolicy } from '../../../lib/storage/policies/fifo.js'
import { LruPolicy } from '../../../lib/storage/policies/lru.js'
import { makePolicy, makeSimulatedPolicy, POLICY_NAMES, SIMULATED_POLICY_NAMES } from '../../../lib/storage/policies/policies.js'
import { S3FifoPolicy } from '../../../lib/storage/policies/s3-fifo.js'
import { SievePolicy } from '../../../lib/storage/policies/sieve.js'
import { always, conversations, play, randomNumbers } from './policy-fixture.js'

describe('eviction policies', () => {
  it('are made by name, the first of them for stores by default', () => {
    expect(POLICY_NAMES).to.deep.equal(['prefix-aware', 'lru'])
    for (const name of POLICY_NAMES) expect(makePolicy(name).name).to.equal(name)
    for (const name of SIMULATED_POLICY_NAMES) expect(makeSimulatedPolicy(name).name).to.equal(name)
  })

  for (const name of SIMULATED_POLICY_NAMES) {
    describe(name, () => {
      it('answers pages that are there and may go, whatever comes in whatever order', () => {
        const below = randomNumbers(name.length)
        const policy = makeSimulatedPolicy(name)
        const there = new Set<number>()
        const pinned = new Set<number>()
        for (let step = 0; step < 4_000; step++) {
          const entry = below(300)
          // Parents may be unknown, not there, the page itself, or in circles: a caller's mistake must not end in a loop.
          const parent = below(301) - 1
          switch (below(6)) {
            case 0:
            case 1:
              policy.insert(entry, parent, below(3) === 0 ? 0 : below(1000))
              there.add(entry)
              break
            case 2:
              policy.touch(entry, parent)
              break
            case 3:
              policy.remove(entry)
              there.delete(entry)
              pinned.delete(entry)
              break
            case 4:
              if (pinned.size < 100 && there.has(entry)) pinned.add(entry)
              else pinned.delete(entry)
              break
            default: {
              const victim = policy.victim(candidate => {
                if (!there.has(candidate)) throw new Error(`asked about ${candidate}, which is not there`)
                return !pinned.has(candidate)
              })
              // Fewer pages are pinned than are looked at: one that may go is found.
              if (victim >= 0) {
                expect(there.has(victim) && !pinned.has(victim)).to.equal(true)
                if (below(2) === 0) {
                  policy.remove(victim)
                  there.delete(victim)
                }
              }
              if (pinned.size === 0 && there.size > 0) expect(victim).to.be.at.least(0)
            }
          }
        }
        // And every page goes in the end.
        for (let left = there.size; left > 0; left--) {
          const victim = policy.victim(always)
          expect(there.delete(victim)).to.equal(true)
          policy.remove(victim)
        }
        expect(policy.victim(always)).to.equal(-1)
      })

      it('keeps a victim until it is removed', () => {
        const policy = makeSimulatedPolicy(name)
        for (let entry = 0; entry < 50; entry++) policy.insert(entry, -1, entry + 1)
        const victim = policy.victim(always)
        expect(policy.victim(always)).to.equal(victim)
        policy.remove(victim)
        expect(policy.victim(always)).not.to.equal(victim)
      })

      it('asks about a bounded number of pages when all of them are pinned, and finds one as soon as they are free', () => {
        const policy = makeSimulatedPolicy(name)
        for (let entry = 0; entry < 5000; entry++) policy.insert(entry, entry % 40 === 0 ? -1 : entry - 1, entry + 1)
        let asked = 0
        expect(policy.victim(() => { asked++; return false })).to.equal(-1)
        expect(asked).to.be.within(1, CANDIDATES_MAX * 2)
        expect(policy.victim(always)).to.be.at.least(0)
      })

      it('takes an insert of a page that is there for a touch, and ignores pages that are not there', () => {
        const policy = makeSimulatedPolicy(name)
        policy.touch(7, -1)
        policy.remove(7)
        expect(policy.victim(always)).to.equal(-1)
        policy.insert(7, -1, 1)
        policy.insert(7, -1, 1)
        expect(policy.victim(always)).to.equal(7)
        policy.remove(7)
        expect(policy.victim(always)).to.equal(-1)
      })
    })
  }

  const order = (policy: { victim: LruPolicy['victim']; remove: LruPolicy['remove'] }): number[] => {
    const gone: number[] = []
    for (let victim = policy.victim(always); victim >= 0; victim = policy.victim(always)) {
      gone.push(victim)
      policy.remove(victim)
    }
    return gone
  }

  it('lru: what was used longest ago goes first', () => {
    const policy = new LruPolicy()
    for (const entry of [0, 1, 2, 3]) policy.insert(entry, -1)
    policy.touch(0, -1)
    policy.touch(2, -1)
    expect(order(policy)).to.deep.equal([1, 3, 0, 2])
  })

  it('fifo: what came first goes first', () => {
    const policy = new FifoPolicy()
    for (const entry of [3, 1, 2, 0]) policy.insert(entry, -1)
    policy.touch(3, -1)
    expect(order(policy)).to.deep.equal([3, 1, 2, 0])
  })

  it('sieve: the hand spares what was read once, goes on from where it was, and does not move what it spares', () => {
    const policy = new SievePolicy()
    for (const entry of [0, 1, 2, 3]) policy.insert(entry, -1)
    policy.touch(0, -1)
    policy.touch(2, -1)
    const gone = policy.victim(always)
    expect(gone).to.equal(1)
    policy.remove(1)
    policy.insert(4, -1)
    // The hand goes on behind 1: 2 is spared, 3 goes, then 4, and only then is the hand at the oldest again.
    expect(order(policy)).to.deep.equal([3, 4, 0, 2])
  })

  it('s3-fifo: what was read twice leaves the small queue, what comes back soon never enters it', () => {
    const policy = new S3FifoPolicy()
    for (let entry = 0; entry < 10; entry++) policy.insert(entry, -1, entry + 1)
    policy.touch(0, -1)
    policy.touch(0, -1)
    expect(policy.victim(always)).to.equal(1)
    policy.remove(1)
    policy.insert(1, -1, 2)
    // 1 is in the main queue with 0 now, and the small queue, longer than its share, gives up the others first.
    expect(order(policy).slice(0, 6)).to.deep.equal([2, 3, 4, 5, 6, 7])
  })

  it('clairvoyant: as many hits as the best of all choices', () => {
    const below = randomNumbers(5)
    for (let round = 0; round < 20; round++) {
      const trace = Array.from({ length: 14 }, () => below(6))
      const nextUse = (at: number): number => {
        const next = trace.indexOf(trace[at]!, at + 1)
        return next < 0 ? Number.POSITIVE_INFINITY : next
      }
      // By trying out every page that could go; a page that comes in may be the one that is not kept.
      const best = (at: number, there: readonly number[]): number => {
        if (at === trace.length) return 0
        const page = trace[at]!
        if (there.includes(page)) return 1 + best(at + 1, there)
        if (there.length < 3) return best(at + 1, [...there, page])
        return Math.max(...there.map(gone => best(at + 1, [...there.filter(one => one !== gone), page])))
      }
      const policy = new ClairvoyantPolicy()
      const there = new Set<number>()
      let hits = 0
      trace.forEach((page, at) => {
        policy.nextUse = nextUse(at)
        if (there.has(page)) {
          hits++
          policy.touch(page, -1)
          return
        }
        if (there.size === 3) {
          const victim = policy.victim(always)
          policy.remove(victim)
          there.delete(victim)
        }
        there.add(page)
        policy.insert(page, -1)
      })
      expect(hits, trace.join(' ')).to.equal(best(0, []))
    }
  })

  it('lru has the hits of a plain model', () => {
    const requests = conversations(3, 40, 600)
    const model = new Map<number, true>()
    let hits = 0
    for (const request of requests) {
      let missed = false
      for (const page of request) {
        if (model.delete(page)) {
          if (!missed) hits++
        } else {
          missed = true
          if (model.size >= 500) model.delete(model.keys().next().value!)
        }
        model.set(page, true)
      }
    }
    expect(play(new LruPolicy(), 500, requests).hits).to.equal(hits)
  })
})
