import { expect } from 'chai'
import { DeviceTransfers, type DeviceTransferParts } from '../../lib/connector/device-transfers.js'
import { Arena } from '../../lib/memory/arena.js'
import { DeviceMemory } from '../../lib/memory/device-memory.js'
import type { Slot } from '../../lib/memory/slot.js'
import type { WriteOutcome } from '../../lib/storage/outcome.js'
import type { PageToWrite } from '../../lib/storage/page-store.js'
import { CallScope, type CallOptions } from '../../lib/transfer/call-scope.js'
import { loadAddon } from '../../lib/transfer/load-addon.js'
import type { NativeCuda } from '../../lib/transfer/native-binding.js'
import { settled } from '../support/batcher-rig.js'

const MIB = 1024 * 1024

describe('transfers of device memory', () => {
  let arena: Arena
  let held: Slot
  /** Pages whose step has its slots and was copied. */
  let stored: string[]
  const cuda = { pin: () => Promise.resolve(true), unpin: () => Promise.resolve(true), copy: () => Promise.resolve() } as unknown as NativeCuda
  const memory = new DeviceMemory({ region: 1, device: 0, address: 4096n }, 64 * MIB, cuda, () => {})

  beforeEach(() => {
    arena = new Arena(16 * MIB, loadAddon())
    // Of the arena's 16 MiB, 2 are left.
    held = arena.allocate(14 * MIB)!
    held.pin()
    stored = []
  })
  afterEach(() => { arena.unregister() })

  const transfers = (more: Partial<DeviceTransferParts> = {}): DeviceTransfers => new DeviceTransfers({
    arena, cuda,
    write: (_, pages, end) => {
      pages.forEach(({ key }, i) => {
        stored.push(key)
        end(i, { ok: true, status: 'stored', key, byteLength: 0 } as unknown as WriteOutcome)
      })
    },
    read: () => { throw new Error('no reads here') },
    ...more
  })
  /** A call for two pages of 1.5 MiB, which is one step; answers how each ended. */
  const write = (devices: DeviceTransfers, name: string, options: CallOptions): Promise<string[]> => new Promise(resolve => {
    const pages = Array.from({ length: 2 }, (_, i) => ({ key: `${name}${i}`, storedKey: `${name}${i}`, length: 1.5 * MIB }) as unknown as PageToWrite)
    const outcomes: string[] = []
    devices.write(new CallScope(options, 60_000), pages, pages.map(() => ({ memory, offset: 0 })), pages.map((_, i) => i), (i, outcome) => {
      outcomes[i] = outcome.status
      if (outcomes.filter(Boolean).length === pages.length) resolve(outcomes)
    })
  })

  it('calls that wait for staging memory do not keep the event loop from turning', async () => {
    const devices = transfers()
    const both = Promise.all([write(devices, 'a', { timeoutMs: 20_000 }), write(devices, 'b', { timeoutMs: 20_000 })])
    const before = performance.now()
    for (let turn = 0; turn < 3; turn++) await settled()
    // A release that is not enough wakes both.
    const small = arena.allocate(4096)!
    small.pin()
    small.unpin()
    for (let turn = 0; turn < 3; turn++) await settled()
    expect(performance.now() - before).to.be.below(10_000)
    held.unpin()
    expect(await both).to.deep.equal([['stored', 'stored'], ['stored', 'stored']])
    expect(arena.usedBytes).to.equal(0)
  })
  it('a signal ends the waiting for staging memory at once', async () => {
    const caller = new AbortController()
    const before = performance.now()
    const outcomes = write(transfers(), 'a', { timeoutMs: 20_000, signal: caller.signal })
    await settled()
    caller.abort()
    expect(await outcomes).to.deep.equal(['cancelled', 'cancelled'])
    expect(performance.now() - before).to.be.below(10_000)
    expect(stored).to.deep.equal([])
  })
  it('stop() ends what waits for staging memory, and keeps what is being copied from storage', async () => {
    let copied = (): void => {}
    const slow = { ...cuda, copy: () => new Promise<void>(resolve => { copied = resolve }) } as unknown as NativeCuda
    const devices = transfers({ cuda: slow })
    held.unpin()
    const copying = write(devices, 'a', { timeoutMs: 20_000 })
    await settled()
    const rest: Slot[] = []
    for (let slot; (slot = arena.allocateAll([MIB / 2])) !== null;) rest.push(...slot)
    const waiting = write(devices, 'b', { timeoutMs: 20_000 })
    await settled()
    devices.stop()
    expect(await waiting).to.deep.equal(['cancelled', 'cancelled'])
    let closed = false
    const closing = devices.close().then(() => { closed = true })
    await settled()
    expect(closed, 'a copy uses the arena').to.equal(false)
    copied()
    expect(await copying).to.deep.equal(['cancelled', 'cancelled'])
    await closing
    expect(stored).to.deep.equal([])
    for (const slot of rest) slot.unpin()
    expect(arena.usedBytes).to.equal(0)
  })
})
