import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import {
  AbortMultipartUploadCommand, CompleteMultipartUploadCommand, CreateMultipartUploadCommand, DeleteObjectCommand, DeleteObjectsCommand, GetObjectCommand,
  type GetObjectCommandOutput, HeadBucketCommand, HeadObjectCommand, ListMultipartUploadsCommand, ListObjectsV2Command, PutObjectCommand, type S3Client,
  type S3ClientConfig, UploadPartCommand
} from '@aws-sdk/client-s3'
import { expect } from 'chai'
import { refusal, sdkClient, type S3Account } from '../support/aws-sdk.js'
import { fakeS3, type FakeS3 } from '../support/fake-s3.js'
import { until } from '../support/planned-faults.js'
import { MIB, workbench } from '../support/workbench.js'

const Bucket = 'pages'

// The fake is no proof of anything by itself; this is what makes it one of what goes wrong: Amazon's own client gets on with it, and notices its faults.
describe('the fake S3 server, by the AWS SDK', () => {
  const bench = workbench()
  let fake: FakeS3

  beforeEach(async () => { fake = await fakeS3(bench) })

  /** It tries once: what a request comes to is looked at, not what retries make of it. */
  function client(account: Partial<S3Account> = {}, config: S3ClientConfig = {}): S3Client {
    const { endpoint, region, accessKey, secretKey } = fake
    const made = sdkClient({ endpoint, region, accessKey, secretKey, ...account }, { maxAttempts: 1, ...config })
    bench.atEnd(() => { made.destroy() })
    return made
  }

  const bytesOf = async ({ Body: body }: GetObjectCommandOutput): Promise<Buffer> => Buffer.from(await body!.transformToByteArray())
  /** The error of Node or of the SDK that a command ends with when no sound answer came. */
  const failure = (work: Promise<unknown>): Promise<Error> => work.then(() => { throw new Error('It succeeded.') }, (error: unknown) => error as Error)

  describe('sound', () => {
    it('keeps objects with their metadata, whole and in ranges', async () => {
      const s3 = client()
      const Body = randomBytes(100_000)
      for (const Key of ['plain', 'a/b c+d%20é&<>\'"~*()', '日本']) {
        const { ETag } = await s3.send(new PutObjectCommand({ Bucket, Key, Body, Metadata: { 'hicache-nixl': 'v=1, x' } }))
        const got = await s3.send(new GetObjectCommand({ Bucket, Key }))
        expect((await bytesOf(got)).equals(Body)).to.be.true
        expect(got.Metadata).to.deep.equal({ 'hicache-nixl': 'v=1, x' })
        const part = await s3.send(new GetObjectCommand({ Bucket, Key, Range: 'bytes=1000-1999', IfMatch: ETag }))
        expect((await bytesOf(part)).equals(Body.subarray(1000, 2000))).to.be.true
        expect(part.ContentRange).to.equal('bytes 1000-1999/100000')
        expect(await s3.send(new HeadObjectCommand({ Bucket, Key }))).to.include({ ETag, ContentLength: 100_000 })
        expect(fake.bucket.objects.has(Key), Key).to.be.true
        await s3.send(new DeleteObjectCommand({ Bucket, Key }))
        expect((await refusal(s3.send(new HeadObjectCommand({ Bucket, Key })))).status).to.equal(404)
        expect(await refusal(s3.send(new GetObjectCommand({ Bucket, Key })))).to.deep.equal({ status: 404, code: 'NoSuchKey' })
      }
      await s3.send(new PutObjectCommand({ Bucket, Key: 'short', Body: 'abc' }))
      expect(await refusal(s3.send(new GetObjectCommand({ Bucket, Key: 'short', Range: 'bytes=3-' })))).to.deep.equal({ status: 416, code: 'InvalidRange' })
      expect(await refusal(s3.send(new GetObjectCommand({ Bucket, Key: 'short', IfMatch: '"other"' })))).to.deep.equal({ status: 412, code: 'PreconditionFailed' })
      await s3.send(new HeadBucketCommand({ Bucket }))
      expect(await refusal(s3.send(new GetObjectCommand({ Bucket: 'other', Key: 'short' })))).to.deep.equal({ status: 404, code: 'NoSuchBucket' })
    })

    it('writes on condition, or cannot', async () => {
      const s3 = client()
      const put = (Body: string, condition: object): Promise<unknown> => s3.send(new PutObjectCommand({ Bucket, Key: 'k', Body, ...condition }))
      await put('one', { IfNoneMatch: '*' })
      expect(await refusal(put('two', { IfNoneMatch: '*' }))).to.deep.equal({ status: 412, code: 'PreconditionFailed' })
      expect(await refusal(put('two', { IfMatch: '"other"' }))).to.deep.equal({ status: 412, code: 'PreconditionFailed' })
      expect(fake.bucket.objects.get('k')!.body.toString()).to.equal('one')
      await put('two', { IfMatch: fake.bucket.objects.get('k')!.etag })
      fake.bucket.conditionalWrites = 'refused'
      expect(await refusal(put('three', { IfNoneMatch: '*' }))).to.deep.equal({ status: 501, code: 'NotImplemented' })
      expect(fake.bucket.objects.get('k')!.body.toString()).to.equal('two')
      fake.bucket.conditionalWrites = 'ignored'
      await put('four', { IfNoneMatch: '*' })
      expect(fake.bucket.objects.get('k')!.body.toString()).to.equal('four')
    })

    it('lists in pages, with prefixes, delimiters and encoded keys', async () => {
      const s3 = client()
      const keys = Array.from({ length: 25 }, (_, i) => `dir${i % 3}/key ${String(i).padStart(2, '0')}+é`)
      for (const key of [...keys].reverse()) fake.bucket.put(key, Buffer.from(key))
      const seen: string[] = []
      let token: string | undefined
      let pages = 0
      do {
        const page = await s3.send(new ListObjectsV2Command({ Bucket, MaxKeys: 10, ContinuationToken: token }))
        seen.push(...(page.Contents ?? []).map(({ Key }) => Key!))
        token = page.NextContinuationToken
        expect(page.IsTruncated).to.equal(token !== undefined)
        pages++
      } while (token !== undefined)
      expect(pages).to.equal(3)
      expect(seen).to.deep.equal([...keys].sort())
      expect((await s3.send(new ListObjectsV2Command({ Bucket, Prefix: 'dir1/' }))).KeyCount).to.equal(8)
      expect((await s3.send(new ListObjectsV2Command({ Bucket, Prefix: 'dir1/', StartAfter: seen[9] }))).KeyCount).to.equal(7)
      const folders = await s3.send(new ListObjectsV2Command({ Bucket, Delimiter: '/', MaxKeys: 2 }))
      expect(folders.CommonPrefixes).to.deep.equal([{ Prefix: 'dir0/' }, { Prefix: 'dir1/' }])
      const rest = await s3.send(new ListObjectsV2Command({ Bucket, Delimiter: '/', ContinuationToken: folders.NextContinuationToken }))
      expect(rest.CommonPrefixes).to.deep.equal([{ Prefix: 'dir2/' }])
      const encoded = await s3.send(new ListObjectsV2Command({ Bucket, EncodingType: 'url', MaxKeys: 1 }))
      expect(encoded.Contents![0]!.Key).to.equal('dir0/key+00%2B%C3%A9')
    })

    it('deletes many, leaves what is protected, or cannot', async () => {
      const s3 = client()
      for (const key of ['a', 'b&<c', 'd']) fake.bucket.put(key, Buffer.from(key))
      fake.bucket.protectedKeys.add('d')
      const Delete = { Objects: ['a', 'b&<c', 'd', 'absent'].map(Key => ({ Key })) }
      const { Deleted, Errors } = await s3.send(new DeleteObjectsCommand({ Bucket, Delete }))
      expect(Deleted!.map(({ Key }) => Key)).to.deep.equal(['a', 'b&<c', 'absent'])
      expect(Errors).to.have.lengthOf(1)
      expect(Errors![0]).to.include({ Key: 'd', Code: 'AccessDenied' })
      expect([...fake.bucket.objects.keys()]).to.deep.equal(['d'])
      fake.bucket.batchDeletes = false
      expect(await refusal(s3.send(new DeleteObjectsCommand({ Bucket, Delete })))).to.deep.equal({ status: 501, code: 'NotImplemented' })
    })

    it('puts parts together, and forgets them when they are given up', async () => {
      const s3 = client()
      const parts = [randomBytes(5 * MIB), randomBytes(5 * MIB), randomBytes(1234)]
      const begin = async (): Promise<{ Bucket: string; Key: string; UploadId: string }> => {
        const { UploadId } = await s3.send(new CreateMultipartUploadCommand({ Bucket, Key: 'large', Metadata: { a: 'b' } }))
        return { Bucket, Key: 'large', UploadId: UploadId! }
      }
      const upload = await begin()
      const sent = await Promise.all(parts.map((Body, index) => s3.send(new UploadPartCommand({ ...upload, PartNumber: index + 1, Body }))))
      const Parts = sent.map(({ ETag }, index) => ({ ETag, PartNumber: index + 1 }))
      const complete = (listed: typeof Parts): Promise<unknown> => s3.send(new CompleteMultipartUploadCommand({ ...upload, MultipartUpload: { Parts: listed } }))
      expect(await refusal(complete([{ ...Parts[0]!, ETag: '"other"' }]))).to.deep.equal({ status: 400, code: 'InvalidPart' })
      expect(await refusal(complete([Parts[1]!, Parts[0]!]))).to.deep.equal({ status: 400, code: 'InvalidPartOrder' })
      await complete(Parts)
      const got = await s3.send(new GetObjectCommand({ Bucket, Key: 'large' }))
      expect((await bytesOf(got)).equals(Buffer.concat(parts))).to.be.true
      expect(got).to.deep.include({ Metadata: { a: 'b' } })
      expect(got.ETag).to.match(/-3"$/)

      const small = await begin()
      const tiny = await Promise.all([1, 2].map(PartNumber => s3.send(new UploadPartCommand({ ...small, PartNumber, Body: 'tiny' }))))
      const MultipartUpload = { Parts: tiny.map(({ ETag }, index) => ({ ETag, PartNumber: index + 1 })) }
      expect(await refusal(s3.send(new CompleteMultipartUploadCommand({ ...small, MultipartUpload })))).to.deep.equal({ status: 400, code: 'EntityTooSmall' })
      expect((await s3.send(new ListMultipartUploadsCommand({ Bucket }))).Uploads).to.have.lengthOf(1)
      await s3.send(new AbortMultipartUploadCommand(small))
      expect(fake.bucket.uploads).to.be.empty
      expect(await refusal(s3.send(new AbortMultipartUploadCommand(small)))).to.deep.equal({ status: 404, code: 'NoSuchUpload' })
    })

    it('takes a bucket from the host, too', async () => {
      // Node does not resolve the name: the Host header is what is signed and looked at.
      const s3 = client()
      s3.middlewareStack.add(next => async args => {
        const { request } = args as { request: { headers: Record<string, string>; path: string } }
        Object.assign(request, { path: request.path.replace('/pages/', '/') })
        request.headers['host'] = `pages.s3.localhost:${fake.port}`
        return await next(args)
      }, { step: 'build', priority: 'low' })
      await s3.send(new PutObjectCommand({ Bucket, Key: 'by/host', Body: 'x' }))
      expect([...fake.bucket.objects.keys()]).to.deep.equal(['by/host'])
      expect(fake.requests[0]).to.include({ url: '/by/host?x-id=PutObject', key: 'by/host' })
    })
  })

  describe('strict', () => {
    const put = (s3: S3Client): Promise<unknown> => s3.send(new PutObjectCommand({ Bucket, Key: 'k', Body: 'bytes' }))

    it('refuses wrong and unknown keys, another region, tokens that are wrong or expired', async () => {
      fake.keys.set('TEMPORARY', { secretKey: 'secret', sessionToken: 'token' })
      await put(client({ accessKey: 'TEMPORARY', secretKey: 'secret', sessionToken: 'token' }))
      expect(await refusal(put(client({ secretKey: 'wrong' })))).to.deep.equal({ status: 403, code: 'SignatureDoesNotMatch' })
      expect(await refusal(put(client({ accessKey: 'NOBODY' })))).to.deep.equal({ status: 403, code: 'InvalidAccessKeyId' })
      expect(await refusal(put(client({ region: 'eu-west-1' })))).to.deep.equal({ status: 400, code: 'AuthorizationHeaderMalformed' })
      const temporary = { accessKey: 'TEMPORARY', secretKey: 'secret' }
      expect(await refusal(put(client({ ...temporary, sessionToken: 'other' })))).to.deep.equal({ status: 400, code: 'InvalidToken' })
      expect(await refusal(put(client(temporary)))).to.deep.equal({ status: 400, code: 'InvalidToken' })
      fake.keys.set('TEMPORARY', { secretKey: 'secret', sessionToken: 'token', expired: true })
      expect(await refusal(put(client({ ...temporary, sessionToken: 'token' })))).to.deep.equal({ status: 400, code: 'ExpiredToken' })
    })

    it('refuses what was signed by another clock', async () => {
      fake.clockSkewMs = 16 * 60_000
      // The SDK takes the server's clock from an answer and signs the next request by it: one request, one client.
      expect(await refusal(put(client()))).to.deep.equal({ status: 403, code: 'RequestTimeTooSkewed' })
      fake.clockSkewMs = -14 * 60_000
      await put(client())
    })

    it('refuses a body that was changed on the way, by each digest', async () => {
      for (const digest of [{ ChecksumCRC64NVME: 'AAAAAAAAAAA=' }, { ChecksumCRC32: 'AAAAAA==' }, { ContentMD5: 'AAAAAAAAAAAAAAAAAAAAAA==' }]) {
        const s3 = client()
        expect(await refusal(s3.send(new PutObjectCommand({ Bucket, Key: 'k', Body: 'bytes', ...digest })))).to.deep.equal({ status: 400, code: 'BadDigest' })
      }
      expect(fake.bucket.objects).to.be.empty
      // Bytes changed after signing: the payload's SHA-256 no longer holds.
      const s3 = client()
      s3.middlewareStack.add(next => async args => {
        Object.assign((args as { request: object }).request, { body: 'other' })
        return await next(args)
      }, { step: 'finalizeRequest', priority: 'low' })
      expect(await refusal(put(s3))).to.deep.equal({ status: 400, code: 'XAmzContentSHA256Mismatch' })
    })

    it('agrees with the SDK on every checksum, and gives its own of what was put without one', async () => {
      for (const ChecksumAlgorithm of ['CRC32', 'CRC64NVME', 'SHA1', 'SHA256'] as const) {
        await client().send(new PutObjectCommand({ Bucket, Key: ChecksumAlgorithm, Body: 'bytes', ChecksumAlgorithm }))
      }
      await put(client())
      for (const Key of [...fake.bucket.objects.keys()]) {
        const got = await client().send(new GetObjectCommand({ Bucket, Key, ChecksumMode: 'ENABLED' }))
        expect((await bytesOf(got)).toString()).to.equal('bytes')
        expect(got.ChecksumCRC64NVME, Key).to.be.a('string')
      }
    })
  })

  describe('faulty', () => {
    const Body = randomBytes(100_000)
    const put = (Key: string, s3 = client()): Promise<unknown> => s3.send(new PutObjectCommand({ Bucket, Key, Body }))
    const get = async (Key: string, s3 = client()): Promise<Buffer> => await bytesOf(await s3.send(new GetObjectCommand({ Bucket, Key })))

    beforeEach(() => { fake.bucket.put('page', Body) })

    it('answers with errors as often as planned, where planned', async () => {
      const slow = fake.plan({ kind: 'answer', status: 503, retryAfter: '2', method: 'PUT', match: 'some', after: 1, times: 2 })
      await put('some-1')
      for (const key of ['some-2', 'some-3']) expect(await refusal(put(key))).to.deep.equal({ status: 503, code: 'SlowDown' })
      await put('some-4')
      await put('other')
      expect(slow.end()).to.equal(2)
      expect([...fake.bucket.objects.keys()]).to.deep.equal(['page', 'some-1', 'some-4', 'other'])
      expect(fake.requests.map(({ status }) => status)).to.deep.equal([200, 503, 503, 200, 200])
      fake.plan({ kind: 'answer', status: 500, early: true })
      expect(await refusal(put('early'))).to.deep.equal({ status: 500, code: 'InternalError' })
      fake.plan({ kind: 'answer', status: 429 })
      expect((await refusal(put('often'))).status).to.equal(429)
    })

    it('is tried again by a client that does so', async () => {
      fake.plan({ kind: 'answer', status: 500, times: 2 })
      await put('page-2', client({}, { maxAttempts: 3 }))
      expect(fake.count('PUT', 'page-2')).to.equal(3)
      fake.plan({ kind: 'reset', when: 'answer', method: 'GET' })
      await failure(get('page'))
      expect(await get('page')).to.deep.equal(Body)
    })

    it('resets the connection before the answer, in the midst of either body, and after the deed', async () => {
      for (const when of ['before', 'request', 'acknowledgement'] as const) {
        const planned = fake.plan({ kind: 'reset', when, method: 'PUT' })
        expect(await failure(put(when)), when).to.match(/ECONNRESET|EPIPE|socket hang up|aborted/)
        expect(planned.end(), when).to.equal(1)
        expect(fake.requests.at(-1)).to.include({ outcome: 'cut', status: 0 })
      }
      expect([...fake.bucket.objects.keys()]).to.deep.equal(['page', 'acknowledgement'])
      fake.plan({ kind: 'reset', when: 'answer', bytes: 70_000 })
      const { Body: stream } = await client().send(new GetObjectCommand({ Bucket, Key: 'page' }))
      let received = 0
      expect(await failure((async () => { for await (const chunk of stream as AsyncIterable<Buffer>) received += chunk.length })())).to.match(/ECONNRESET|aborted/)
      expect(received).to.equal(70_000)
    })

    it('sends less than it says, and other bytes than it has', async () => {
      fake.plan({ kind: 'short', bytes: 99_999 })
      expect(await failure(get('page'))).to.match(/aborted|ECONNRESET/)
      fake.plan({ kind: 'flip', at: 5 })
      const wrong = await get('page')
      expect(wrong).to.have.lengthOf(Body.length)
      expect(wrong.findIndex((byte, index) => byte !== Body[index])).to.equal(5)
      expect(wrong.subarray(6).equals(Body.subarray(6))).to.be.true
      fake.plan({ kind: 'flip' })
      const checked = client({}, { responseChecksumValidation: 'WHEN_SUPPORTED' })
      expect(await failure(checked.send(new GetObjectCommand({ Bucket, Key: 'page' })).then(bytesOf))).to.match(/Checksum mismatch/)
      fake.plan({ kind: 'headers', headers: { etag: '"wrong"' } })
      expect((await client().send(new HeadObjectCommand({ Bucket, Key: 'page' }))).ETag).to.equal('"wrong"')
    })

    it('keeps answers and requests back until it is told', async () => {
      for (const fault of [{ when: 'answer', method: 'GET' }, { when: 'body', method: 'GET' }, { when: 'request', method: 'PUT' }] as const) {
        const held = fake.plan({ kind: 'hold', ...fault })
        let over = false
        const work = (fault.method === 'GET' ? get('page') : put('held')).finally(() => { over = true })
        await held.reached
        // Another request goes all the way in the meantime.
        await put('meanwhile')
        expect(over, fault.when).to.be.false
        held.release()
        await work
      }
      expect(fake.bucket.objects.get('held')!.body.equals(Body)).to.be.true
    })

    it('notices that a client leaves', async () => {
      const held = fake.plan({ kind: 'hold', when: 'answer' })
      const abort = new AbortController()
      const work = client().send(new GetObjectCommand({ Bucket, Key: 'page' }), { abortSignal: abort.signal })
      await held.reached
      expect(fake.connections).to.equal(1)
      abort.abort()
      expect((await failure(work)).name).to.equal('AbortError')
      await until(() => fake.connections === 0, 'the end of the connection')
      expect(fake.requests[0]!.outcome).to.equal('left')
    })

    it('redirects', async () => {
      const other = await fakeS3(bench)
      fake.plan({ kind: 'redirect', status: 307, endpoint: other.endpoint })
      expect(await refusal(put('page-2'))).to.deep.equal({ status: 307, code: 'TemporaryRedirect' })
      fake.plan({ kind: 'redirect', status: 301, endpoint: other.endpoint, region: 'eu-west-1' })
      expect(await refusal(put('page-2'))).to.deep.equal({ status: 301, code: 'PermanentRedirect' })
      expect(other.requests).to.be.empty
      // As it stands on the wire.
      fake.plan({ kind: 'redirect', status: 307, endpoint: 'http://elsewhere:1234' })
      const [answer] = await once(request(`${fake.endpoint}/pages/a%20b?x-id=1`).end(), 'response') as [IncomingMessage]
      answer.resume()
      expect(answer.headers.location).to.equal('http://elsewhere:1234/pages/a%20b?x-id=1')
    })

    it('fails to complete an upload with status 200', async () => {
      const s3 = client()
      const { UploadId } = await s3.send(new CreateMultipartUploadCommand({ Bucket, Key: 'large' }))
      const upload = { Bucket, Key: 'large', UploadId }
      const { ETag } = await s3.send(new UploadPartCommand({ ...upload, PartNumber: 1, Body: 'part' }))
      fake.plan({ kind: 'answer', status: 200, code: 'InternalError', method: 'POST', query: 'uploadId' })
      const complete = new CompleteMultipartUploadCommand({ ...upload, MultipartUpload: { Parts: [{ ETag, PartNumber: 1 }] } })
      expect((await refusal(s3.send(complete))).code).to.equal('InternalError')
      expect(fake.bucket.objects.has('large')).to.be.false
      await s3.send(complete)
      expect(fake.bucket.objects.has('large')).to.be.true
    })

    it('is not there for a while, and comes back where it was', async () => {
      const { port } = fake
      await put('before')
      await fake.down()
      expect(fake.connections).to.equal(0)
      expect(await failure(put('meanwhile'))).to.match(/ECONNREFUSED/)
      await fake.up()
      expect(fake.port).to.equal(port)
      await put('after')
      expect([...fake.bucket.objects.keys()]).to.deep.equal(['page', 'before', 'after'])
    })
  })
})
