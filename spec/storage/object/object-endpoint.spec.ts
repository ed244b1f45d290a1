import { expect } from 'chai'
import { NixlBackendConfig } from '../../../lib/config/nixl-backend-config.js'
import { connectionsFor, planEndpoint, type EndpointPlan, type Unusable } from '../../../lib/storage/object/object-endpoint.js'

const plan = (obj: object = {}, rest: object = {}, env: NodeJS.ProcessEnv = {}, agents = 1): EndpointPlan | Unusable =>
  planEndpoint(NixlBackendConfig.load({ config: { ...rest, plugin: { obj: { bucket: 'pages', ...obj } } }, env }), agents)
function endpoint(...of: Parameters<typeof plan>): EndpointPlan['endpoint'] {
  const planned = plan(...of)
  if ('reason' in planned) throw new Error(planned.reason)
  return planned.endpoint
}
function unusable(...of: Parameters<typeof plan>): Unusable {
  const planned = plan(...of)
  if ('reason' in planned) return planned
  throw new Error(`planned ${planned.name}`)
}

describe('the endpoint of an object store', () => {
  it('is AWS\'s of the region where none is given, over https unless the configuration says otherwise', () => {
    expect(endpoint()).to.include({ endpoint: 'https://s3.us-east-1.amazonaws.com', region: 'us-east-1', bucket: 'pages', virtualAddressing: true })
    expect(endpoint({ region: 'eu-west-1' }).endpoint).to.equal('https://s3.eu-west-1.amazonaws.com')
    expect(endpoint({ region: 'cn-north-1' }).endpoint).to.equal('https://s3.cn-north-1.amazonaws.com.cn')
    expect(endpoint({ scheme: 'http' }).endpoint).to.equal('http://s3.us-east-1.amazonaws.com')
  })
  it('takes endpoint_override with or without a scheme', () => {
    for (const [override, scheme, expected] of [
      ['host', undefined, 'http://host'], ['host:9000', undefined, 'http://host:9000'], ['host:9000', 'https', 'https://host:9000'], ['https://host', 'http', 'https://host'],
      ['http://host:80/', undefined, 'http://host'], ['[::1]:7480', undefined, 'http://[::1]:7480'], [' Host.Example ', undefined, 'http://host.example'],
    ] as const) expect(endpoint({ endpoint_override: override, ...(scheme === undefined ? {} : { scheme }) }).endpoint, override).to.equal(expected)
    for (const override of ['http://host/path', 'host/bucket', 'host?x', 'ftp://host', 'http://', 'a b', 'http://host:99999']) {
      expect(unusable({ endpoint_override: override }).reason, override).to.include('plugin.obj.endpoint_override')
    }
  })
  it('needs a bucket, and names that can be one', () => {
    expect(unusable({ bucket: '' })).to.include({ reason: 'no bucket is configured', remedy: 'set plugin.obj.bucket or AWS_DEFAULT_BUCKET' })
    expect(endpoint({ bucket: '' }, {}, { AWS_DEFAULT_BUCKET: 'theirs' }).bucket).to.equal('theirs')
    for (const bucket of ['a/b', 's3://a', '.a', 'a b']) expect(unusable({ bucket }).reason).to.include('no name of a bucket')
    expect(unusable({ region: 'a/b' }).reason).to.include('no name of a region')
  })
  it('has the bucket in its host only where that can be', () => {
    const virtual = (obj: object): boolean => endpoint(obj).virtualAddressing
    expect(virtual({ endpoint_override: 'https://s3.example.com' })).to.equal(true)
    expect(virtual({ endpoint_override: 'http://s3.localhost:7480' })).to.equal(true)
    expect(virtual({ endpoint_override: 'http://s3.example.com', bucket: 'with.dot' })).to.equal(true)
    for (const obj of [
      { endpoint_override: 'https://s3.example.com', use_virtual_addressing: false }, { endpoint_override: '127.0.0.1:7480' }, { endpoint_override: '[::1]:7480' }, { endpoint_override: 'localhost:9000' },
      { endpoint_override: 'minio:9000' }, { endpoint_override: 'https://s3.example.com', bucket: 'with.dot' }, { endpoint_override: 'http://s3.example.com', bucket: 'Upper_Case' },
      { endpoint_override: 'http://s3.example.com', bucket: 'x'.repeat(64) }, { endpoint_override: 'http://s3.example.com', bucket: 'a..b' },
    ]) expect(virtual(obj), JSON.stringify(obj)).to.equal(false)
  })
  it('sizes its connections by the throughput, and shares them among the agents', () => {
    for (const [gbps, connections] of [[undefined, 64], [0.1, 4], [10, 15], [25, 37], [100, 148], [1e6, 512]] as const) expect(connectionsFor(gbps)).to.equal(connections)
    expect(endpoint({})).to.include({ connections: 64, threads: 4 })
    expect(endpoint({ throughput_target_gbps: 10 }, {}, {}, 4).connections).to.equal(4)
    expect(endpoint({ throughput_target_gbps: 1 }, {}, {}, 64)).to.include({ connections: 1, threads: 1 })
    expect(endpoint({ num_threads: 2 }).threads).to.equal(2)
  })
  it('passes on what the other keys say', () => {
    expect(endpoint()).to.deep.include({ sendChecksum: false, askChecksum: false, proxy: '' }).and.not.have.any.keys('caBundle', 'multipartBytes')
    expect(endpoint({ req_checksum: 'supported', resp_checksum: 'supported', ca_bundle: '/ca.pem', crtMinLimit: 8 * 2 ** 20 })).to.deep.include({
      sendChecksum: true, askChecksum: true, caBundle: '/ca.pem', multipartBytes: 8 * 2 ** 20
    })
    expect(endpoint({ crtMinLimit: 0 }).multipartBytes).to.be.greaterThan(2 ** 50)
    expect(endpoint({}, { object_proxy: 'http://proxy:3128' }).proxy).to.equal('http://proxy:3128')
    expect(endpoint({}, {}, { https_proxy: 'http://proxy:3128' }).proxy).to.equal('')
    expect(endpoint({}, { object_proxy: 'environment' }, { https_proxy: 'http://proxy:3128' }).proxy).to.equal('http://proxy:3128')
    expect(unusable({}, { object_proxy: 'environment' }, { https_proxy: 'http://me:S3CRET@proxy' }).reason).to.include('https_proxy').and.not.include('S3CRET')
  })
  it('says for people where it is, and holds no secret', () => {
    const planned = plan({ endpoint_override: 'http://host:9000', access_key: 'S3CRET1', secret_key: 'S3CRET2', session_token: 'S3CRET3' }, { object_prefix: 'a/b/' })
    expect(planned).to.include({ name: 's3://pages/a/b/ at http://host:9000' })
    expect(JSON.stringify(planned)).to.not.include('S3CRET')
  })
})
