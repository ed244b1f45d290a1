import { expect } from 'chai'
import { ListObjectsV2Command } from '@aws-sdk/client-s3'
import type { DoctorReport } from '../../lib/cli/commands/doctor.js'
import { describeRadosgw } from '../support/ceph.js'
import { captureCli } from '../support/captured-cli.js'
import { fakeS3, type FakeS3 } from '../support/fake-s3.js'
import { tlsFront } from '../support/tls-front.js'
import { workbench } from '../support/workbench.js'

const STEPS = ['libcurl', 'name resolution', 'connection', 'clock', 'credentials', 'region', 'bucket', 'put', 'get', 'If-None-Match', 'delete', 'multi-delete']

interface Doctor { readonly code: number; readonly json: DoctorReport; readonly states: Readonly<Record<string, string>>; readonly text: string }
type Section = Readonly<Record<string, string | boolean>>

async function doctor(section: Section, env: NodeJS.ProcessEnv = {}): Promise<Doctor> {
  const config = JSON.stringify({ plugin: { obj: { active: true, use_virtual_addressing: false, ...section } } })
  const { code, stdout, stderr } = await captureCli(['doctor', '--quick', '--json', '--config', config], env)
  const json = JSON.parse(stdout) as DoctorReport
  return { code, json, states: Object.fromEntries((json.objects?.findings ?? []).map(({ name, state }) => [name, state])), text: stdout + stderr }
}

function finding({ json }: Doctor, name: string): { readonly state: string; readonly value: string; readonly remedy: string } {
  const found = json.objects!.findings.find(one => one.name === name)
  if (found === undefined) throw new Error(`doctor has no finding ${name}`)
  return found
}

describeRadosgw('doctor on an object store', gateway => {
  let bucket: string
  before(async () => { bucket = await gateway().bucket('doctor') })
  after(async () => { await gateway().removeBucket(bucket) })

  const section = (): Section => {
    const { endpoint, accessKey, secretKey } = gateway()
    return { endpoint_override: endpoint, bucket, access_key: accessKey, secret_key: secretKey }
  }

  it('tries everything, from the library to the delete of many, and leaves nothing behind', async () => {
    const all = await doctor(section())
    expect(all.code, all.text).to.equal(0)
    expect(all.json).to.include({ ok: true, selected: 'obj', engine: 'libcurl' })
    expect(all.json.directories).to.deep.equal([])
    expect(all.json.objects).to.include({ endpoint: gateway().endpoint, bucket })
    expect(all.json.objects!.findings.map(({ name }) => name)).to.deep.equal(STEPS)
    for (const { name, state, value } of all.json.objects!.findings) expect([name, state, value === ''], value).to.deep.equal([name, 'ok', false])
    expect(finding(all, 'credentials').value).to.include('the configuration')
    const { KeyCount } = await gateway().client().send(new ListObjectsV2Command({ Bucket: bucket }))
    expect(KeyCount).to.equal(0)
    expect(all.text).to.not.include(gateway().secretKey).and.not.include(gateway().accessKey)
  })

  it('says where the credentials are from, and that they are refused', async () => {
    const { endpoint, accessKey } = gateway()
    const wrong = await doctor({ endpoint_override: endpoint, bucket }, { AWS_ACCESS_KEY_ID: accessKey, AWS_SECRET_ACCESS_KEY: 'not-the-secret' })
    expect(wrong.code).to.equal(1)
    expect(finding(wrong, 'credentials')).to.include({ state: 'fail' })
    expect(finding(wrong, 'credentials').value).to.include('AWS_ACCESS_KEY_ID').and.include('403')
    expect(finding(wrong, 'credentials').remedy).to.not.equal('')
    for (const name of ['put', 'get', 'delete', 'multi-delete']) expect(finding(wrong, name).value).to.equal('not tried: credentials failed')
    expect(wrong.text).to.not.include('not-the-secret')
  })

  it('tells keys without rights from a bucket that is not there', async () => {
    const guest = await gateway().user()
    const denied = await doctor({ ...section(), access_key: guest.accessKey, secret_key: guest.secretKey })
    expect([denied.code, denied.states.credentials]).to.deep.equal([1, 'fail'])
    const absent = await doctor({ ...section(), bucket: `${bucket}-not-there` })
    expect([absent.code, absent.states.credentials, absent.states.bucket, absent.states.put]).to.deep.equal([1, 'ok', 'fail', 'info'])
    expect(finding(absent, 'bucket').value).to.include('NoSuchBucket')
    expect(finding(absent, 'bucket').remedy).to.include('make the bucket')
  })

  it('finds the bucket by its own name below localhost, which DNS need not know', async () => {
    const named = await doctor({ ...section(), endpoint_override: `http://s3.localhost:${gateway().port}`, use_virtual_addressing: true })
    expect(named.code, named.text).to.equal(0)
    expect(finding(named, 'name resolution').value).to.include(`${bucket}.s3.localhost`)
    expect(named.states.put).to.equal('ok')
  })

  it('looks at a bucket that is configured although another plugin serves, and ends with 0 whatever it finds', async () => {
    const config = JSON.stringify({ plugin: { posix: { active: true }, obj: { ...section(), bucket: `${bucket}-not-there` } } })
    const { code, stdout } = await captureCli(['doctor', '--quick', '--json', '--config', config])
    const json = JSON.parse(stdout) as DoctorReport
    expect([code, json.selected]).to.deep.equal([0, 'posix'])
    expect(json.objects!.findings.find(({ name }) => name === 'bucket')!.state).to.equal('fail')
  })

  it('is readable', async () => {
    const config = JSON.stringify({ plugin: { obj: { active: true, use_virtual_addressing: false, ...section() } } })
    const { code, stdout } = await captureCli(['doctor', '--quick', '--config', config])
    expect(code).to.equal(0)
    expect(stdout).to.include(`Object store s3://${bucket} at ${gateway().endpoint}\n`)
    expect(stdout).to.match(/ok {4}put +64\.0 KiB in /)
    expect(Math.max(...stdout.split('\n').map(line => line.length))).to.be.at.most(140)
  })
})

