import { expect } from 'chai'
import { NixlRegistration, type DeviceBuffer, type NixlTuple } from '../../lib/index.js'
import { loadAddon } from '../../lib/transfer/load-addon.js'
import { tensor } from '../support/content.js'
import { thrown } from '../support/rejection.js'

const GPU: DeviceBuffer = { type: 'VRAM', deviceId: 1, address: 0x7f0000000000n, length: 4096 }

describe('tensor registration with memory-type detection', () => {
  const addon = loadAddon()

  it('a single tensor, a list, views and shared buffers are DRAM, described by address and length', () => {
    const one = tensor('float32', [4, 4], 1)
    const single = NixlRegistration.ofBuffers([one], addon)
    expect(single.memoryType).to.equal('DRAM')
    expect(single.tuples).to.deep.equal([[addon.addressOf(one.data), 64, 0, '']])
    const shared = new SharedArrayBuffer(8192)
    const list = [one, tensor('bfloat16', [10], 2), Buffer.alloc(100), shared, new DataView(shared, 100, 50)]
    const several = NixlRegistration.ofBuffers(list, addon)
    expect(several.memoryType).to.equal('DRAM')
    expect(several.tuples.map(([, length]) => length)).to.deep.equal([64, 20, 100, 8192, 50])
    expect(several.tuples[4]![0] - several.tuples[3]![0]).to.equal(100n)
    single.release()
    several.release()
  })
  it('GPU buffers are told by their type; a mixture is refused, and they are registered elsewhere', () => {
    expect(NixlRegistration.memoryTypeOf([GPU])).to.equal('VRAM')
    expect(NixlRegistration.memoryTypeOf([GPU, GPU])).to.equal('VRAM')
    expect(NixlRegistration.memoryTypeOf([new Uint8Array(1)])).to.equal('DRAM')
    expect(thrown(() => NixlRegistration.memoryTypeOf([GPU, new Uint8Array(1)]), 'ERR_ARGUMENT').message).to.match(/1 GPU buffers among 2/)
    thrown(() => NixlRegistration.ofBuffers([new Uint8Array(1), GPU], addon), 'ERR_ARGUMENT')
    expect(thrown(() => NixlRegistration.ofBuffers([GPU], addon), 'ERR_ARGUMENT').message).to.match(/registerDeviceBuffer/)
  })
  it('only shared memory is used as it is: an ordinary buffer can be detached under a transfer', () => {
    const shared = NixlRegistration.ofBuffers([new SharedArrayBuffer(4096)], addon)
    const plain = NixlRegistration.ofBuffers([new Uint8Array(4096)], addon)
    const both = NixlRegistration.ofBuffers([new SharedArrayBuffer(4096), new Uint8Array(4096)], addon)
    expect([shared.zeroCopy, plain.zeroCopy, both.zeroCopy]).to.deep.equal([true, false, false])
    expect([shared.regions.length, plain.regions.length, both.regions.length]).to.deep.equal([1, 0, 0])
    for (const registration of [shared, plain, both]) registration.release()
  })
  it('finds the views that lie in it, until it is released', () => {
    const buffer = new SharedArrayBuffer(10_000)
    const registration = NixlRegistration.ofBuffers([new Uint8Array(buffer, 1000, 5000)], addon)
    expect(registration.find(new Uint8Array(buffer, 1000, 5000))).to.include({ offset: 0, region: registration.regions[0] })
    expect(registration.find(new Uint8Array(buffer, 5999, 1))).to.include({ offset: 4999 })
    for (const [at, length] of [[999, 10], [5999, 2], [0, 10_000], [7000, 1]] as const) expect(registration.find(new Uint8Array(buffer, at, length)), `${at}`).to.equal(null)
    expect(registration.find(new Uint8Array(new SharedArrayBuffer(10_000), 1000, 10))).to.equal(null)
    registration.release()
    expect(registration.find(new Uint8Array(buffer, 1000, 10))).to.equal(null)
  })
  it('release is idempotent and waits for transfers', () => {
    let released = 0
    const registration = NixlRegistration.ofBuffers([new SharedArrayBuffer(4096)], addon, () => { released++ })
    const [region] = registration.regions
    registration.pin()
    registration.release()
    registration.release()
    expect([registration.released, released]).to.deep.equal([true, 0])
    registration.unpin()
    expect(released).to.equal(1)
    registration[Symbol.dispose]()
    expect(released).to.equal(1)
    expect(addon.unregisterMemory(region!), 'the agents know it no more').to.equal(false)
  })
  it('what is no memory is refused', () => {
    for (const bad of [[], [null], [5], ['x'], [new Uint8Array(0)], [new SharedArrayBuffer(0)], [new ArrayBuffer(8)], [{ dtype: 'uint8', shape: [1] }], null, undefined, new Uint8Array(4)] as never[]) {
      thrown(() => NixlRegistration.ofBuffers(bad, addon), 'ERR_ARGUMENT')
    }
    const detached = new Uint8Array(100)
    structuredClone(detached.buffer, { transfer: [detached.buffer] })
    thrown(() => NixlRegistration.ofBuffers([detached], addon), 'ERR_ARGUMENT')
  })
})

describe('file registration with NIXL tuples', () => {
  it('takes [0n, length, descriptor, path] as they are', () => {
    const tuples: NixlTuple[] = [[0n, 0, 5, '/a/b'], [0n, 4096, 6, '/c']]
    const registration = NixlRegistration.ofFiles(tuples)
    expect(registration).to.include({ memoryType: 'FILE', zeroCopy: false })
    expect(registration.tuples).to.deep.equal(tuples)
    expect(registration.find(new Uint8Array(1))).to.equal(null)
    registration.release()
    expect(registration.released).to.equal(true)
  })
  it('and nothing else', () => {
    for (const bad of [[[0n, 0, 5]], [[0, 0, 5, 'x']], [[0n, 1.5, 5, 'x']], [[0n, 0, -1, 'x']], [[0n, 0, 5, 7]], ['x'], [null], 'x', null] as never[]) thrown(() => NixlRegistration.ofFiles(bad), 'ERR_ARGUMENT')
  })
})
