import { createServer } from 'node:net'
import { expect } from 'chai'
import { HiCacheNixl, type OpenOptions } from '../../lib/index.js'
import { bytes, same } from '../support/content.js'
import { setEnvironment } from '../support/environment.js'
import { forwardProxy } from '../support/forward-proxy.js'
import { describeObjects, objectConfig, objectPlace } from '../support/object-place.js'
import { rejection } from '../support/rejection.js'
import { tlsFront, type TlsFront } from '../support/tls-front.js'
import { MIB, workbench } from '../support/workbench.js'

describeObjects('the way to an object store', () => {
  const bench = workbench('object')
  let front: TlsFront
  beforeEach(async () => { front = await tlsFront(bench, objectPlace().gateway.endpoint) })
  const named = (): string => `http://s3.localhost:${objectPlace().gateway.port}`

  /** Pages of every way of moving them. */
  async function works(options: OpenOptions): Promise<HiCacheNixl> {
    const cache = await bench.open({ arenaBytes: 32 * MIB, ...options })
    const keys = ['small', 'a b+c%?', 'large']
    const pages = [bytes(100, 'small'), bytes(70_000, 'odd'), bytes(7 * MIB, 'large')]
    expect(await cache.batchSet(keys, pages)).to.deep.equal([true, true, true])
    const got = await cache.batchGet(keys)
    got.forEach((page, i) => { expect(same(page, pages[i]!), keys[i]).to.equal(true) })
    expect(await cache.batchExists([...keys, 'none'])).to.equal(3)
    const listed: string[] = []
    for await (const { key } of cache.entries()) listed.push(key)
    expect(listed).to.have.members(keys)
    expect(await cache.clear()).to.deep.equal({ deleted: 3 })
    return cache
  }
  const hosts = (): string[] => [...new Set(front.hosts)]
  const byAddress = (): string => `127.0.0.1:${front.port}`
  const byName = (): string => `s3.localhost:${front.port}`
  const bucketByName = (): string => `${objectPlace().bucket}.s3.localhost:${front.port}`
  const tls = (endpoint: string, keys: Record<string, unknown> = {}): OpenOptions => ({ config: objectConfig(endpoint, { ca_bundle: front.caFile, crtMinLimit: 6 * MIB, ...keys }) })

  it('TLS with an authority of one\'s own; an address has no bucket before it', async () => {
    await works(tls(front.endpoint))
    expect(hosts()).to.deep.equal([byAddress()])
  })
  it('TLS: the bucket stands in the host, or with use_virtual_addressing = false in the path', async () => {
    await works(tls(front.namedEndpoint))
    expect(hosts()).to.deep.equal([bucketByName()])
    ;(front.hosts as string[]).length = 0
    await works(tls(front.namedEndpoint, { use_virtual_addressing: false }))
    expect(hosts()).to.deep.equal([byName()])
  })
  it('TLS: host and port with scheme = https, and the bundle of AWS_CA_BUNDLE', async () => {
    const config = objectConfig(byAddress(), { scheme: 'https' })
    const cache = await bench.open({ config, env: { AWS_CA_BUNDLE: front.caFile } })
    expect(await cache.set('k', bytes(10, 1))).to.equal(true)
    expect(front.sessions).to.be.greaterThan(0)
  })
  it('TLS: another authority, the system\'s ones alone, a host that the certificate is not for, and a file that is none are refused: no request, and what to do', async () => {
    const refused = async (endpoint: string, ca_bundle?: string): Promise<string> =>
      (await rejection(HiCacheNixl.open({ env: {}, arenaBytes: 16 * MIB, config: objectConfig(endpoint, ca_bundle === undefined ? {} : { ca_bundle }) }), 'ERR_PLUGIN_UNAVAILABLE')).message
    for (const bundle of [front.otherCaFile, undefined]) expect(await refused(front.endpoint, bundle)).to.match(/certificate/i).and.match(/plugin\.obj\.ca_bundle or AWS_CA_BUNDLE/)
    expect(await refused(`https://other.localhost:${front.port}`, front.caFile)).to.match(/certificate/i).and.match(/that the certificate is of that host/)
    expect(await refused(front.endpoint, `${front.caFile}-none`)).to.match(/names no readable file of authorities/)
    expect(front.hosts).to.deep.equal([])
  })
  it('without TLS, by name: the bucket in the host or in the path', async () => {
    await works({ config: objectConfig(named()) })
    await works({ config: objectConfig(named(), { use_virtual_addressing: false }) })
  })

  describe('through a proxy', () => {
    it('plain requests go by absolute addresses, path style and virtual-hosted', async () => {
      const { bucket, gateway } = objectPlace()
      for (const [use_virtual_addressing, place] of [[true, `http://${bucket}.s3.localhost:${gateway.port}/`], [false, `http://s3.localhost:${gateway.port}/${bucket}`]] as const) {
        const proxy = await forwardProxy(bench)
        await works({ config: objectConfig(named(), { use_virtual_addressing }), objectProxy: proxy.url })
        expect(proxy.requests.length).to.be.greaterThan(8)
        for (const request of proxy.requests) expect(request.slice(request.indexOf(' ') + 1).startsWith(place), request).to.equal(true)
        expect(new Set(proxy.authorizations)).to.deep.equal(new Set(['']))
        expect(proxy.tunnels).to.deep.equal([])
      }
    })
    it('TLS goes through tunnels, which see no request', async () => {
      const proxy = await forwardProxy(bench)
      await works({ ...tls(front.namedEndpoint), objectProxy: proxy.url })
      expect(proxy.requests).to.deep.equal([])
      expect(new Set(proxy.tunnels)).to.deep.equal(new Set([bucketByName()]))
      expect(hosts()).to.deep.equal([bucketByName()])
    })
    it('the environment\'s variables count only where the configuration says so', async () => {
      const proxy = await forwardProxy(bench)
      const variables = { http_proxy: proxy.url, https_proxy: proxy.url, all_proxy: proxy.url, HTTP_PROXY: proxy.url, HTTPS_PROXY: proxy.url, ALL_PROXY: proxy.url }
      // Also those of the process, which libcurl would look at by itself.
      setEnvironment(bench, variables)
      await works({ config: objectConfig(named()), env: variables })
      await works({ ...tls(front.namedEndpoint), env: variables })
      expect([...proxy.requests, ...proxy.tunnels]).to.deep.equal([])
      await works({ config: { ...objectConfig(named()), object_proxy: 'environment' }, env: variables })
      expect(proxy.requests.length).to.be.greaterThan(8)
      const count = proxy.requests.length
      await works({ config: { ...objectConfig(named()), object_proxy: 'environment' }, env: { ...variables, no_proxy: 'example.com, .localhost' } })
      expect(proxy.requests.length).to.equal(count)
    })
    it('a proxy that is not there is said at the opening, and its pages are misses', async () => {
      const proxy = await forwardProxy(bench)
      const warnings: string[] = []
      const logger = { debug: () => {}, info: () => {}, warn: (text: string) => { warnings.push(text) }, error: () => {} }
      const cache = await bench.open({ config: objectConfig(named()), objectProxy: `http://127.0.0.1:${await freePort()}`, logger })
      expect(warnings.join()).to.match(/does not answer/)
      expect((await cache.read(['k'], { timeoutMs: 2000 }))[0]).to.include({ status: 'miss', reason: 'unavailable' })
      expect(proxy.requests).to.deep.equal([])
    })
  })
})

/** A port that nobody listens on. */
async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>(resolve => { server.listen(0, '127.0.0.1', resolve) })
  const { port } = server.address() as { port: number }
  await new Promise(resolve => { server.close(resolve) })
  return port
}
