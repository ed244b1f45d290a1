import { ClairvoyantPolicy } from './clairvoyant.js'
import type { EvictionPolicy } from './eviction-policy.js'
import { FifoPolicy } from './fifo.js'
import { LruPolicy } from './lru.js'
import { PrefixAwarePolicy } from './prefix-aware.js'
import { S3FifoPolicy } from './s3-fifo.js'
import { SievePolicy } from './sieve.js'

/** The policies that a store can have; the first is the default. */
export const POLICY_NAMES = ['prefix-aware', 'lru'] as const
export type PolicyName = typeof POLICY_NAMES[number]

/** Those of a simulation: the others are there to be compared with. */
export const SIMULATED_POLICY_NAMES = [...POLICY_NAMES, 'fifo', 'sieve', 's3-fifo', 'clairvoyant'] as const
export type SimulatedPolicyName = typeof SIMULATED_POLICY_NAMES[number]

export function makePolicy(name: PolicyName): EvictionPolicy {
  return name === 'lru' ? new LruPolicy() : new PrefixAwarePolicy()
}

export function makeSimulatedPolicy(name: SimulatedPolicyName): EvictionPolicy {
  switch (name) {
    case 'prefix-aware':
    case 'lru': return makePolicy(name)
    case 'fifo': return new FifoPolicy()
    case 'sieve': return new SievePolicy()
    case 's3-fifo': return new S3FifoPolicy()
    case 'clairvoyant': return new ClairvoyantPolicy()
  }
}
