import { expect } from 'chai'
import { NixlBackendConfig } from '../../lib/config/nixl-backend-config.js'
import { ObjProbe } from '../../lib/selection/obj-probe.js'
import type { ProbeResult } from '../../lib/selection/plugin-probe.js'
import type { NativeObjects, ObjectEndpoint, ObjectRequest, ObjectResponse } from '../../lib/transfer/native-binding.js'

type Answer = (request: ObjectRequest) => Partial<ObjectResponse> | Error

/** Native code whose server is the spec. */
class Server {
  readonly asked: string[] = []
  readonly credentials = new Set<number>()
  openClients = 0
  readonly objects: NativeObjects

  constructor(answer: Answer, curl: Partial<ReturnType<NativeObjects['curl']>> = {}) {
    const count = (by: number): void => { this.openClients += by }
    const asked = (what: string): void => { this.asked.push(what) }
    this.objects = {
      curl: () => ({ usable: true, path: 'libcurl.so.4', version: 'libcurl/8', reason: 'there', remedy: '', ...curl }),
      setCredentials: () => {
        this.credentials.add(1)
        return 1
      },
      releaseCredentials: (id: number) => this.credentials.delete(id),
      Client: class {
        constructor(readonly endpoint: ObjectEndpoint) { count(1) }
        request(request: ObjectRequest): Promise<ObjectResponse> {
          asked(`${request.method} ${request.key}${request.query ? `?${Object.keys(request.query).join('&')}` : ''}`)
          const answered = answer(request)
          return answered instanceof Error ? Promise.reject(answered) : Promise.resolve({ status: 200, headers: {}, body: new Uint8Array(0), ...answered })
        }

        close(): void { count(-1) }
      }
    } as unknown as NativeObjects
  }
}
const OBJ = { bucket: 'pages', endpoint_override: 'http://host:9000', access_key: 'S3CRET1', secret_key: 'S3CRET2' }
async function probe(server: Server, config: object, env: NodeJS.ProcessEnv = {}): Promise<ProbeResult> {
  const result = await new ObjProbe(server, { chain: () => Promise.resolve(null) }).probe(NixlBackendConfig.load({ config, env }))
  expect(JSON.stringify(result)).to.not.include('S3CRET')
  expect(server).to.include({ openClients: 0 })
  expect(server.credentials.size).to.equal(0)
  if (!result.usable) expect([result.reason, result.remedy]).to.not.include('')
  return result
}
const refuses = (status: number, code?: string, headers: Record<string, string> = {}): Answer => ({ method }) =>
  ({ status, headers, body: method === 'HEAD' || code === undefined ? new Uint8Array(0) : Buffer.from(`<Error><Code>${code}</Code><Message>Words.</Message></Error>`) })
const curlError = (curl: number, message: string): Answer => () => Object.assign(new Error(message), { code: 'ECURL', curl })

describe('the probe of plugin obj', () => {
  it('asks the bucket', async () => {
    const server = new Server(() => ({}))
    expect(await probe(server, { plugin: { obj: { ...OBJ, active: true } } })).to.deep.include({ usable: true, engine: 'libcurl', remedy: '' })
    expect(server.asked).to.deep.equal(['HEAD '])
  })
  it('touches no network where nobody asks for it, or where nothing can come of it', async () => {
    const server = new Server(() => ({}))
    const env = { AWS_DEFAULT_BUCKET: 'b', AWS_ACCESS_KEY_ID: 'S3CRET1', AWS_SECRET_ACCESS_KEY: 'S3CRET2' }
    for (const [config, what] of [
      [{}, 'nobody asks'], [{ plugin: { obj: { ...OBJ, active: false } } }, 'active = false'],
    ] as const) expect((await probe(server, config, env)).reason).to.include(what)
    for (const [obj, what] of [
      [{ ...OBJ, bucket: '' }, 'no bucket'], [{ ...OBJ, secret_key: '' }, 'no secret_key'], [{ ...OBJ, access_key: '', secret_key: '' }, 'no credentials'],
      [{ ...OBJ, endpoint_override: 'host/path' }, 'endpoint_override'],
    ] as const) expect((await probe(server, { plugin: { obj } })).reason).to.include(what)
    expect((await probe(new Server(() => ({}), { usable: false, reason: 'no libcurl', remedy: 'install it' }), { plugin: { obj: OBJ } }))).to.include({ usable: false, reason: 'no libcurl', remedy: 'install it' })
    expect(server.asked).to.deep.equal([])
  })
  it('a server that does not answer: a warning where it is asked for, else no plugin', async () => {
    for (const silent of [curlError(7, 'Couldn\'t connect'), curlError(6, 'Could not resolve host'), curlError(28, 'Timeout'), () => Object.assign(new Error('late'), { code: 'ETIMEDOUT' }), refuses(503, 'SlowDown')]) {
      for (const config of [{ plugin: { obj: { ...OBJ, active: true } } }, { ...OBJ, selector: 'obj' }]) {
        const asked = await probe(new Server(silent), config)
        expect(asked).to.include({ usable: true, engine: 'libcurl' })
        expect(asked.warnings!.join()).to.include('s3://pages/ at http://host:9000 does not answer').and.include('misses')
      }
      expect(await probe(new Server(silent), { plugin: { obj: OBJ } })).to.include({ usable: false })
    }
  })
  it('a server that refuses, or that cannot be trusted: no plugin, with the reason and the remedy', async () => {
    for (const [answer, reason, remedy] of [
      [refuses(403, 'SignatureDoesNotMatch'), '403 SignatureDoesNotMatch: Words', 'secret_key'], [refuses(403, 'InvalidAccessKeyId'), 'InvalidAccessKeyId', 'access_key'],
      [refuses(403), '403 AccessDenied', 's3:GetObject'], [refuses(404, 'NoSuchBucket'), 'NoSuchBucket', 'make the bucket'], [refuses(404), '404', 'make the bucket'],
      [refuses(301, 'PermanentRedirect', { 'x-amz-bucket-region': 'eu-west-1' }), 'eu-west-1', 'region'], [refuses(400, 'AuthorizationHeaderMalformed'), '400', 'region'],
      [refuses(400, 'ExpiredToken'), 'ExpiredToken', 'expired'], [refuses(403, 'RequestTimeTooSkewed'), 'RequestTimeTooSkewed', 'NTP'],
      [curlError(60, 'SSL certificate problem'), 'SSL certificate problem', 'ca_bundle'], [curlError(77, 'no CA file'), 'no CA file', 'ca_bundle'],
    ] as const) {
      const result = await probe(new Server(answer), { plugin: { obj: { ...OBJ, active: true } } })
      expect(result.usable, reason).to.equal(false)
      expect(result.reason).to.include(reason)
      expect(result.remedy).to.include(remedy)
    }
  })
})
