import { expect } from 'chai'
import { HiCacheNixl, type OpenOptions } from '../../lib/index.js'
import { UNCHECKED_READS } from '../../lib/connector/unchecked-reads.js'
import { bytes } from '../support/content.js'
import { describeDiskLayouts } from '../support/layouts.js'
import { flipByte, pagePath } from '../support/page-files.js'
import { rejection } from '../support/rejection.js'
import { flip, placeOf } from '../support/segments.js'
import { MIB, workbench } from '../support/workbench.js'

const unchecked = { [UNCHECKED_READS]: true } as OpenOptions
/** Small pages are checked on the agent's thread, large ones on the pool. */
const SIZES = { small: 20_000, large: 2 * MIB }

describeDiskLayouts('reads that bench has unchecked', storageLayout => {
  const bench = workbench(storageLayout)

  async function damaged(): Promise<string> {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir, modelName: 'm' })
    for (const [key, length] of Object.entries(SIZES)) expect(await cache.set(key, bytes(length, key))).to.equal(true)
    await cache.close()
    for (const key of Object.keys(SIZES)) {
      const storedKey = `${key}_m_0_1`
      if (storageLayout === 'file') await flipByte(pagePath(storageDir, storedKey), 5000)
      else {
        const place = placeOf(storageDir, storedKey)
        flip(place.data, place.dataAt + 5000)
      }
    }
    return storageDir
  }

  it('answer damaged bytes as they are, and say that nothing vouches for them', async () => {
    const cache = await bench.open({ storageDir: await damaged(), modelName: 'm', ...unchecked })
    for (const [key, length] of Object.entries(SIZES)) {
      const [outcome] = await cache.read([key])
      expect(outcome, key).to.include({ status: 'hit', verified: false })
      const expected = bytes(length, key)
      expected[5000]! ^= 0xff
      const { data } = (outcome as { value: { data: NodeJS.ArrayBufferView } }).value
      expect(Buffer.compare(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), expected), key).to.equal(0)
    }
    // It is no other page for that: length and key are compared as ever, and what checks the store still finds what is wrong.
    expect((await cache.read([['small', new Uint8Array(20_001)], 'another'])).map(outcome => outcome.status === 'miss' ? outcome.reason : outcome.status)).to.deep.equal(['length', 'absent'])
    expect(await cache.verify()).to.include({ ok: 0, corrupt: 2 })
  })

  it('write checksums all the same', async () => {
    const storageDir = await bench.directory()
    const writer = await bench.open({ storageDir, modelName: 'm', ...unchecked })
    expect(await writer.set('page', bytes(20_000, 'page'))).to.equal(true)
    await writer.close()
    const reader = await bench.open({ storageDir, modelName: 'm' })
    expect((await reader.read(['page']))[0]).to.include({ status: 'hit', verified: true })
  })

  it('are to be had by that key alone: by no option, configuration or variable of that name', async () => {
    const storageDir = await damaged()
    for (const name of ['UNCHECKED_READS', 'uncheckedReads', 'checksum', 'skipChecksum', String(UNCHECKED_READS), UNCHECKED_READS.description!]) {
      await rejection(HiCacheNixl.open({ env: {}, storageDir, [name]: true }), 'ERR_ARGUMENT')
      await rejection(HiCacheNixl.open({ env: {}, storageDir, config: { [name]: true } }), 'ERR_CONFIG')
    }
    const env = { HICACHE_NIXL_UNCHECKED_READS: '1', UNCHECKED_READS: '1', SGLANG_HICACHE_NIXL_UNCHECKED_READS: '1' }
    const cache = await bench.open({ storageDir, modelName: 'm', env, [Symbol.for(UNCHECKED_READS.description!)]: true })
    for (const outcome of await cache.read(Object.keys(SIZES))) expect(outcome).to.include({ status: 'miss', reason: 'corrupt' })
  })
})
