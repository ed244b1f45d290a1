import { createHash } from 'node:crypto'
import { expect } from 'chai'
import { FileLayout } from '../../lib/storage/file-layout.js'
import { Op } from '../../lib/transfer/protocol.js'
import { ALL_DTYPES } from '../support/content.js'

const layout = (suffix = '_m_0_1', fingerprint = '', scheme: 'bucketed' | 'flat' = 'bucketed', directories = 1): FileLayout => new FileLayout({ suffix, fingerprint }, directories, scheme)

describe('the file layout', () => {
  it('identity: 16 bytes of the namespace\'s SHA-256, then the stored key', () => {
    const into = new Uint8Array(300)
    const end = layout('_m_0_1', 'f').encodeIdentity('ключ_m_0_1', into, 7)
    const digest = createHash('sha256').update('hicache-nixl namespace v1\0["_m_0_1","f"]').digest().subarray(0, 16)
    expect(Buffer.from(into.subarray(7, end))).to.deep.equal(Buffer.concat([digest, Buffer.from('ключ_m_0_1')]))
    expect(layout('_m_0_1', 'f').storedKeyOf(into.subarray(7, end))).to.equal('ключ_m_0_1')
  })
  it('another suffix, another fingerprint, or the same characters divided otherwise: another namespace', () => {
    const digests = [['_a', ''], ['_b', ''], ['_a', 'f'], ['_af', ''], ['', '_a'], ['_a","', ''], ['_a', '","']].map(([suffix, fingerprint]) => Buffer.from(layout(suffix, fingerprint).namespaceDigest).toString('hex'))
    expect(new Set(digests).size).to.equal(digests.length)
    const into = new Uint8Array(100)
    const end = layout('_a').encodeIdentity('k_a', into, 0)
    expect(layout('_b').storedKeyOf(into.subarray(0, end))).to.equal(null)
    expect(layout('_a').storedKeyOf(into.subarray(0, 16)), 'no key').to.equal(null)
    expect(layout('_a').storedKeyOf(new Uint8Array(0))).to.equal(null)
  })
  it('meta: dtype and shape come back as they went', () => {
    for (const dtype of ALL_DTYPES) {
      for (const shape of [[], [1], [2, 3, 4], [2 ** 40 + 5], new Array<number>(16).fill(1)]) expect(FileLayout.decodeMeta(FileLayout.encodeMeta(dtype, shape))).to.deep.equal({ dtype, shape })
    }
    expect([...FileLayout.encodeMeta('bfloat16', [258])]).to.deep.equal([1, 10, 1, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0])
  })
  it('a meta that it does not understand is none', () => {
    const good = FileLayout.encodeMeta('uint8', [4])
    const changed = (at: number, value: number): Uint8Array => {
      const meta = new Uint8Array(good)
      meta[at] = value
      return meta
    }
    for (const meta of [new Uint8Array(0), good.subarray(0, 8), good.subarray(0, 15), changed(0, 2), changed(1, 0), changed(1, 99), changed(2, 17), changed(2, 2)]) expect(FileLayout.decodeMeta(meta)).to.equal(null)
  })
  it('names, folders and directories by scheme', () => {
    expect(layout().nameOf('key1')).to.equal('d1/key1')
    expect(layout('_m', '', 'flat').nameOf('key1')).to.equal('key1')
    expect(layout('_m', '', 'bucketed', 3).directoryOf('key1')).to.equal(2)
    expect(layout('_m', '', 'flat', 3).directoryOf('key1')).to.equal(2)
    expect(layout().folders()).to.have.length(256).and.include.members(['00', 'd1', 'ff'])
    expect(layout('_m', '', 'flat').folders()).to.deep.equal([''])
    expect([layout().wantsMeta(Op.pageRead), layout().wantsMeta(Op.pageCheck), layout().wantsMeta(Op.pageWrite)]).to.deep.equal([true, true, false])
  })
  it('what is encoded never takes more room than was reserved', () => {
    const of = layout()
    for (const key of ['k', '鍵'.repeat(80), '🔑'.repeat(60), 'x'.repeat(255)]) {
      const into = new Uint8Array(of.encodedBytesMax(key))
      const nameEnd = of.encodeName(key, into, 0)
      const end = of.encodeIdentity(key, into, nameEnd)
      expect(new TextDecoder().decode(into.subarray(0, nameEnd))).to.equal(of.nameOf(key))
      expect(end - nameEnd).to.equal(16 + Buffer.byteLength(key))
    }
  })
})
