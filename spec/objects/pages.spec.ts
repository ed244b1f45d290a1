import {
  CopyObjectCommand, GetObjectCommand, HeadObjectCommand, ListObjectsV2Command, PutObjectCommand, type GetObjectCommandOutput, type S3Client
} from '@aws-sdk/client-s3'
import { expect } from 'chai'
import type { HiCacheNixl, ReadOutcome, Target } from '../../lib/index.js'
import { bytes, bytesOf, same, tensor } from '../support/content.js'
import { describeObjects, objectConfig, objectPlace, prefixOf } from '../support/object-place.js'
import { MIB, workbench } from '../support/workbench.js'

const PAGE = 9000
const RECORD = 'hicache-nixl'
const brief = (outcomes: readonly ReadOutcome<Target>[]): string[] => outcomes.map(outcome => outcome.status === 'miss' ? outcome.reason : outcome.status)

describeObjects('pages as objects', () => {
  const bench = workbench('object', { hangs: true })
  let cache: HiCacheNixl
  let storageDir: string
  let sdk: S3Client
  let Bucket: string
  before(() => {
    sdk = objectPlace().gateway.client()
    Bucket = objectPlace().bucket
  })
  beforeEach(async () => {
    storageDir = await bench.directory()
    cache = await bench.open({ storageDir, modelName: 'm' })
  })
  const keyOf = (key: string): string => `${prefixOf(storageDir)}${key}_m_0_1`
  const object = (key: string): Promise<GetObjectCommandOutput> => sdk.send(new GetObjectCommand({ Bucket, Key: keyOf(key) }))
  const bodyOf = async (key: string): Promise<Buffer> => Buffer.from(await (await object(key)).Body!.transformToByteArray())
  /** Writes what is there anew, changed. */
  async function alter(key: string, change: (body: Buffer, record: string) => { body?: Buffer; record?: string }): Promise<void> {
    const got = await object(key)
    const [body, record] = [Buffer.from(await got.Body!.transformToByteArray()), got.Metadata![RECORD]!]
    const changed = { body, record, ...change(body, record) }
    await sdk.send(new PutObjectCommand({ Bucket, Key: keyOf(key), Body: changed.body, Metadata: { [RECORD]: changed.record } }))
  }
  const flip = (body: Buffer): { body: Buffer } => {
    body[body.length >> 1]! ^= 1
    return { body }
  }

  it('are read by the SDK byte for byte, with one header of ours: version, length, checksum, whose it is, what it means', async () => {
    const page = tensor('bfloat16', [3, 5, 7], 'page')
    expect(await cache.set('tensor', page)).to.equal(true)
    expect(await cache.set('bytes', bytes(70_001, 'bytes'))).to.equal(true)
    expect((await bodyOf('tensor')).equals(bytesOf(page))).to.equal(true)
    expect((await bodyOf('bytes')).equals(Buffer.from(bytes(70_001, 'bytes')))).to.equal(true)
    const { Metadata, ContentLength, ContentType } = await sdk.send(new HeadObjectCommand({ Bucket, Key: keyOf('tensor') }))
    expect({ ContentLength, ContentType }).to.deep.equal({ ContentLength: 210, ContentType: 'application/octet-stream' })
    expect(Object.keys(Metadata!)).to.deep.equal([RECORD])
    expect(Metadata![RECORD]).to.match(/^1\.210\.[0-9a-f]{16}\.[\w-]+\.[\w-]+\.[0-9a-f]{16}$/)
    const identity = Buffer.from(Metadata![RECORD]!.split('.')[3]!, 'base64url').toString()
    expect(identity).to.include('tensor_m_0_1')
    expect((await sdk.send(new ListObjectsV2Command({ Bucket, Prefix: prefixOf(storageDir) }))).Contents!.map(({ Key }) => Key)).to.deep.equal([keyOf('bytes'), keyOf('tensor')])
  })

  it('without the header, as the Python connector and the SDK write them, are unverified, or count as absent', async () => {
    const page = bytes(4096, 'python')
    await sdk.send(new PutObjectCommand({ Bucket, Key: keyOf('python'), Body: page }))
    const [outcome] = await cache.read(['python'])
    expect(outcome).to.include({ status: 'hit', verified: false })
    expect(outcome!.ok && same(outcome!.value, page)).to.equal(true)
    expect(await cache.exists('python')).to.equal(true)
    expect(await cache.stat('python')).to.deep.include({ bytes: 4096, dtype: null, shape: null, verified: false })
    expect(brief(await cache.read([['python', new Uint8Array(4095)]]))).to.deep.equal(['length'])
    const strict = await bench.open({ storageDir, modelName: 'm', acceptUnverified: false })
    expect(brief(await strict.read(['python', ['python', new Uint8Array(4096)]]))).to.deep.equal(['absent', 'absent'])
    expect(await strict.exists('python')).to.equal(false)
    expect(await strict.stat('python')).to.equal(null)
    // Nobody's page is cleared; a write replaces it by one that is ours.
    expect(await cache.clear()).to.deep.equal({ deleted: 0 })
    expect((await strict.write([['python', page]]))[0]).to.include({ status: 'stored' })
    expect((await strict.read(['python']))[0]).to.include({ status: 'hit', verified: true })
  })

  it('stand below the prefix of the configuration, and at the top of the bucket without one', async () => {
    const config = { ...objectConfig(), object_prefix: 'teams/a b+c/ü/' }
    const one = await bench.open({ config, objectPrefix: undefined as never, modelName: 'm' })
    const top = await bench.open({ objectPrefix: '', modelName: 'top' })
    await Promise.all([one.set('k', bytes(10, 1)), top.set('k', bytes(20, 2))])
    const { Contents } = await sdk.send(new ListObjectsV2Command({ Bucket }))
    expect(Contents!.map(({ Key, Size }) => [Key, Size])).to.deep.include.members([['teams/a b+c/ü/k_m_0_1', 10], ['k_top_0_1', 20]])
    expect(await one.stat('k')).to.include({ key: 'k', bytes: 10 })
    expect(await top.clear()).to.deep.equal({ deleted: 1 })
    expect(await one.clear()).to.deep.equal({ deleted: 1 })
  })

  it('have keys of every character that a key may have', async () => {
    const ascii = Array.from({ length: 127 }, (_, i) => String.fromCharCode(i + 1)).filter(character => character !== '/')
    const keys = [...ascii.map(character => `a${character}z`), ' lead', 'trail ', 'a  b', '%2F', '%', '..a', '.a', '~*()\'!', '?x=1&y', '#f', 'e\u0301', 'é', '日本語', '🔑', '\u2028', '\ufeff', '\uffff', '-']
    const pages = keys.map(key => bytes(100, key))
    expect(await cache.batchSet(keys, pages)).to.deep.equal(keys.map(() => true))
    const other = await bench.open({ storageDir, modelName: 'm' })
    expect(await other.batchExists(keys)).to.equal(keys.length)
    const got = await other.batchGet(keys)
    keys.forEach((key, i) => { expect(got[i] !== null && same(got[i]!, pages[i]!), JSON.stringify(key)).to.equal(true) })
    for (const key of ['a b z', 'a+z', 'a%z', 'a?z', 'a\u0001z', '日本語', '🔑'].filter(key => keys.includes(key))) {
      expect((await bodyOf(key)).equals(Buffer.from(bytes(100, key))), JSON.stringify(key)).to.equal(true)
    }
    const listed: string[] = []
    for await (const { key } of other.entries()) listed.push(key)
    expect(listed).to.have.members(keys)
    expect(await other.delete('a\nz')).to.equal(true)
    expect(await other.clear()).to.deep.equal({ deleted: keys.length - 1 })
    expect((await sdk.send(new ListObjectsV2Command({ Bucket, Prefix: prefixOf(storageDir) }))).KeyCount).to.equal(0)
  })

  it('that are there already are not sent again: known ones and large ones are asked for, small ones are sent on condition', async () => {
    const sent = async (of: HiCacheNixl, key: string, page: Uint8Array): Promise<unknown> => {
      bench.front.requests.length = 0
      const [outcome] = await of.write([[key, page]])
      return [outcome!.status, ...bench.front.requests.map(({ method, headers, query }) => `${method}${query === '' ? '' : ` ?${query.split('=')[0]}`}${'if-none-match' in headers ? ' if none' : ''}`)]
    }
    const [small, large] = [bytes(PAGE, 'small'), bytes(2 * MIB, 'large')]
    expect(await sent(cache, 'small', small)).to.deep.equal(['stored', 'PUT if none'])
    expect(await sent(cache, 'large', large)).to.deep.equal(['stored', 'HEAD', 'PUT if none'])
    expect(await sent(cache, 'small', small)).to.deep.equal(['already-there', 'HEAD'])
    expect(await sent(cache, 'large', large)).to.deep.equal(['already-there', 'HEAD'])
    const other = await bench.open({ storageDir, modelName: 'm' })
    expect(await sent(other, 'large', large)).to.deep.equal(['already-there', 'HEAD'])
    expect(await sent(other, 'small', small)).to.deep.equal(['already-there', 'PUT if none', 'HEAD'])
    // Another page is, whoever wrote it.
    const third = await bench.open({ storageDir, modelName: 'm' })
    expect(await sent(third, 'small', bytes(PAGE, 'other'))).to.deep.equal(['stored', 'PUT if none', 'HEAD', 'PUT'])
    expect(await sent(third, 'small', bytes(PAGE, 'another'))).to.deep.equal(['stored', 'HEAD', 'PUT'])
    expect(same(await cache.get('small'), bytes(PAGE, 'another'))).to.equal(true)
  })

  it('whose bytes were altered are a miss of that page alone, and the next write replaces them, whatever they say of themselves', async () => {
    const keys = ['good', 'altered', 'also good']
    await cache.batchSet(keys, keys.map(key => bytes(PAGE, key)))
    await alter('altered', flip)
    expect(brief(await cache.read(keys.map(key => [key, new Uint8Array(PAGE)] as const)))).to.deep.equal(['hit', 'corrupt', 'hit'])
    expect(brief(await cache.read(keys))).to.deep.equal(['hit', 'corrupt', 'hit'])
    expect(await cache.getInArena('altered')).to.equal(null)
    // Its header still is that of the page that is written now.
    expect((await cache.write([['altered', bytes(PAGE, 'altered')]]))[0]).to.include({ status: 'stored' })
    expect(same(await cache.get('altered'), bytes(PAGE, 'altered'))).to.equal(true)
    expect((await cache.write([['altered', bytes(PAGE, 'altered')]]))[0]).to.include({ status: 'already-there' })
    expect(cache.stats()).to.include({ arena_used_bytes: 0 })
  })

  it('whose header was altered, or whose length, are corrupt; look-ups do not find them, and anybody\'s write replaces them', async () => {
    const keys = ['seal', 'checksum', 'length', 'words', 'shorter', 'longer']
    await cache.batchSet(keys, keys.map(key => bytes(PAGE, key)))
    const digit = (text: string, at: number): string => text.slice(0, at) + (text[at] === '0' ? '1' : '0') + text.slice(at + 1)
    await alter('seal', (_, record) => ({ record: digit(record, record.length - 1) }))
    await alter('checksum', (_, record) => ({ record: digit(record, 8) }))
    await alter('length', (_, record) => ({ record: record.replace(`1.${PAGE}.`, `1.${PAGE + 1}.`) }))
    await alter('words', () => ({ record: 'something else' }))
    await alter('shorter', body => ({ body: body.subarray(1) }))
    await alter('longer', body => ({ body: Buffer.concat([body, body]) }))
    const other = await bench.open({ storageDir, modelName: 'm' })
    for (const key of keys) expect(await other.exists(key), key).to.equal(false)
    for (const reason of brief(await other.read(keys.map(key => [key, new Uint8Array(PAGE)] as const)))) expect(reason).to.be.oneOf(['corrupt', 'length'])
    for (const reason of brief(await other.read(keys))) expect(reason).to.be.oneOf(['corrupt', 'length'])
    expect(await other.batchSet(keys, keys.map(key => bytes(PAGE, key)))).to.deep.equal(keys.map(() => true))
    const third = await bench.open({ storageDir, modelName: 'm' })
    expect(await third.batchExists(keys)).to.equal(keys.length)
    for (const outcome of await third.read(keys)) expect(outcome.ok && same(outcome.value, bytes(PAGE, outcome.key)), outcome.key).to.equal(true)
  })

  it('of a newer version of the header are left alone', async () => {
    await cache.set('newer', bytes(PAGE, 'newer'))
    await alter('newer', (_, record) => ({ record: `2${record.slice(1)}` }))
    expect((await cache.read(['newer']))[0]).to.include({ status: 'failed' }).and.have.nested.property('error.errno', 'EPROTONOSUPPORT')
    expect((await cache.write([['newer', bytes(PAGE, 'mine')]]))[0]).to.include({ status: 'failed' })
    expect((await bodyOf('newer')).equals(Buffer.from(bytes(PAGE, 'newer')))).to.equal(true)
    await cache.set('older', bytes(PAGE, 'older'))
    const listed: string[] = []
    for await (const { key } of cache.entries()) listed.push(key)
    expect(listed).to.deep.equal(['older'])
    expect(await cache.verify({ drop: true })).to.include({ pages: 1, ok: 1 })
    expect(await cache.delete('newer')).to.equal(false)
    expect(await cache.clear()).to.deep.equal({ deleted: 1 })
    expect((await bodyOf('newer')).equals(Buffer.from(bytes(PAGE, 'newer')))).to.equal(true)
  })

  it('that were copied to another name, or are of another fingerprint, are a miss by identity, and nobody else deletes them', async () => {
    await cache.batchSet(['left', 'right'], [bytes(PAGE, 'left'), bytes(PAGE, 'right')])
    await sdk.send(new CopyObjectCommand({ Bucket, CopySource: encodeURI(`${Bucket}/${keyOf('left')}`), Key: keyOf('right') }))
    const finger = await bench.open({ storageDir, modelName: 'm', fingerprint: 'fp8' })
    const fresh = await bench.open({ storageDir, modelName: 'm' })
    expect(brief(await fresh.read(['left', 'right']))).to.deep.equal(['hit', 'identity'])
    expect(brief(await finger.read(['left', ['left', new Uint8Array(PAGE)]]))).to.deep.equal(['identity', 'identity'])
    for (const [of, key] of [[finger, 'left'], [fresh, 'right']] as const) {
      expect(await of.exists(key)).to.equal(false)
      expect(await of.delete(key)).to.equal(false)
      expect(await of.stat(key)).to.equal(null)
    }
    expect(await finger.clear()).to.deep.equal({ deleted: 0 })
    expect(await finger.set('left', bytes(5, 'theirs'))).to.equal(true)
    expect(brief(await fresh.read(['left']))).to.deep.equal(['identity'])
  })

  it('are verified one by one, and dropped when they are damaged', async () => {
    await cache.batchSet(['good', 'body', 'header'], ['good', 'body', 'header'].map(key => bytes(PAGE, key)))
    await sdk.send(new PutObjectCommand({ Bucket, Key: keyOf('python'), Body: bytes(100, 'python') }))
    await sdk.send(new PutObjectCommand({ Bucket, Key: `${prefixOf(storageDir)}notes.txt`, Body: 'mine' }))
    await alter('body', flip)
    await alter('header', () => ({ record: 'something else' }))
    const other = await bench.open({ storageDir, modelName: 'n' })
    await other.set('theirs', bytes(10, 3))
    const report = { pages: 4, bytes: 3 * PAGE + 100, ok: 1, corrupt: 2, unverified: 1, missing: 0 }
    expect(await cache.verify()).to.deep.equal(report)
    expect(await cache.verify({ drop: true })).to.deep.equal(report)
    const { Contents } = await sdk.send(new ListObjectsV2Command({ Bucket, Prefix: prefixOf(storageDir) }))
    expect(Contents!.map(({ Key }) => Key!.slice(prefixOf(storageDir).length))).to.deep.equal(['good_m_0_1', 'notes.txt', 'python_m_0_1', 'theirs_n_0_1'])
  })
})
