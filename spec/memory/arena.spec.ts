import { expect } from 'chai'
import { Arena } from '../../lib/memory/arena.js'
import { loadAddon } from '../../lib/transfer/load-addon.js'
import { thrown } from '../support/rejection.js'

const MIB = 1024 * 1024

describe('the arena', () => {
  let arena: Arena
  beforeEach(() => { arena = new Arena(16 * MIB, loadAddon()) })
  afterEach(() => { arena.unregister() })

  it('is shared memory on a page boundary, all of it registered', () => {
    expect(arena.buffer).to.be.instanceOf(SharedArrayBuffer)
    expect(arena.bytes).to.equal(16 * MIB)
    expect(loadAddon().addressOf(new Uint8Array(arena.buffer)) % 4096n).to.equal(0n)
  })
  it('slots are whole blocks; what is neither held nor pinned goes back', () => {
    const slot = arena.allocate(5000)!
    expect(slot.offset % 4096).to.equal(0)
    expect(slot.bytes).to.equal(5000)
    expect(slot.view().byteLength).to.equal(5000)
    expect(arena.usedBytes).to.equal(8192)
    let freed = 0
    arena.onFree(() => { freed++ })
    slot.hold()
    slot.pin()
    slot.pin()
    expect(arena.heldBytes).to.equal(8192)
    slot.letGo()
    slot.letGo()
    expect([arena.heldBytes, arena.usedBytes, freed]).to.deep.equal([0, 8192, 0])
    slot.unpin()
    expect([arena.usedBytes, freed]).to.deep.equal([8192, 0])
    slot.unpin()
    expect([arena.usedBytes, freed]).to.deep.equal([0, 1])
    expect(() => { slot.unpin() }).to.throw(RangeError)
  })
  it('knows whose a view is only while it is held, and only inside of its slot', () => {
    const slot = arena.allocate(5000)!
    expect(arena.slotOf(slot.offset, 10)).to.equal(null)
    slot.hold()
    expect(arena.slotOf(slot.offset, 5000)).to.equal(slot)
    expect(arena.slotOf(slot.offset + 4096, 904)).to.equal(slot)
    expect(arena.slotOf(slot.offset + 4096, 905)).to.equal(null)
    expect(arena.slotOf(slot.offset + 8192, 1)).to.equal(null)
    slot.letGo()
    expect(arena.slotOf(slot.offset, 10)).to.equal(null)
  })
  it('callers may hold two thirds', () => {
    expect(arena.heldBytesMax).to.be.within(10 * MIB, 11 * MIB)
    expect(arena.mayHold(arena.heldBytesMax - 4096)).to.equal(true)
    const slot = arena.allocate(10 * MIB)!
    slot.hold()
    expect(arena.mayHold(MIB)).to.equal(false)
    expect(arena.allocate(MIB), 'transfers have the rest').not.to.equal(null)
  })
  it('sizes outside of 16 MiB to 4 GiB are refused', () => {
    for (const bytes of [0, -1, 16 * MIB - 1, 4 * 1024 * MIB + 1, NaN, 2 ** 25 + 0.5]) thrown(() => new Arena(bytes, loadAddon()), 'ERR_ARGUMENT')
  })
  it('populate touches all of it and changes nothing', async () => {
    const view = new Uint8Array(arena.buffer)
    view[0] = 1
    view[view.length - 1] = 2
    expect(await arena.populate()).to.be.at.least(-1)
    expect([view[0], view[1], view[view.length - 1]]).to.deep.equal([1, 0, 2])
  })
})
