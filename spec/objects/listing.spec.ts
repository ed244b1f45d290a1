import { ListObjectsV2Command, PutObjectCommand } from '@aws-sdk/client-s3'
import { expect } from 'chai'
import { bytes } from '../support/content.js'
import { describeObjects, objectPlace, prefixOf } from '../support/object-place.js'
import { workbench } from '../support/workbench.js'

const PAGES = 1203

describeObjects('more pages than a listing has', () => {
  const bench = workbench('object', { hangs: true })

  it('are all listed, and cleared by whose they are: no other model\'s, fingerprint\'s or stranger\'s, and nothing beside the prefix', async function () {
    this.timeout(60_000)
    const storageDir = await bench.directory()
    const prefix = prefixOf(storageDir)
    const { bucket: Bucket, gateway } = objectPlace()
    const sdk = gateway.client()
    const cache = await bench.open({ storageDir, modelName: 'm' })
    // Of the same names, but for what stands behind them or in their header: `x_n` of model `m` is `x` of model `n_m`.
    const [other, finger, rank] = await Promise.all([
      bench.open({ storageDir, modelName: 'n_m' }), bench.open({ storageDir, modelName: 'm', fingerprint: 'f' }), bench.open({ storageDir, modelName: 'm', tpRank: 1, tpSize: 2 })
    ])
    const keys = Array.from({ length: PAGES }, (_, i) => `page-${i}`)
    expect((await cache.batchSet(keys, keys.map(key => bytes(50, key)))).every(Boolean)).to.equal(true)
    expect(await Promise.all([cache.set('x_n', bytes(10, 1)), other.set('theirs', bytes(10, 2)), finger.set('finger', bytes(10, 3)), rank.set('rank', bytes(10, 4))])).to.deep.equal([true, true, true, true])
    const foreign = [`${prefix}python_m_0_1`, `${prefix}notes.txt`, `${prefix}deeper/page-1_m_0_1`, `${prefix.slice(0, -1)}-beside/page-1_m_0_1`]
    for (const Key of foreign) await sdk.send(new PutObjectCommand({ Bucket, Key, Body: 'mine' }))

    bench.front.requests.length = 0
    const listed = new Set<string>()
    for await (const { key, verified } of cache.entries()) {
      expect(verified).to.equal(true)
      listed.add(key)
    }
    expect([...listed].sort()).to.deep.equal([...keys, 'x_n'].sort())
    expect(bench.front.requests.filter(({ query }) => query.includes('list-type'))).to.have.lengthOf(2)

    bench.front.requests.length = 0
    expect(await cache.clear()).to.deep.equal({ deleted: PAGES + 1 })
    // 1,000 by one request.
    expect(bench.front.requests.filter(({ method, query }) => method === 'POST' && query.startsWith('delete'))).to.have.lengthOf(2)
    expect(bench.front.count('DELETE')).to.equal(0)
    const { Contents } = await sdk.send(new ListObjectsV2Command({ Bucket }))
    expect(Contents!.map(({ Key }) => Key)).to.have.members([...foreign, `${prefix}theirs_n_m_0_1`, `${prefix}finger_m_0_1`, `${prefix}rank_m_1_2`])
    expect(await cache.batchExists(keys)).to.equal(0)
    expect(await other.exists('theirs') && await finger.exists('finger') && await rank.exists('rank')).to.equal(true)
    expect((await cache.read(['python']))[0]).to.include({ status: 'hit', verified: false })
  })
})
