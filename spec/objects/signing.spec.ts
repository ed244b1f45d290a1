import { createHash, randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import {
  CompleteMultipartUploadCommand, DeleteObjectCommand, DeleteObjectsCommand, GetObjectCommand, HeadObjectCommand, ListObjectsV2Command, PutObjectCommand,
  S3Client, type S3ClientConfig, UploadPartCommand
} from '@aws-sdk/client-s3'
import { expect } from 'chai'
import { loadAddon } from '../../lib/transfer/load-addon.js'
import type { NativeObjects, ObjectClient } from '../../lib/transfer/native-binding.js'
import type { S3Account } from '../support/aws-sdk.js'
import { describeRadosgw } from '../support/ceph.js'
import { fakeS3 } from '../support/fake-s3.js'
import { workbench } from '../support/workbench.js'

type Signed = Parameters<NativeObjects['sign']>[0]

const objects = (): NativeObjects => loadAddon().objects
const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')
const signatureOf = (authorization: string): string => /, ?Signature=([0-9a-f]{64})$/.exec(authorization)![1]!
const signedHeadersOf = (authorization: string): string[] => /SignedHeaders=([^,]+)/.exec(authorization)![1]!.split(';')

/** Keys that have every kind of character in them, and how S3 wants them in a path. */
const KEYS = [
  'plain', 'a/b/c', 'a//b', 'with space', 'plus+plus', 'per%20cent', 'é/日本/🗝', '!$&\'()*,;=:@', '~-._', '"<>[]{}|\\^`', '?question#hash', 'trailing/', 'dots/.hidden/a..b'
]

describe('signing', () => {
  // Amazon's aws-sig-v4-test-suite: requests of an imaginary service, and the signatures that they must get.
  describe('the test suite of AWS', () => {
    const credentials = { accessKey: 'AKIDEXAMPLE', secretKey: 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY', sessionToken: '' }
    const sign = (method: string, target: string, headers: Record<string, string> = {}, body = ''): ReturnType<NativeObjects['sign']> => objects().sign({
      method, url: `https://example.amazonaws.com${target}`, headers: { 'Host': 'example.amazonaws.com', 'X-Amz-Date': '20150830T123600Z', ...headers },
      payloadHash: sha256(body), region: 'us-east-1', service: 'service', date: '20150830T123600Z', credentials
    })
    const unreserved = '-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
    const token = 'AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQ' +
      'rmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8F' +
      'DrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=='
    const form = { 'Content-Type': 'application/x-www-form-urlencoded' }

    const vectors: readonly [name: string, signature: string, ...request: Parameters<typeof sign>][] = [
      ['get-vanilla', '5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31', 'GET', '/'],
      ['get-vanilla-query-order-key-case', 'b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500', 'GET', '/?Param2=value2&Param1=value1'],
      ['get-vanilla-query-order-key', 'eedbc4e291e521cf13422ffca22be7d2eb8146eecf653089df300a15b2382bd1', 'GET', '/?Param1=value2&Param1=Value1'],
      ['get-vanilla-query-order-value', '5772eed61e12b33fae39ee5e7012498b51d56abc0abb7c60486157bd471c4694', 'GET', '/?Param1=value2&Param1=value1'],
      ['get-vanilla-empty-query-key', 'a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb', 'GET', '/?Param1=value1'],
      ['get-vanilla-query-unreserved', '9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197', 'GET', `/?${unreserved}=${unreserved}`],
      ['get-vanilla-utf8-query', '2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04', 'GET', '/?%E1%88%B4=bar'],
      ['get-unreserved', '07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f', 'GET', `/${unreserved}`],
      ['get-utf8', '8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85', 'GET', '/%E1%88%B4'],
      ['get-space', '652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741', 'GET', '/example%20space/'],
      // Three headers of one name, which an object of JavaScript has as three spellings.
      ['get-header-key-duplicate', 'c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea', 'GET', '/', {
        'My-Header1': 'value2', 'my-header1': 'value2', 'MY-HEADER1': 'value1'
      }],
      ['get-header-value-order', '08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01', 'GET', '/', {
        'My-Header1': 'value4', 'my-header1': 'value1', 'MY-HEADER1': 'value3', 'mY-header1': 'value2'
      }],
      ['get-header-value-trim', 'acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736', 'GET', '/', {
        'My-Header1': ' value1', 'My-Header2': ' "a   b   c"'
      }],
      ['post-vanilla', '5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b', 'POST', '/'],
      ['post-vanilla-query', '28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11', 'POST', '/?Param1=value1'],
      ['post-header-key-sort', 'c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c', 'POST', '/', { 'My-Header1': 'value1' }],
      ['post-header-value-case', 'cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d', 'POST', '/', { 'My-Header1': 'VALUE1' }],
      ['post-x-www-form-urlencoded', 'ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a', 'POST', '/', form, 'Param1=value1'],
      ['post-sts-header-before', '85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead', 'POST', '/', { 'X-Amz-Security-Token': token }]
    ]
    for (const [name, signature, ...request] of vectors) it(name, () => { expect(signatureOf(sign(...request).authorization)).to.equal(signature) })

    it('the whole of get-vanilla: what is signed, and what says so', () => {
      const { canonicalRequest, stringToSign, authorization } = sign('GET', '/')
      expect(canonicalRequest).to.equal(['GET', '/', '', 'host:example.amazonaws.com', 'x-amz-date:20150830T123600Z', '', 'host;x-amz-date', sha256('')].join('\n'))
      expect(stringToSign).to.equal([
        'AWS4-HMAC-SHA256', '20150830T123600Z', '20150830/us-east-1/service/aws4_request', 'bb579772317eb040ac9ed261061d46c1f17a8133879d6129b6e1c25292927e63'
      ].join('\n'))
      expect(authorization).to.equal('AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, ' +
        'Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31')
    })
  })

  // "Examples: Signature Calculations" of the S3 API reference.
  describe('the examples of S3', () => {
    const date = '20130524T000000Z'
    const payload = 'Welcome to Amazon S3.'
    const examples: readonly [name: string, signature: string, method: string, target: string, headers: Record<string, string>, body: string][] = [
      ['GET object', 'f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41', 'GET', '/test.txt', { Range: 'bytes=0-9' }, ''],
      ['PUT object', '98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd', 'PUT', '/test%24file.text', {
        'Date': 'Fri, 24 May 2013 00:00:00 GMT', 'x-amz-storage-class': 'REDUCED_REDUNDANCY'
      }, payload],
      ['GET bucket lifecycle', 'fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543', 'GET', '/?lifecycle', {}, ''],
      ['GET bucket (list objects)', '34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7', 'GET', '/?max-keys=2&prefix=J', {}, '']
    ]
    for (const [name, signature, method, target, headers, body] of examples) {
      it(name, () => {
        const { authorization } = objects().sign({
          method, url: `https://examplebucket.s3.amazonaws.com${target}`, payloadHash: sha256(body), region: 'us-east-1', service: 's3', date,
          headers: { 'Host': 'examplebucket.s3.amazonaws.com', 'x-amz-date': date, 'x-amz-content-sha256': sha256(body), ...headers },
          credentials: { accessKey: 'AKIAIOSFODNN7EXAMPLE', secretKey: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY', sessionToken: '' }
        })
        expect(signatureOf(authorization)).to.equal(signature)
      })
    }
  })

  it('encodes paths once more for services that want it', () => {
    const request = {
      method: 'GET', url: 'https://host/a%20b/c', headers: { 'host': 'host', 'x-amz-date': '20150830T123600Z' }, payloadHash: sha256(''), region: 'r', service: 's',
      date: '20150830T123600Z', credentials: { accessKey: 'A', secretKey: 'S', sessionToken: '' }
    }
    expect(objects().sign(request).canonicalRequest.split('\n')[1]).to.equal('/a%20b/c')
    expect(objects().sign({ ...request, doubleEncode: true }).canonicalRequest.split('\n')[1]).to.equal('/a%2520b/c')
  })

  describe('as the AWS SDK does it', () => {
    const bench = workbench()
    const keys = { accessKey: 'AKIAIOSFODNN7EXAMPLE', secretKey: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY', sessionToken: '' }

    interface Sent {
      method: string; protocol: string; hostname: string; path: string; query: Record<string, string | string[] | null>; headers: Record<string, string>
    }

    /** What the SDK would send for a command. */
    async function sent(command: object, config: S3ClientConfig = {}): Promise<Sent> {
      let caught: Sent | undefined
      const client = new S3Client({
        region: 'eu-central-1', credentials: { accessKeyId: keys.accessKey, secretAccessKey: keys.secretKey }, endpoint: 'http://127.0.0.1:9000',
        forcePathStyle: true, maxAttempts: 1,
        requestChecksumCalculation: 'WHEN_REQUIRED', responseChecksumValidation: 'WHEN_REQUIRED', ...config,
        requestHandler: { handle: (request: unknown) => {
          caught = request as Sent
          return Promise.resolve({ response: { statusCode: 500, headers: {}, body: Readable.from([]) } })
        } } as never
      })
      bench.atEnd(() => { client.destroy() })
      await client.send(command as never).catch(() => undefined)
      return caught!
    }

    /** The same request for us, whose Authorization is to be the same. */
    function ours(request: Sent, credentials = keys): { readonly mine: string; readonly theirs: string } {
      const encode = (text: string): string => encodeURIComponent(text).replace(/[!'()*]/g, character => `%${character.charCodeAt(0).toString(16).toUpperCase()}`)
      const query = Object.entries(request.query).flatMap(([name, value]) => [value ?? ''].flat().map(one => `${encode(name)}=${encode(one)}`)).join('&')
      const headers = new Map(Object.entries(request.headers).map(([name, value]) => [name.toLowerCase(), value]))
      const theirs = headers.get('authorization')!
      const signed: Signed = {
        method: request.method, url: `${request.protocol}//${headers.get('host')!}${request.path}${query === '' ? '' : `?${query}`}`,
        headers: Object.fromEntries(signedHeadersOf(theirs).map(name => [name, headers.get(name)!])), payloadHash: headers.get('x-amz-content-sha256')!,
        region: 'eu-central-1', service: 's3', date: headers.get('x-amz-date')!, credentials
      }
      return { mine: objects().sign(signed).authorization, theirs }
    }

    const bucket = { Bucket: 'examplebucket' }
    for (const [what, command] of Object.entries({
      'PUT with metadata and conditions': (Key: string) => new PutObjectCommand({
        ...bucket, Key, Body: randomBytes(1000), Metadata: { 'hicache-nixl': 'a  b=c;d' }, IfNoneMatch: '*', ContentType: 'application/octet-stream'
      }),
      'PUT with a checksum': (Key: string) => new PutObjectCommand({ ...bucket, Key, Body: 'bytes', ChecksumAlgorithm: 'CRC64NVME' }),
      'GET of a range': (Key: string) => new GetObjectCommand({ ...bucket, Key, Range: 'bytes=0-99', IfMatch: '"etag"', ChecksumMode: 'ENABLED' }),
      'HEAD': (Key: string) => new HeadObjectCommand({ ...bucket, Key }),
      'DELETE': (Key: string) => new DeleteObjectCommand({ ...bucket, Key }),
      'a part': (Key: string) => new UploadPartCommand({ ...bucket, Key, UploadId: 'id+/=', PartNumber: 7, Body: 'part' }),
      'the end of parts': (Key: string) => new CompleteMultipartUploadCommand({
        ...bucket, Key, UploadId: 'id', MultipartUpload: { Parts: [{ ETag: '"e"', PartNumber: 1 }] }
      }),
      'a list': (Key: string) => new ListObjectsV2Command({ ...bucket, Prefix: Key, StartAfter: Key, ContinuationToken: `${Key}=`, MaxKeys: 10, EncodingType: 'url' }),
      'a delete of many': (Key: string) => new DeleteObjectsCommand({ ...bucket, Delete: { Objects: [{ Key }] } })
    })) {
      it(what, async () => {
        for (const key of KEYS) {
          const { mine, theirs } = ours(await sent(command(key)))
          expect(mine, key).to.equal(theirs)
        }
      })
    }

    it('with a session token, a bucket in the host, and a port that is the scheme\'s own', async () => {
      const temporary = { ...keys, sessionToken: 'token/+=' }
      const config: S3ClientConfig = {
        endpoint: 'https://s3.localhost', forcePathStyle: false,
        credentials: { accessKeyId: keys.accessKey, secretAccessKey: keys.secretKey, sessionToken: temporary.sessionToken }
      }
      const request = await sent(new PutObjectCommand({ ...bucket, Key: 'a/b c', Body: 'bytes' }), config)
      expect(request.hostname).to.equal('examplebucket.s3.localhost')
      const { mine, theirs } = ours(request, temporary)
      expect(mine).to.equal(theirs)
      expect(signedHeadersOf(mine)).to.include.members(['host', 'x-amz-security-token'])
    })
  })

  // The requests that are really sent, and the server's own idea of what their signatures are.
  const everyKey = async (client: ObjectClient): Promise<void> => {
    for (const key of KEYS) {
      const body = Buffer.from(`bytes of ${key}`)
      const put = await client.request({ method: 'PUT', key, body, headers: { 'x-amz-meta-words': 'a  b' }, timeoutMs: 20_000 })
      expect(put.status, `PUT ${key}: ${Buffer.from(put.body).toString()}`).to.equal(200)
      const got = await client.request({ method: 'GET', key, timeoutMs: 20_000 })
      expect(got.status, `GET ${key}: ${Buffer.from(got.body).toString()}`).to.equal(200)
      expect(Buffer.from(got.body).equals(body), key).to.be.true
      const listed = await client.request({ method: 'GET', key: '', query: { 'list-type': '2', 'prefix': key, 'encoding-type': 'url' }, timeoutMs: 20_000 })
      expect(listed.status, `list ${key}`).to.equal(200)
      expect(Buffer.from(listed.body).toString()).to.include('<KeyCount>1</KeyCount>')
    }
  }
  const bench = workbench()
  const nativeClient = ({ endpoint, region, accessKey, secretKey, sessionToken = '' }: S3Account, bucket: string): ObjectClient => {
    const id = objects().setCredentials({ accessKey, secretKey, sessionToken })
    const client = new (objects().Client)({ endpoint, region, bucket, virtualAddressing: false, credentials: id })
    bench.atEnd(() => {
      client.close()
      objects().releaseCredentials(id)
    })
    return client
  }

  it('keys of every kind, for a server that knows nothing of our code', async () => {
    const fake = await fakeS3(bench)
    const { endpoint, region, accessKey } = fake
    await everyKey(nativeClient(fake, fake.bucket.name))
    expect([...fake.bucket.objects.keys()]).to.deep.equal(KEYS)
    fake.keys.set('TEMPORARY', { secretKey: 'secret', sessionToken: 'token' })
    await everyKey(nativeClient({ endpoint, region, accessKey: 'TEMPORARY', secretKey: 'secret', sessionToken: 'token' }, fake.bucket.name))
    const wrong = nativeClient({ endpoint, region, accessKey, secretKey: 'wrong' }, fake.bucket.name)
    expect((await wrong.request({ method: 'GET', key: 'plain', timeoutMs: 20_000 })).status).to.equal(403)
  })

  describeRadosgw('keys of every kind', gateway => {
    it('with the main user\'s keys, and with temporary ones', async () => {
      const { endpoint, region } = gateway()
      await everyKey(nativeClient(gateway(), await gateway().bucket()))
      const temporary = { endpoint, region, ...await gateway().stsAssumeRole() }
      const bucket = await gateway().bucket()
      await everyKey(nativeClient(temporary, bucket))
      const bare = nativeClient({ ...temporary, sessionToken: '' }, bucket)
      expect((await bare.request({ method: 'HEAD', key: 'plain', timeoutMs: 20_000 })).status).to.equal(403)
    })
  })
})
