import { readdirSync } from 'node:fs'
import { expect } from 'chai'
import { DESCRIPTOR_STRIDE, Field } from '../../lib/transfer/protocol.js'
import { workbench } from '../support/workbench.js'
import { addon, Rig, type Ask } from './rig.js'

describe('arguments of the native agent', () => {
  const bench = workbench()
  let rig: Rig
  beforeEach(async () => {
    rig = new Rig({ directory: await bench.directory() })
    bench.atEnd(() => rig.end())
  })

  const refused = (call: () => unknown, text?: RegExp): void => {
    const thrown = expect(call).to.throw(Error, text)
    thrown.with.property('code', 'ERR_ARGUMENT')
  }
  /** A batch whose second descriptor is wrong starts nothing, not even the first. */
  const refusedDescriptor = (ask: Ask, change: (descriptors: Float64Array) => void = () => undefined): void => {
    const { descriptors, blob, words } = rig.encode([{ op: 'pageWrite', name: 'fine', length: 10 }, ask])
    change(descriptors.subarray(DESCRIPTOR_STRIDE))
    refused(() => rig.agent.submit(descriptors, blob, false), /^Descriptor 1: /)
    expect(rig.agent.inFlight).to.equal(0)
    expect(rig.state(words[0]!)).to.equal('queued')
    expect(readdirSync(rig.shared.directory)).to.deep.equal([])
  }

  for (const name of ['', '/etc/passwd', '../up', 'd1/../../up', 'd1//page', 'd1/', '.', 'd1/.', 'nul\0nul', `d1/${'x'.repeat(256)}`, '.hicache-nixl-tmp-1']) {
    it(`refuses the name ${JSON.stringify(name.slice(0, 20))}`, () => refusedDescriptor({ op: 'pageCheck', name }))
  }

  for (const [field, values] of Object.entries({
    op: [0, 11, 1.5, NaN],
    flags: [256, -1],
    directory: [1, -1, 2 ** 40],
    nameOffset: [1e6, -1, NaN],
    nameLength: [1e6, 2 ** 53],
    region: [0, 2 ** 33, 999_999],
    memoryOffset: [2 ** 30, -4096, 2 ** 52],
    length: [2 ** 30, -1, 2 ** 52, Infinity],
    fileOffset: [-1, 0.5],
    recordOffset: [1e6],
    identityLength: [321, 1e6],
    metaLength: [3001],
    word: [1024, -1],
    wordQueued: [0, 10, 2 ** 31, 9.5],
    recordAt: [-1, 0.5]
  })) {
    for (const value of values) {
      it(`refuses ${field} ${value}`, () => refusedDescriptor({ op: 'pageRead', name: 'page', length: 10 }, one => { one[Field[field as keyof typeof Field]] = value }))
    }
  }

  it('refuses what are no descriptors', () => {
    const { descriptors, blob } = rig.encode([{ op: 'pageCheck', name: 'page' }])
    for (const wrong of [undefined, null, [], new Float32Array(14), new Uint8Array(112), 'x']) refused(() => rig.agent.submit(wrong as never, blob, false))
    refused(() => rig.agent.submit(descriptors.subarray(1), blob, false))
    for (const wrong of [undefined, [], 'x', new Int8Array(4), new ArrayBuffer(4)]) refused(() => rig.agent.submit(descriptors, wrong as never, false))
    // A blob that has moved elsewhere is empty here.
    const moved = Uint8Array.from(blob)
    structuredClone(moved.buffer, { transfer: [moved.buffer] })
    refused(() => rig.agent.submit(descriptors, moved, false), /outside of the blob/)
  })

  it('answers an empty batch', async () => {
    const { results, metas } = await rig.agent.submit(new Float64Array(0), new Uint8Array(0), true)
    expect([results.length, metas.length]).to.deep.equal([0, 0])
  })

  it('answers metas only when asked to', async () => {
    const { descriptors, blob } = rig.encode([{ op: 'pageCheck', name: 'page' }])
    expect((await rig.agent.submit(descriptors, blob, false)).metas.length).to.equal(0)
  })

  it('refuses places of objects that are wrong, and says which', () => {
    const good = { endpoint: 'http://127.0.0.1:1', region: 'us-east-1', bucket: 'b', virtualAddressing: false, credentials: 0 }
    for (const [wrong, text] of [
      [undefined, /objects/], [{ ...good, endpoint: '' }, /endpoint/], [{ ...good, endpoint: 'ftp://127.0.0.1' }, /http/], [{ ...good, region: 5 }, /region/], [{ ...good, bucket: '' }, /bucket/],
      [{ ...good, virtualAddressing: 'no' }, /virtualAddressing/], [{ ...good, credentials: -1 }, /credentials/], [{ ...good, caBundle: 5 }, /caBundle/], [{ ...good, proxy: 'a\0b' }, /proxy/],
      [{ ...good, threads: 0 }, /threads/], [{ ...good, connections: 0 }, /connections/], [{ ...good, multipartBytes: 0.5 }, /multipartBytes/], [{ ...good, sendChecksum: 1 }, /sendChecksum/]
    ] as const) {
      refused(() => new addon.Agent({ plugin: 'OBJ', words: new Int32Array(new SharedArrayBuffer(8)), objects: wrong } as never), text)
    }
    const { objects } = addon
    refused(() => objects.setCredentials(5 as never), /credentials/)
    refused(() => objects.setCredentials({ accessKey: 'a\r\nb', secretKey: 'c', sessionToken: '' }), /line ends/)
    refused(() => objects.setCredentials({ accessKey: 'a', secretKey: 'c', sessionToken: '' }, 4_000_000), /id/)
    expect(objects.releaseCredentials(4_000_000)).to.equal(false)
    refused(() => new objects.Client(undefined as never), /where/)
    const client = new objects.Client(good)
    refused(() => client.request(undefined as never), /request/)
    refused(() => client.request({ method: 'GET', key: 'a', timeoutMs: 0 }), /timeoutMs/)
    refused(() => client.request({ method: 'GET', key: 'a', timeoutMs: 1000, headers: { a: 'b\r\nc: d' } }), /line ends/)
    refused(() => client.request({ method: 'GET', key: 'a', timeoutMs: 1000, body: 5 as never }), /body/)
    client.close()
    expect(() => client.request({ method: 'GET', key: 'a', timeoutMs: 1000 })).to.throw(/closed/).with.property('code', 'ERR_CLOSED')
  })
  it('refuses options that are wrong, and says which', () => {
    const good = { plugin: 'POSIX', engine: 'aio', words: new Int32Array(new SharedArrayBuffer(8)), directories: [{ path: rig.shared.directory, direct: false, engine: false }] } as const
    for (const [wrong, text] of [
      [undefined, /options/], [{ ...good, plugin: 'GDS' }, /plugin/], [{ ...good, plugin: 'OBJ' }, /objects/], [{ ...good, engine: 5 }, /engine/], [{ ...good, words: new Uint8Array(8) }, /words/],
      [{ ...good, words: new Int32Array(0) }, /words/], [{ ...good, directories: [] }, /directories/], [{ ...good, directories: [5] }, /directory/],
      [{ ...good, directories: [{ path: '' }] }, /path/], [{ ...good, directories: [{ path: 'a', direct: 'yes' }] }, /direct/],
      [{ ...good, queueDepth: 0 }, /queueDepth/], [{ ...good, threads: 1000 }, /threads/], [{ ...good, drainMs: -1 }, /drainMs/]
    ] as const) {
      refused(() => new addon.Agent(wrong as never), text)
    }
  })

  it('says that an engine cannot be had, with its reason', () => {
    const options = { plugin: 'POSIX', engine: 'warp' as never, words: new Int32Array(2), directories: [{ path: rig.shared.directory, direct: true, engine: true }] } as const
    expect(() => new addon.Agent(options)).to.throw(/warp/).with.property('code', 'ERR_PLUGIN_UNAVAILABLE')
  })

  it('refuses folders that lead elsewhere', () => {
    for (const folder of ['..', '/', 'a/..', 'a//b', 5]) {
      refused(() => rig.agent.list(0, folder as never, { records: false }))
      refused(() => rig.agent.sweep(0, folder as never))
    }
    refused(() => rig.agent.list(1, '', { records: false }))
  })

  it('refuses work after destroy(), which may be called again', async () => {
    expect(await rig.agent.destroy()).to.equal(0)
    expect(await rig.agent.destroy()).to.equal(0)
    const { descriptors, blob } = rig.encode([{ op: 'pageCheck', name: 'page' }])
    for (const call of [() => rig.agent.submit(descriptors, blob, false), () => rig.agent.list(0, '', { records: false }), () => rig.agent.sweep(0, '')]) {
      expect(call).to.throw().with.property('code', 'ERR_CLOSED')
    }
  })

  it('knows registered memory, and forgets it', () => {
    expect(addon.addressOf(rig.bytes) % 4096n).to.equal(0n)
    expect(addon.addressOf(rig.bytes.subarray(100)) - addon.addressOf(rig.bytes)).to.equal(100n)
    const region = addon.registerMemory(new Uint8Array(10))
    expect(addon.unregisterMemory(region)).to.equal(true)
    expect(addon.unregisterMemory(region)).to.equal(false)
    for (const wrong of [undefined, new ArrayBuffer(4), new Uint8Array(0), 'x']) refused(() => addon.registerMemory(wrong as never))
  })
})