describe('doctor on an object store that is not as it should be', () => {
  const bench = workbench()
  const keysOf = (fake: FakeS3): Section => ({ endpoint_override: fake.endpoint, bucket: fake.bucket.name, access_key: fake.accessKey, secret_key: fake.secretKey })

  it('says that nobody listens, and that the rest was not tried', async () => {
    const dead = await doctor({ endpoint_override: '127.0.0.1:1', bucket: 'pages', access_key: 'a', secret_key: 'b' })
    expect([dead.code, dead.states.connection]).to.deep.equal([1, 'fail'])
    expect(finding(dead, 'connection').remedy).to.include('endpoint_override')
    for (const name of STEPS.slice(STEPS.indexOf('clock'))) expect(finding(dead, name)).to.include({ state: 'info', value: 'not tried: connection failed' })
  })

  it('says that a name is not known', async () => {
    const lost = await doctor({ endpoint_override: 's3.no-such-host.invalid', bucket: 'pages', access_key: 'a', secret_key: 'b', use_virtual_addressing: true })
    expect([lost.code, lost.states['name resolution'], lost.states.connection]).to.deep.equal([1, 'fail', 'info'])
    expect(finding(lost, 'name resolution').value).to.include('pages.s3.no-such-host.invalid')
  })

  it('says what is missing before anything is asked', async () => {
    const without = await doctor({ endpoint_override: '127.0.0.1:1', access_key: 'a', secret_key: 'b' })
    expect(without.code).to.equal(1)
    expect(finding(without, 'bucket').remedy).to.include('plugin.obj.bucket')
  })

  it('measures the clocks\' difference: a warning above 5 s, a failure above 15 minutes', async () => {
    const fake = await fakeS3(bench)
    fake.clockSkewMs = 60_000
    const apart = await doctor(keysOf(fake))
    expect([apart.code, apart.states.clock, apart.states.put], apart.text).to.deep.equal([0, 'warn', 'ok'])
    expect(finding(apart, 'clock').value).to.include('60 s behind')
    fake.clockSkewMs = -3_600_000
    const refused = await doctor(keysOf(fake))
    expect([refused.code, refused.states.clock], refused.text).to.deep.equal([1, 'fail'])
    expect(finding(refused, 'clock').value).to.include('60 minutes ahead')
    expect(finding(refused, 'clock').remedy).to.include('NTP')
  })

  it('says what a server lacks that the cache can do without', async () => {
    const fake = await fakeS3(bench)
    fake.bucket.conditionalWrites = 'ignored'
    fake.bucket.batchDeletes = false
    const plain = await doctor(keysOf(fake))
    expect([plain.code, plain.states['If-None-Match'], plain.states['multi-delete']], plain.text).to.deep.equal([0, 'info', 'info'])
    expect([...fake.bucket.objects.keys()]).to.deep.equal([])
  })

  it('verifies the certificate as libcurl will, and says how to trust a private authority', async () => {
    const fake = await fakeS3(bench)
    const front = await tlsFront(bench, fake.endpoint)
    const keys = { ...keysOf(fake), endpoint_override: front.endpoint }
    const trusted = await doctor({ ...keys, ca_bundle: front.caFile })
    expect(trusted.code, trusted.text).to.equal(0)
    expect(finding(trusted, 'TLS').value).to.include('TLSv1').and.include(front.caFile)
    for (const [ca, remedy] of [[front.otherCaFile, 'ca_bundle'], ['/nowhere/ca.pem', 'ca_bundle']] as const) {
      const refused = await doctor({ ...keys, ca_bundle: ca })
      expect([refused.code, refused.states.TLS, refused.states.put], refused.text).to.deep.equal([1, 'fail', 'info'])
      expect(finding(refused, 'TLS').remedy).to.include(remedy)
    }
  })
})
