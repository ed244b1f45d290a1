import { chmod, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { DeleteBucketCommand } from '@aws-sdk/client-s3'
import { expect } from 'chai'
import { HiCacheNixl, type HiCacheError, type OpenOptions } from '../../lib/index.js'
import type { Keys, TemporaryKeys } from '../support/ceph.js'
import { bytes, same } from '../support/content.js'
import { setEnvironment } from '../support/environment.js'
import { fakeOptions, openOnFake } from '../support/fake-s3-cache.js'
import { fakeS3 } from '../support/fake-s3.js'
import { describeObjects, objectConfig, objectPlace } from '../support/object-place.js'
import { until } from '../support/planned-faults.js'
import { rejection } from '../support/rejection.js'
import { MIB, workbench } from '../support/workbench.js'

const errorOf = (outcome: object | undefined): HiCacheError => (outcome as { error: HiCacheError }).error

describeObjects('credentials of an object store', () => {
  const bench = workbench('object')
  const keysOf = (keys: Keys & { sessionToken?: string }): Record<string, unknown> => ({
    access_key: keys.accessKey, secret_key: keys.secretKey, ...(keys.sessionToken === undefined ? {} : { session_token: keys.sessionToken })
  })
  const options = (obj: Record<string, unknown>, more: OpenOptions = {}): OpenOptions => ({ arenaBytes: 16 * MIB, env: {}, plugin: 'obj', config: objectConfig(undefined, obj), ...more })
  /** Opening is refused; the message says what the server says and what to do about it, and nothing that is secret. */
  async function refusal(obj: Record<string, unknown>): Promise<string> {
    const { message } = await rejection(HiCacheNixl.open(options(obj)), 'ERR_PLUGIN_UNAVAILABLE')
    for (const name of ['access_key', 'secret_key', 'session_token']) if (typeof obj[name] === 'string') expect(message).to.not.include(obj[name])
    return message
  }

  it('a wrong secret, keys that nobody has, and a bucket of somebody else are refused at once, with the remedy', async () => {
    const { gateway } = objectPlace()
    expect(await refusal({ secret_key: 'not-the-secret' })).to.match(/403 SignatureDoesNotMatch/).and.match(/secret_key is not the one of access_key/)
    expect(await refusal({ access_key: 'NOBODYSKEY', secret_key: 'not-the-secret' })).to.match(/403 InvalidAccessKeyId/).and.match(/does not know access_key/)
    expect(await refusal(keysOf(await gateway.user()))).to.match(/403 AccessDenied/).and.match(/must be allowed s3:GetObject/)
  })

  it('a bucket that is missing is refused at once; one that goes missing is an error of each page, with the remedy, until it is there again', async () => {
    const { gateway } = objectPlace()
    expect(await refusal({ bucket: 'nobody-made-it' })).to.match(/404 NoSuchBucket/).and.match(/make the bucket, or correct plugin\.obj\.bucket/)
    const Bucket = await gateway.bucket('gone')
    const cache = await bench.open({ config: objectConfig(undefined, { bucket: Bucket }) })
    await gateway.client().send(new DeleteBucketCommand({ Bucket }))
    const [write] = await cache.write([['k', bytes(100, 1)]])
    const [read] = await cache.read(['k'])
    for (const outcome of [write, read]) {
      expect(outcome).to.include({ ok: false, status: 'failed' })
      expect(errorOf(outcome)).to.include({ code: 'ERR_IO', key: 'k' }).and.deep.include({ http: { status: 404, code: 'NoSuchBucket' } })
      expect(errorOf(outcome).message).to.include(Bucket).and.match(/make the bucket/)
    }
    expect(cache.health().status).to.equal('degraded')
    expect((await rejection(cache.clear(), 'ERR_IO')).message).to.match(/NoSuchBucket/)
    expect((await cache.get('k'))).to.equal(null)
  })

  it('another region is taken by this server; by one that minds it, it is refused with the remedy', async () => {
    const cache = await bench.open({ config: objectConfig(undefined, { region: 'eu-nowhere-7' }) })
    expect(await cache.set('k', bytes(10, 1))).to.equal(true)
    const fake = await fakeS3(bench)
    const { message } = await rejection(HiCacheNixl.open(fakeOptions(fake, { obj: { region: 'eu-nowhere-7' } })), 'ERR_PLUGIN_UNAVAILABLE')
    expect(message).to.match(/400 AuthorizationHeaderMalformed/).and.match(/set plugin\.obj\.region \(or AWS_REGION\)/)
  })

  describe('temporary ones', () => {
    it('work with their session token, from the configuration or the environment, and never without it or with another', async () => {
      const keys = await objectPlace().gateway.stsAssumeRole()
      const config = await bench.open({ config: objectConfig(undefined, keysOf(keys)) })
      expect(await config.set('k', bytes(70_000, 'k'))).to.equal(true)
      const bare = objectConfig(undefined, { access_key: undefined, secret_key: undefined })
      const env = { AWS_ACCESS_KEY_ID: keys.accessKey, AWS_SECRET_ACCESS_KEY: keys.secretKey, AWS_SESSION_TOKEN: keys.sessionToken }
      const variables = await bench.open({ config: JSON.parse(JSON.stringify(bare)) as object, env })
      expect(await variables.set('l', bytes(70_000, 'l'))).to.equal(true)
      expect(same(await variables.get('l'), bytes(70_000, 'l'))).to.equal(true)

      const { sessionToken, ...without } = keys
      expect(await refusal(keysOf(without))).to.match(/403 InvalidAccessKeyId/)
      const tampered = sessionToken.slice(0, 20) + (sessionToken[20] === 'A' ? 'B' : 'A') + sessionToken.slice(21)
      expect(await refusal({ ...keysOf(without), session_token: tampered })).to.match(/ 40[03] /)
    })

    it('that expire while the cache is open: every page is refused with the server\'s word, health says so', async () => {
      const cache = await bench.open({ config: objectConfig(undefined, keysOf(await objectPlace().gateway.stsAssumeRole(2))) })
      expect(await cache.set('k', bytes(100, 'k'))).to.equal(true)
      await until(async () => (await cache.get('k')) === null, 'the end of keys that live for 2 s')
      const [read] = await cache.read(['k'])
      expect(read).to.include({ ok: false, status: 'failed' })
      expect(errorOf(read)).to.include({ code: 'ERR_IO' }).and.deep.include({ http: { status: 403, code: 'InvalidAccessKeyId' } })
      expect((await cache.write([['k', bytes(100, 2)]]))[0]).to.include({ ok: false, status: 'failed' })
      expect(cache.health().reasons.join()).to.match(/refuses requests: 403 /)
    })

    it('that have expired, as AWS says it: the remedy names new credentials and the chain', async () => {
      const fake = await fakeS3(bench)
      fake.keys.set('TEMPORARY', { secretKey: 'secret', sessionToken: 'token' })
      const cache = await openOnFake(bench, fake, { obj: { access_key: 'TEMPORARY', secret_key: 'secret', session_token: 'token' } })
      expect(await cache.set('k', bytes(100, 'k'))).to.equal(true)
      fake.keys.set('TEMPORARY', { secretKey: 'secret', sessionToken: 'token', expired: true })
      const [outcome] = await cache.write([['l', bytes(100, 'l')]])
      expect(errorOf(outcome).message).to.match(/400 ExpiredToken/).and.match(/open the cache with new credentials, or let the AWS credential chain fetch them/)
    })
  })

  describe('from AWS\'s chain', () => {
    /** The chain reads the process's own environment. */
    function setProfile(values: Record<string, string>): void {
      const others = Object.keys(process.env).filter(name => name.startsWith('AWS_') && !name.startsWith('AWS_SDK_'))
      setEnvironment(bench, { ...Object.fromEntries(others.map(name => [name, undefined])), AWS_EC2_METADATA_DISABLED: 'true', AWS_PROFILE: 'spec', ...values })
    }
    const noKeys = (): object => JSON.parse(JSON.stringify(objectConfig(undefined, { access_key: undefined, secret_key: undefined }))) as object

    it('a profile', async () => {
      const { gateway } = objectPlace()
      const directory = await bench.directory()
      await writeFile(join(directory, 'credentials'), `[spec]\naws_access_key_id = ${gateway.accessKey}\naws_secret_access_key = ${gateway.secretKey}\n`)
      setProfile({ AWS_SHARED_CREDENTIALS_FILE: join(directory, 'credentials'), AWS_CONFIG_FILE: join(directory, 'none') })
      const cache = await bench.open({ config: noKeys() })
      expect(await cache.set('k', bytes(100, 'k'))).to.equal(true)
      process.env.AWS_PROFILE = 'another'
      const { message } = await rejection(HiCacheNixl.open({ ...options({}), config: noKeys() }), 'ERR_PLUGIN_UNAVAILABLE')
      expect(message).to.match(/the AWS credential chain has none/).and.match(/set plugin\.obj\.access_key and plugin\.obj\.secret_key/)
    })

    it('are fetched anew before they expire, and pages go on without a refusal', async () => {
      const { gateway } = objectPlace()
      const directory = await bench.directory()
      const [current, calls] = [join(directory, 'current.json'), join(directory, 'calls')]
      const give = async (keys: TemporaryKeys): Promise<void> => {
        await writeFile(`${current}.new`, JSON.stringify({ Version: 1, AccessKeyId: keys.accessKey, SecretAccessKey: keys.secretKey, SessionToken: keys.sessionToken, Expiration: keys.expiration.toISOString() }))
        await rename(`${current}.new`, current)
      }
      await writeFile(join(directory, 'process'), `#!/bin/sh\necho called >> ${calls}\ncat ${current}\n`)
      await chmod(join(directory, 'process'), 0o700)
      await writeFile(join(directory, 'config'), `[profile spec]\ncredential_process = ${join(directory, 'process')}\n`)
      setProfile({ AWS_SHARED_CREDENTIALS_FILE: join(directory, 'none'), AWS_CONFIG_FILE: join(directory, 'config') })
      const called = async (): Promise<number> => (await readFile(calls, 'utf8')).split('\n').length - 1

      const short = await gateway.stsAssumeRole(4)
      await give(short)
      const storageDir = await bench.directory()
      const cache = await bench.open({ storageDir, config: noKeys() })
      expect(await cache.set('k', bytes(100, 'k'))).to.equal(true)
      const before = await called()
      await give(await gateway.stsAssumeRole())
      const refused = await bench.open({ storageDir, config: objectConfig(undefined, keysOf(short)) })
      // Half of their time is left when the next ones are fetched.
      let reads = 0
      await until(async () => {
        expect(await cache.get('k')).to.not.equal(null)
        reads++
        return await called() > before && (await refused.get('k')) === null
      }, 'the first credentials have expired, and others were fetched before')
      expect(reads).to.be.greaterThan(1)
      expect(same(await cache.get('k'), bytes(100, 'k'))).to.equal(true)
      expect(cache.stats()['object_requests_refused'] ?? 0).to.equal(0)
      expect(refused.stats()['object_requests_refused']).to.be.greaterThan(0)
    })
  })
})
