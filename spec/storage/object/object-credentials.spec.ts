import { inspect } from 'node:util'
import { expect } from 'chai'
import { NixlBackendConfig } from '../../../lib/config/nixl-backend-config.js'
import { silentLogger } from '../../../lib/observe/logger.js'
import { ObjectCredentials, type ChainCredentials, type CredentialChain } from '../../../lib/storage/object/object-credentials.js'
import type { Unusable } from '../../../lib/storage/object/object-endpoint.js'
import type { ObjectCredentials as Keys } from '../../../lib/transfer/native-binding.js'

/** Native code's registry, as the spec can look into it. */
class Registry {
  readonly kept = new Map<number, Keys>()
  onSet: () => void = () => {}
  setCredentials(keys: Keys, id = this.kept.size + 1): number {
    this.kept.set(id, keys)
    this.onSet()
    return id
  }

  releaseCredentials(id: number): boolean { return this.kept.delete(id) }
}
const config = (obj: object = {}, env: NodeJS.ProcessEnv = {}): NixlBackendConfig => NixlBackendConfig.load({ config: { plugin: { obj } }, env })
const find = (registry: Registry, obj: object, chain: CredentialChain | null, env: NodeJS.ProcessEnv = {}): Promise<ObjectCredentials | Unusable> =>
  ObjectCredentials.find(config(obj, env), registry, { logger: silentLogger, chain: () => Promise.resolve(chain) })
async function found(...of: Parameters<typeof find>): Promise<ObjectCredentials> {
  const credentials = await find(...of)
  if ('reason' in credentials) throw new Error(credentials.reason)
  return credentials
}
const KEYS = { access_key: 'S3CRET1', secret_key: 'S3CRET2' }
const inMs = (ms: number): Date => new Date(Date.now() + ms)

describe('credentials of an object store', () => {
  it('are those of the configuration, else of the environment; AWS\'s chain is not asked then', async () => {
    const never = (): never => { throw new Error('asked') }
    const registry = new Registry()
    const one = await found(registry, { ...KEYS, session_token: 'S3CRET3' }, never)
    expect(one.source).to.equal('keys')
    expect(registry.kept.get(one.id)).to.deep.equal({ accessKey: 'S3CRET1', secretKey: 'S3CRET2', sessionToken: 'S3CRET3' })
    const two = await found(registry, {}, never, { AWS_ACCESS_KEY_ID: 'ea', AWS_SECRET_ACCESS_KEY: 'es', AWS_SESSION_TOKEN: 'et' })
    expect(registry.kept.get(two.id)).to.deep.equal({ accessKey: 'ea', secretKey: 'es', sessionToken: 'et' })
    one.close()
    one.close()
    expect([...registry.kept.keys()]).to.deep.equal([two.id])
    expect(inspect(one, { depth: 10, showHidden: true })).to.not.include('S3CRET')
  })
  it('are half there, or nowhere: why, and what to do', async () => {
    expect(await find(new Registry(), { access_key: 'a' }, null)).to.deep.include({ reason: 'there is access_key but no secret_key' })
    expect(await find(new Registry(), { secret_key: 's' }, null)).to.deep.include({ reason: 'there is secret_key but no access_key' })
    const none = await find(new Registry(), {}, null) as Unusable
    expect(none.remedy).to.include('AWS_ACCESS_KEY_ID').and.include('@aws-sdk/credential-provider-node')
  })
  it('of a chain that fails tell its error\'s name and nothing of its text', async () => {
    const failing = (): Promise<never> => Promise.reject(Object.assign(new Error('helper --password S3CRET failed'), { name: 'CredentialsProviderError' }))
    const none = await find(new Registry(), {}, failing) as Unusable
    expect(none.reason).to.include('CredentialsProviderError').and.not.include('S3CRET')
  })
  it('of a chain are fetched anew before they expire, under the same id', async () => {
    const asked: unknown[] = []
    const given: ChainCredentials[] = [
      { accessKeyId: 'a1', secretAccessKey: 's1', sessionToken: 't1', expiration: inMs(20) },
      { accessKeyId: 'a2', secretAccessKey: 's2', expiration: inMs(3_600_000) },
    ]
    const registry = new Registry()
    const credentials = await found(registry, {}, options => {
      asked.push(options)
      return Promise.resolve(given.shift()!)
    })
    expect(credentials.source).to.equal('chain')
    expect(registry.kept.get(credentials.id)).to.deep.equal({ accessKey: 'a1', secretKey: 's1', sessionToken: 't1' })
    await new Promise<void>(resolve => { registry.onSet = resolve })
    expect(registry.kept.get(credentials.id)).to.deep.equal({ accessKey: 'a2', secretKey: 's2', sessionToken: '' })
    expect(asked).to.deep.equal([undefined, { forceRefresh: true }])
    credentials.close()
    expect(registry.kept.size).to.equal(0)
  })
  it('that the server calls expired are fetched at once, by one request', async () => {
    let asked = 0
    const registry = new Registry()
    const credentials = await found(registry, {}, () => Promise.resolve({ accessKeyId: `a${++asked}`, secretAccessKey: 's' }))
    const set = new Promise<void>(resolve => { registry.onSet = resolve })
    for (let i = 0; i < 100; i++) credentials.expired()
    await set
    expect(asked).to.equal(2)
    expect(registry.kept.get(credentials.id)!.accessKey).to.equal('a2')
    credentials.close()
  })
  it('that cannot be fetched anew keep the old ones, and are asked for again', async () => {
    let asked = 0
    const registry = new Registry()
    const credentials = await found(registry, {}, () => ++asked === 2 ? Promise.reject(new Error('offline')) : Promise.resolve({ accessKeyId: `a${asked}`, secretAccessKey: 's' }))
    const set = new Promise<void>(resolve => { registry.onSet = resolve })
    credentials.expired()
    expect(registry.kept.get(credentials.id)!.accessKey).to.equal('a1')
    await set
    expect(registry.kept.get(credentials.id)!.accessKey).to.equal('a3')
    credentials.close()
  })
})
