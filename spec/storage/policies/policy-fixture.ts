import type { EvictionPolicy } from '../../../lib/storage/policies/eviction-policy.js'

export const always = (): boolean => true

/** Whole numbers that look random and are the same in every run: below `limit`. */
export function randomNumbers(seed: number): (limit: number) => number {
  let state = seed >>> 0 || 1
  return limit => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    state >>>= 0
    return state % limit
  }
}

/** Plays requests of page numbers against a cache of `capacity` pages; the leading run that is there are hits. */
export function play(policy: EvictionPolicy, capacity: number, requests: readonly (readonly number[])[],
  options: { parents?: boolean; identities?: boolean; onEvict?: (page: number, entryOf: ReadonlyMap<number, number>) => void } = {}): { hits: number; references: number } {
  const entryOf = new Map<number, number>()
  const pageOf: number[] = []
  const free: number[] = []
  let hits = 0
  let references = 0
  for (const request of requests) {
    let missed = false
    let before = -1
    for (const page of request) {
      references++
      const known = (): number => options.parents === false ? -1 : entryOf.get(before) ?? -1
      const entry = entryOf.get(page)
      if (entry !== undefined) {
        if (!missed) hits++
        policy.touch(entry, known())
      } else {
        missed = true
        if (entryOf.size >= capacity) {
          const victim = policy.victim(always)
          const gone = pageOf[victim]
          if (gone === undefined || entryOf.get(gone) !== victim) throw new Error(`victim() answered ${victim}, which is no page`)
          entryOf.delete(gone)
          options.onEvict?.(gone, entryOf)
          policy.remove(victim)
          free.push(victim)
        }
        const fresh = free.pop() ?? pageOf.length
        pageOf[fresh] = page
        entryOf.set(page, fresh)
        policy.insert(fresh, known(), options.identities === false ? 0 : Math.imul(page + 1, 0x9e3779b1) >>> 0)
      }
      before = page
    }
  }
  return { hits, references }
}

/** Conversations that grow: each request is all of one conversation, and a few new pages at its end. */
export function conversations(seed: number, count: number, requests: number, ends = 0): number[][] {
  const below = randomNumbers(seed)
  const open: number[][] = []
  let next = 0
  return Array.from({ length: requests }, () => {
    const which = below(count)
    const grown = below(100) < ends ? [] : [...open[which] ?? []]
    for (let more = 1 + below(5); more > 0; more--) grown.push(next++)
    open[which] = grown
    return grown
  })
}
