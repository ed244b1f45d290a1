import { expect } from 'chai'
import { LruPolicy } from '../../../lib/storage/policies/lru.js'
import { PrefixAwarePolicy } from '../../../lib/storage/policies/prefix-aware.js'
import { always, conversations, play, randomNumbers } from './policy-fixture.js'

describe('the prefix-aware policy', () => {
  it('gives up the end of a chain before its beginning', () => {
    const policy = new PrefixAwarePolicy()
    for (let entry = 0; entry < 100; entry++) policy.insert(entry, entry === 0 ? -1 : entry - 1, entry + 1)
    policy.insert(200, -1, 1000)
    for (let entry = 99; entry >= 50; entry--) {
      expect(policy.victim(always)).to.equal(entry)
      policy.remove(entry)
    }
  })

  it('never gives up a page whose successors are there, as long as there is another one', () => {
    const requests = conversations(11, 60, 1500, 15)
    const successors = new Map<number, Set<number>>()
    for (const request of requests) {
      request.forEach((page, at) => {
        if (at === 0) return
        const those = successors.get(request[at - 1]!) ?? new Set<number>()
        successors.set(request[at - 1]!, those.add(page))
      })
    }
    let evictions = 0
    play(new PrefixAwarePolicy(), 700, requests, {
      onEvict: (page, entryOf) => {
        evictions++
        const left = [...successors.get(page) ?? []].filter(successor => entryOf.has(successor))
        expect(left, `page ${page} went before what follows it`).to.deep.equal([])
      },
    })
    expect(evictions).to.be.greaterThan(1000)
  })

  it('spares the run that is coming in', () => {
    const policy = new PrefixAwarePolicy()
    for (let entry = 0; entry < 30; entry++) policy.insert(entry, -1, entry + 1)
    for (let entry = 100; entry < 120; entry++) {
      policy.insert(entry, entry === 100 ? -1 : entry - 1, entry + 1)
      const victim = policy.victim(always)
      expect(victim).to.be.lessThan(100)
      policy.remove(victim)
    }
  })

  it('gives up the only run there is rather than nothing', () => {
    const policy = new PrefixAwarePolicy()
    for (let entry = 0; entry < 10; entry++) policy.insert(entry, entry - 1, entry + 1)
    expect(policy.victim(always)).to.be.within(0, 9)
  })

  it('learns that chains taken up again are worth more than those that never are', () => {
    // Half of the requests belong to a few conversations that go on and on, half are never seen again.
    const growing = conversations(21, 25, 2000, 4)
    let next = 1_000_000
    const requests = growing.flatMap(request => [request, Array.from({ length: 20 }, () => next++)])
    const ours = play(new PrefixAwarePolicy(), 800, requests).hits
    const lru = play(new LruPolicy(), 800, requests).hits
    expect(ours).to.be.greaterThan(lru * 1.3)
  })

  it('keeps a part of a loop that is larger than the capacity, where recency keeps nothing of use', () => {
    const requests = Array.from({ length: 4000 }, (_, index) => Array.from({ length: 10 }, (__, page) => index % 60 * 10 + page))
    const { hits, references } = play(new PrefixAwarePolicy(), 500, requests)
    expect(play(new LruPolicy(), 500, requests).hits).to.equal(0)
    expect(hits / references).to.be.greaterThan(0.6)
  })

  it('follows when the traffic changes', () => {
    const loop = Array.from({ length: 1500 }, (_, index) => Array.from({ length: 10 }, (__, page) => 10_000_000 + index % 60 * 10 + page))
    const before = conversations(31, 60, 2500, 10)
    const requests = [...loop, ...before]
    const alone = play(new LruPolicy(), 500, before).hits
    const all = play(new PrefixAwarePolicy(), 500, requests).hits
    const withoutEnd = play(new PrefixAwarePolicy(), 500, loop).hits
    expect(all - withoutEnd).to.be.greaterThan(alone * 0.95)
  })

  it('is not clearly worse than LRU on mixed traffic, with and without parents and identities', () => {
    for (const seed of [1, 2, 3]) {
      const requests = conversations(seed, 150, 4000, 12)
      const lru = play(new LruPolicy(), 1500, requests).hits
      expect(play(new PrefixAwarePolicy(), 1500, requests).hits, `seed ${seed}`).to.be.greaterThan(lru * 0.98)
      expect(play(new PrefixAwarePolicy(), 1500, requests, { parents: false }).hits, `seed ${seed}, no parents`).to.be.greaterThan(lru * 0.94)
      expect(play(new PrefixAwarePolicy(), 1500, requests, { identities: false }).hits, `seed ${seed}, no identities`).to.be.greaterThan(lru * 0.94)
      expect(play(new PrefixAwarePolicy(), 1500, requests, { parents: false, identities: false }).hits, `seed ${seed}, neither`).to.be.greaterThan(lru * 0.94)
    }
  })

  it('has an entry that is used again know nothing of the page that was there before', () => {
    const policy = new PrefixAwarePolicy()
    policy.insert(0, -1, 1)
    policy.insert(1, 0, 2)
    policy.insert(2, 1, 3)
    policy.remove(0)
    policy.remove(1)
    // 1 is another page now: it has no successor, and 2 is not behind it.
    policy.insert(1, -1, 9)
    for (let entry = 10; entry < 100; entry++) policy.insert(entry, -1, entry)
    const gone = new Set<number>()
    for (let left = 92; left > 0; left--) {
      const victim = policy.victim(always)
      expect(gone.has(victim)).to.equal(false)
      gone.add(victim)
      policy.remove(victim)
    }
    expect(policy.victim(always)).to.equal(-1)
  })

  it('finds another page when those that are worth least are pinned', () => {
    const below = randomNumbers(77)
    const policy = new PrefixAwarePolicy()
    for (let chain = 0; chain < 200; chain++) {
      for (let page = 0; page < 20; page++) policy.insert(chain * 20 + page, page === 0 ? -1 : chain * 20 + page - 1, chain * 20 + page + 1)
    }
    for (let round = 0; round < 200; round++) {
      const pinned = new Set([below(200), below(200), below(200)])
      const first = policy.victim(always)
      pinned.add(first / 20 | 0)
      const victim = policy.victim(entry => !pinned.has(entry / 20 | 0))
      expect(victim).to.be.at.least(0)
      expect(pinned.has(victim / 20 | 0)).to.equal(false)
    }
  })

  it('takes a bounded amount of memory however many pages have come and gone', () => {
    const policy = new PrefixAwarePolicy()
    let latest = -1
    for (let page = 0; page < 60_000; page++) {
      const entry = page < 2000 ? page : policy.victim(always)
      policy.remove(entry)
      policy.insert(entry, page % 10 === 0 ? -1 : latest, page + 1)
      latest = entry
    }
    expect(bytesOf(policy)).to.be.lessThan(1.5 * 2 ** 20)
  })
})

/** Bytes of all typed arrays below an object. */
function bytesOf(thing: unknown, seen = new Set<unknown>()): number {
  if (typeof thing !== 'object' || thing === null || seen.has(thing)) return 0
  seen.add(thing)
  if (ArrayBuffer.isView(thing)) return thing.byteLength
  return Object.values(thing).reduce((sum: number, value) => sum + bytesOf(value, seen), 0)
}
