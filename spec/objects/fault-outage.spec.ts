import { expect } from 'chai'
import type { HiCacheNixl, ReadOutcome, Tensor, WriteOutcome } from '../../lib/index.js'
import { bytes, same } from '../support/content.js'
import { fakeS3, type FakeS3 } from '../support/fake-s3.js'
import { openOnFake, type FakeCacheOptions } from '../support/fake-s3-cache.js'
import { bounded, keys, until } from '../support/planned-faults.js'
import { workbench } from '../support/workbench.js'

const PAGE = 100_000
const TRIES = 4

describe('an object store that does not answer', () => {
  const bench = workbench()
  let fake: FakeS3
  let cache: HiCacheNixl
  const names = keys('page', 20)
  const page = (key: string): Uint8Array => bytes(PAGE, key)
  const set = (wanted: readonly string[], options = {}, on = cache): Promise<WriteOutcome[]> => on.write(wanted.map(key => [key, page(key)] as const), options)
  const isRight = (outcome: ReadOutcome<Tensor>): boolean => outcome.ok && outcome.verified && same(outcome.value, page(outcome.key))
  const fates = (outcomes: readonly (ReadOutcome<Tensor> | WriteOutcome)[]): string[] =>
    [...new Set(outcomes.map(outcome => outcome.ok || outcome.status !== 'miss' ? outcome.status : outcome.reason))]
  const allFree = (on = cache): Promise<void> => until(() => on.stats().arena_used_bytes === 0 && on.stats().arena_quarantined_bytes === 0, 'the arena is free again')
  const open = async (options: FakeCacheOptions = {}): Promise<HiCacheNixl> => await openOnFake(bench, fake, options)
  /** Every request that has begun was left by its client. */
  const allLeft = (): Promise<void> => until(() => fake.requests.every(({ outcome }) => outcome !== 'open'), 'the connections are closed')

  beforeEach(async () => {
    fake = await fakeS3(bench)
    cache = await open()
    expect(fates(await set(names))).to.deep.equal(['stored'])
    fake.requests.length = 0
  })

  describe('is down', () => {
    /** The first request has found out. */
    const findOut = async (): Promise<void> => { expect(fates(await cache.read(['page-00']))).to.deep.equal(['unavailable']) }

    it('reads are misses and writes are rejected at once, without a request; look-ups do not find, deletes do not delete', async () => {
      fake.plan({ kind: 'answer', status: 503, times: 0 })
      await findOut()
      expect(fake.requests).to.have.length(TRIES)
      expect(fates(await cache.read(names))).to.deep.equal(['unavailable'])
      const written = await set(keys('new', 20))
      expect(fates(written)).to.deep.equal(['rejected'])
      for (const outcome of written) expect((outcome as { error: Error }).error).to.include({ code: 'ERR_REJECTED', key: outcome.key })
      expect((written.at(-1) as { error: Error }).error.message).to.match(/^The endpoint s3:\/\/pages\/ at http:.* does not answer: it says 503 SlowDown/)
      expect(await cache.batchExists(keys('unknown', 20))).to.equal(0)
      expect(await cache.delete('page-00')).to.equal(false)
      // Of all these, one a second is let through at most; here none or one.
      expect(fake.requests.length).to.be.at.most(2 * TRIES)
      expect(cache.stats()).to.include({ pages_read_miss_unavailable: names.length + 1, pages_write_rejected: 20 })
      expect(cache.stats().object_requests_unavailable).to.be.within(1, 2)
      expect(cache.metrics()).to.match(/reason="unavailable"/)
      await allFree()
    })

    it('health says so, and why; one that is let through finds that it is back', async () => {
      expect(cache.health().status).to.equal('ok')
      fake.plan({ kind: 'answer', status: 500, times: 0 })
      await findOut()
      expect(cache.health().status).to.equal('degraded')
      expect(cache.health().reasons.join()).to.match(/^The endpoint s3:\/\/pages\/ at http:\/\/127\.0\.0\.1:\d+ does not answer: it says 500 InternalError.*unavailable until it does\.$/)
      // Now and then.
      await until(async () => {
        expect(fates(await cache.read(names))).to.deep.equal(['unavailable'])
        return fake.requests.length > TRIES
      }, 'a request that is let through')
      expect(fake.requests.length).to.equal(2 * TRIES)
      fake.endFaults()
      await until(async () => fates(await cache.read(['page-00'])).includes('hit'), 'it is back')
      expect(cache.health()).to.deep.equal({ status: 'ok', reasons: [] })
      expect((await cache.read(names)).every(isRight)).to.equal(true)
      expect(fates(await set(keys('new', 20)))).to.deep.equal(['stored'])
    })

    it('connections are refused for a while: nothing that was acknowledged is lost, and it goes on', async () => {
      await fake.down()
      await findOut()
      expect(cache.health().reasons.join()).to.match(/does not answer: .*[Cc]onnect/)
      expect(fates(await set(['new']))).to.deep.equal(['rejected'])
      await fake.up()
      await until(async () => fates(await set(['new'])).includes('stored'), 'it is back')
      expect(cache.health().status).to.equal('ok')
      expect((await cache.read([...names, 'new'])).every(isRight)).to.equal(true)
    })

    it('connections are refused for a moment: tries bridge it', async () => {
      await fake.down()
      const reading = cache.read(['page-00'])
      // A first try has failed, or will be late: in either case one finds the server.
      await fake.up()
      expect((await reading).every(isRight)).to.equal(true)
      expect(cache.health().status).to.equal('ok')
    })

    it('idle connections that the server has ended are no reason for a miss', async () => {
      for (let round = 0; round < 5; round++) {
        expect((await cache.read(names)).every(isRight)).to.equal(true)
        fake.dropConnections()
        expect(fates(await set(names.map(name => `${name}-${round}`)))).to.deep.equal(['stored'])
        fake.dropConnections()
      }
    })

    it('of a cache that is opened meanwhile: it opens, and works once the server does', async () => {
      await fake.down()
      const late = await open()
      expect(fates(await late.read(['page-00']))).to.deep.equal(['unavailable'])
      await fake.up()
      await until(async () => fates(await late.read(['page-00'])).includes('hit'), 'it is back')
    })
  })

  describe('hangs', () => {
    for (const when of ['request', 'answer', 'body'] as const) {
      const what = when === 'request' ? 'its request is not read' : when === 'answer' ? 'its answer is kept back' : 'its body stops in the middle'

      it(`a read is cancelled by its signal, ${what}: the connection is closed, the arena has its memory back`, async () => {
        const held = fake.plan({ kind: 'hold', when, method: 'GET', times: 0 })
        const controller = new AbortController()
        const reading = cache.read(names, { signal: controller.signal })
        await held.reached
        controller.abort(new Error('changed my mind'))
        expect(fates(await bounded(reading, 'a cancelled read'))).to.deep.equal(['cancelled'])
        await allLeft()
        await allFree()
        expect(cache.health().status).to.equal('ok')
        fake.endFaults()
        expect((await cache.read(names)).every(isRight)).to.equal(true)
      })

      it(`a read comes to its deadline, ${what}: the connection is closed, the arena has its memory back`, async () => {
        fake.plan({ kind: 'hold', when, method: 'GET', times: 0 })
        const target = new Uint8Array(PAGE)
        const began = performance.now()
        const [outcome] = await bounded(cache.read([['page-00', target]], { timeoutMs: 600 }), 'a read with a deadline')
        expect(outcome).to.include({ ok: false })
        expect(fates([outcome as ReadOutcome<Tensor>])[0]).to.be.oneOf(['timeout', 'unavailable'])
        await allLeft()
        await allFree()
        for (const { arrivedAt } of fake.requests) expect(arrivedAt - began, 'the last request').to.be.at.most(600)
        // From then on nobody writes there.
        target.fill(7)
        fake.endFaults()
        expect((await (await open()).read(names)).every(isRight)).to.equal(true)
        expect(target.every(byte => byte === 7)).to.equal(true)
      })
    }

    for (const when of ['request', 'answer'] as const) {
      it(`a write is cancelled, or comes to its deadline, ${when === 'request' ? 'its body is not read' : 'its acknowledgement is kept back'}`, async () => {
        const held = fake.plan({ kind: 'hold', when, method: 'PUT', times: 0 })
        // A server that does not read does not see, either, that nobody is there any more.
        const letGo = async (): Promise<void> => {
          if (when === 'request') fake.endFaults()
          await allLeft()
          fake.endFaults()
        }
        const controller = new AbortController()
        const writing = set(keys('new', 8), { signal: controller.signal })
        await held.reached
        controller.abort()
        expect(fates(await bounded(writing, 'a cancelled write'))).to.deep.equal(['cancelled'])
        await allFree()
        await letGo()
        fake.plan({ kind: 'hold', when, method: 'PUT', times: 0 })
        const late = await bounded(set(keys('late', 8), { timeoutMs: 600 }), 'a write with a deadline')
        for (const fate of fates(late)) expect(fate).to.be.oneOf(['timeout', 'rejected'])
        await allFree()
        await letGo()
        for (const outcome of await (await open()).read([...keys('new', 8), ...keys('late', 8)])) {
          if (outcome.ok) expect(isRight(outcome), outcome.key).to.equal(true)
          else expect(outcome).to.include({ status: 'miss', reason: 'absent' })
        }
      })
    }

    it('look-ups and deletes end at their deadline', async () => {
      const other = await open()
      fake.plan({ kind: 'hold', when: 'answer', method: 'HEAD', times: 0 })
      expect(await bounded(other.batchExists(names, { timeoutMs: 500 }), 'a look-up')).to.equal(0)
      expect(await bounded(cache.delete('page-00', { timeoutMs: 500 }), 'a delete')).to.equal(false)
      await allLeft()
      expect(fake.bucket.objects.size).to.equal(names.length)
    })

    it('a page is cancelled while it waits for its next try: no further request', async () => {
      const slow = fake.plan({ kind: 'answer', status: 503, retryAfter: '20', times: 0 })
      const controller = new AbortController()
      const reading = cache.read(['page-00'], { signal: controller.signal })
      await slow.reached
      await until(() => fake.requests[0]!.outcome === 'answered', 'the first answer')
      controller.abort()
      expect(fates(await bounded(reading, 'a cancelled read', 10_000))).to.deep.equal(['cancelled'])
      await allFree()
      expect(fake.requests).to.have.length(1)
    })

    it('one page of a batch hangs: the others arrive, and the endpoint does not count as down', async () => {
      fake.plan({ kind: 'hold', when: 'answer', match: 'page-07', times: 0 })
      const outcomes = await bounded(cache.read(names, { timeoutMs: 800 }), 'a read with a deadline')
      expect(outcomes.filter(outcome => !isRight(outcome)).map(({ key }) => key)).to.deep.equal(['page-07'])
      expect(cache.health().status).to.equal('ok')
    })

    it('close() ends within its grace; what hangs is cancelled, and its connections are closed', async () => {
      const closing = await open()
      const held = fake.plan({ kind: 'hold', when: 'answer', times: 0 })
      const work = Promise.all([closing.read(names), set(keys('new', 8), {}, closing), closing.delete('page-00'), closing.batchExists(names)])
      await held.reached
      await bounded(closing.close({ graceMs: 300 }), 'close()', 10_000)
      const [read, written, deleted, found] = await bounded(work, 'what was under way')
      for (const fate of fates([...read, ...written])) expect(fate).to.be.oneOf(['cancelled', 'unavailable', 'rejected', 'failed'])
      expect([deleted, found]).to.deep.equal([false, 0])
      await allLeft()
    })

    it('a listing under way does not keep close() from its end', async () => {
      const closing = await open()
      const held = fake.plan({ kind: 'hold', when: 'answer', query: 'list-type', times: 0 })
      const clearing = closing.clear().then(() => 'done', (error: unknown) => (error as { code: string }).code)
      await held.reached
      await bounded(closing.close({ graceMs: 300 }), 'close()', 10_000)
      expect(await bounded(clearing, 'clear()')).to.equal('ERR_CLOSED')
      await allLeft()
    })
  })
})
