import {
  AbortMultipartUploadCommand, CompleteMultipartUploadCommand, CreateMultipartUploadCommand, GetObjectCommand, HeadObjectCommand, ListMultipartUploadsCommand, PutObjectCommand,
  type S3Client, UploadPartCommand
} from '@aws-sdk/client-s3'
import { expect } from 'chai'
import type { HiCacheNixl } from '../../lib/index.js'
import { bytes, same } from '../support/content.js'
import { describeObjects, objectConfig, objectPlace, prefixOf } from '../support/object-place.js'
import { bounded, until } from '../support/planned-faults.js'
import { s3Front, type S3Front } from '../support/s3-front.js'
import { MIB, workbench } from '../support/workbench.js'

/** Five parts of 5 MiB, the last one shorter. */
const LENGTH = 23_000_001

describeObjects('large pages as objects', () => {
  const bench = workbench('object')
  const page = bytes(LENGTH, 'large')
  let sdk: S3Client
  let Bucket: string
  let front: S3Front
  let cache: HiCacheNixl
  let storageDir: string
  before(() => {
    sdk = objectPlace().gateway.client()
    Bucket = objectPlace().bucket
  })
  beforeEach(async () => {
    front = await s3Front(bench, objectPlace().gateway.endpoint)
    storageDir = await bench.directory()
    cache = await open()
  })
  const open = (): Promise<HiCacheNixl> => bench.open({ storageDir, arenaBytes: 64 * MIB, config: objectConfig(front.endpoint, { crtMinLimit: 6 * MIB }) })
  const keyOf = (key: string): string => `${prefixOf(storageDir)}${key}__0_1`
  const uploads = async (): Promise<number> => (await sdk.send(new ListMultipartUploadsCommand({ Bucket }))).Uploads?.length ?? 0
  const requests = (): string[] => front.requests.map(({ method, query }) => `${method} ${query.split(/[=&]/)[0]!}`.trim()).sort()

  it('go up in parts of 5 MiB and come back in ranges of one version; the SDK reads them as one object', async () => {
    front.requests.length = 0
    expect(await cache.set('large', page)).to.equal(true)
    expect(requests()).to.deep.equal(['HEAD', 'POST uploadId', 'POST uploads', ...Array<string>(5).fill('PUT partNumber')])
    expect(front.requests.filter(({ method }) => method === 'PUT').map(({ bytes }) => bytes).sort((a, b) => a - b)).to.deep.equal([LENGTH - 20 * MIB, ...Array<number>(4).fill(5 * MIB)])
    const got = await sdk.send(new GetObjectCommand({ Bucket, Key: keyOf('large') }))
    expect(got.ETag).to.match(/^"[0-9a-f]{32}-5"$/)
    expect(got.Metadata!['hicache-nixl']).to.match(new RegExp(`^1\\.${LENGTH}\\.`))
    expect(Buffer.from(await got.Body!.transformToByteArray()).equals(page)).to.equal(true)
    expect(await uploads()).to.equal(0)

    front.requests.length = 0
    const target = new Uint8Array(LENGTH)
    expect(await cache.get('large', target)).to.equal(target)
    expect(same(target, page)).to.equal(true)
    const ranges = front.requests.map(({ method, headers }) => ({ method, range: headers['range'], match: headers['if-match'] }))
    expect(ranges).to.have.lengthOf(5)
    expect(ranges.map(({ range }) => range).sort()).to.deep.equal(Array.from({ length: 5 }, (_, i) => `bytes=${i * 5 * MIB}-${Math.min(LENGTH, (i + 1) * 5 * MIB) - 1}`).sort())
    // The first says which version it is, and all others must be of that one.
    expect(ranges.filter(({ match }) => match === got.ETag)).to.have.lengthOf(4)
    expect(same(await (await open()).get('large'), page), 'of a reader who does not know its length').to.equal(true)
    expect(await cache.verify()).to.include({ ok: 1, corrupt: 0 })
  })

  it('below crtMinLimit go in one piece, both ways', async () => {
    const small = bytes(6 * MIB - 1, 'small')
    front.requests.length = 0
    expect(await cache.set('small', small)).to.equal(true)
    expect(same(await cache.get('small', new Uint8Array(small.length)), small)).to.equal(true)
    expect(requests()).to.deep.equal(['GET', 'HEAD', 'PUT'])
    expect((await sdk.send(new HeadObjectCommand({ Bucket, Key: keyOf('small') }))).ETag).to.match(/^"[0-9a-f]{32}"$/)
  })

  it('that are there already are not sent; damaged ones are, and those that another wrote in its own parts are read', async () => {
    await cache.set('large', page)
    const { Metadata } = await sdk.send(new HeadObjectCommand({ Bucket, Key: keyOf('large') }))
    const other = await open()
    front.requests.length = 0
    expect((await other.write([['large', page]]))[0]).to.include({ status: 'already-there' })
    expect(requests()).to.deep.equal(['HEAD'])

    // The same header over other bytes.
    const altered = Buffer.from(page)
    altered[20 * MIB]! ^= 1
    await sdk.send(new PutObjectCommand({ Bucket, Key: keyOf('large'), Body: altered, Metadata: Metadata! }))
    expect((await cache.read([['large', new Uint8Array(LENGTH)]]))[0]).to.include({ status: 'miss', reason: 'corrupt' })
    expect((await cache.write([['large', page]]))[0]).to.include({ status: 'stored' })
    expect(same(await cache.get('large'), page)).to.equal(true)

    // Two parts of the SDK's.
    const Key = keyOf('large')
    const { UploadId } = await sdk.send(new CreateMultipartUploadCommand({ Bucket, Key, Metadata: Metadata! }))
    const Parts = await Promise.all([page.subarray(0, 11 * MIB), page.subarray(11 * MIB)].map(async (Body, i) => {
      const { ETag } = await sdk.send(new UploadPartCommand({ Bucket, Key, UploadId, PartNumber: i + 1, Body }))
      return { ETag: ETag!, PartNumber: i + 1 }
    }))
    await sdk.send(new CompleteMultipartUploadCommand({ Bucket, Key, UploadId, MultipartUpload: { Parts } }))
    expect((await cache.read(['large']))[0]).to.include({ status: 'hit', verified: true })
  })

  for (const how of ['signal', 'deadline', 'close'] as const) {
    it(`leave no upload behind when they are given up in the midst of their parts: ${how}`, async () => {
      const of = await open()
      const letGo = front.hold('large', 'PUT')
      const controller = new AbortController()
      const writing = of.write([['large', page]], how === 'deadline' ? { timeoutMs: 1500 } : { signal: controller.signal })
      await until(async () => front.held > 0 && await uploads() === 1, 'parts are under way')
      if (how === 'signal') controller.abort()
      if (how === 'close') await bounded(of.close({ graceMs: 0 }), 'close()')
      const [outcome] = await bounded(writing, 'the write')
      expect(outcome!.ok).to.equal(false)
      expect(outcome!.status).to.be.oneOf({ signal: ['cancelled'], deadline: ['timeout', 'rejected'], close: ['cancelled'] }[how])
      if (how !== 'close') {
        await until(async () => await uploads() === 0, 'the upload is ended')
        await until(() => of.stats()['arena_used_bytes'] === 0, 'the arena has its memory back')
      }
      letGo()
      expect(await (await open()).exists('large')).to.equal(false)
    })
  }

  it('are not stored, with the server\'s words, when somebody else has ended their upload', async () => {
    const letGo = front.hold('large', 'POST', 'uploadId')
    const writing = cache.write([['large', page]])
    await until(() => front.held > 0, 'all parts are there')
    for (const { Key, UploadId } of (await sdk.send(new ListMultipartUploadsCommand({ Bucket }))).Uploads!) await sdk.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId }))
    letGo()
    const [outcome] = await bounded(writing, 'the write')
    // S3 says 404 NoSuchUpload; this server that the completion was under way already, however often it is asked.
    expect(outcome!.ok ? 'stored' : outcome!.error.message).to.match(/NoSuchUpload|InternalError: This multipart completion is already in progress/)
    expect(await cache.exists('large')).to.equal(false)
    expect(await uploads()).to.equal(0)
    // A server that cannot is left in peace for a moment.
    await until(() => cache.set('large', page), 'it is stored')
  })

  it('gc() leaves uploads alone that are under way', async () => {
    const { UploadId } = await sdk.send(new CreateMultipartUploadCommand({ Bucket, Key: keyOf('other') }))
    expect(await cache.gc()).to.include({ leftovers: 0 })
    expect(await uploads()).to.equal(1)
    await sdk.send(new AbortMultipartUploadCommand({ Bucket, Key: keyOf('other'), UploadId }))
  })
})
