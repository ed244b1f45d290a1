import { expect } from 'chai'
import type { HiCacheError, HiCacheNixl, ReadOutcome, Tensor, WriteOutcome } from '../../lib/index.js'
import { bytes, same } from '../support/content.js'
import { fakeS3, type FakeS3 } from '../support/fake-s3.js'
import { openOnFake } from '../support/fake-s3-cache.js'
import type { FakeTrouble } from '../support/fake-s3-faults.js'
import { bounded, keys, until } from '../support/planned-faults.js'
import { workbench } from '../support/workbench.js'

const PAGE = 100_000
/** Native code tries a request so often. libcurl sends one once more by itself when a connection that it had used before is reset without an answer. */
const TRIES = 4
const CONNECTIONS = 64
/** What tries after the first may cost together, until good answers bring some of it back; one after an error, and after no answer at all. */
const BUDGET = 500
const COST_ERROR = 5
const COST_SILENCE = 10

interface Named { readonly name: string; readonly trouble: FakeTrouble }

/** What may be over by the next try. */
const ERRORS: readonly Named[] = [
  { name: '500', trouble: { kind: 'answer', status: 500 } },
  { name: '503 SlowDown', trouble: { kind: 'answer', status: 503 } },
  { name: '429', trouble: { kind: 'answer', status: 429 } },
  { name: '504 of a proxy, in HTML', trouble: { kind: 'answer', status: 504, headers: { 'content-type': 'text/html' } } },
  { name: 'a reset before the answer', trouble: { kind: 'reset', when: 'before' } }
]
const ON_PUT: readonly Named[] = [
  { name: '409 ConditionalRequestConflict', trouble: { kind: 'answer', status: 409 } },
  { name: 'a reset in mid-body', trouble: { kind: 'reset', when: 'request' } },
  { name: 'an error before the body has been read', trouble: { kind: 'answer', status: 500, early: true } }
]
const ON_GET: readonly Named[] = [
  { name: 'a reset in mid-body', trouble: { kind: 'reset', when: 'answer' } },
  { name: 'a reset before the last byte', trouble: { kind: 'reset', when: 'answer', bytes: PAGE - 1 } },
  { name: 'a short body', trouble: { kind: 'short' } },
  { name: 'no byte of the body', trouble: { kind: 'short', bytes: 0 } },
  { name: 'a body that is one byte short', trouble: { kind: 'short', bytes: PAGE - 1 } }
]
const FORBIDDEN = { kind: 'answer', status: 403 } as const

describe('pages in an object store that fails', () => {
  const bench = workbench()
  let fake: FakeS3
  let cache: HiCacheNixl
  const page = (key: string): Uint8Array => bytes(PAGE, key)
  const set = async (key: string, on = cache): Promise<WriteOutcome> => (await on.write([[key, page(key)]]))[0]!
  const get = async (key: string, on = cache): Promise<ReadOutcome<Tensor>> => (await on.read([key]))[0]!
  const isRight = (outcome: ReadOutcome<Tensor>): boolean => outcome.ok && outcome.verified && same(outcome.value, page(outcome.key))
  /** Method and status of every request so far; 0: it had no answer. */
  const traffic = (): string[] => fake.requests.map(({ method, status }) => `${method} ${status}`)
  const stored = (key: string): boolean => [...fake.bucket.objects].some(([name, { body }]) => name.startsWith(key) && body.equals(page(key)))
  const objectOf = (key: string): string => [...fake.bucket.objects.keys()].find(name => name.startsWith(key))!
  const errorOf = (outcome: ReadOutcome<Tensor> | WriteOutcome): HiCacheError => (outcome as { error: HiCacheError }).error
  /** All that was ever taken of the arena is free again. */
  const allFree = (): Promise<void> => until(() => cache.stats().arena_used_bytes === 0 && cache.stats().arena_quarantined_bytes === 0, 'the arena is free again')

  beforeEach(async () => {
    fake = await fakeS3(bench)
    cache = await openOnFake(bench, fake)
    expect(await set('page')).to.include({ status: 'stored' })
    fake.requests.length = 0
  })

  describe('once', () => {
    for (const { name, trouble } of [...ERRORS, ...ON_PUT]) {
      it(`${name}: a write is tried again, and stored`, async () => {
        fake.plan({ ...trouble, method: 'PUT' })
        expect(await set('new')).to.include({ ok: true, status: 'stored' })
        expect(fake.count('PUT', 'new')).to.equal(2)
        expect(stored('new')).to.equal(true)
        expect(cache.health().status).to.equal('ok')
      })
    }

    for (const { name, trouble } of [...ERRORS, ...ON_GET]) {
      it(`${name}: a read is tried again, and right`, async () => {
        fake.plan({ ...trouble, method: 'GET' })
        expect(isRight(await get('page'))).to.equal(true)
        expect(fake.count('GET', 'page')).to.equal(2)
        await allFree()
      })
    }

    it('anything of that: look-ups and deletes are tried again', async () => {
      // Another cache: it has not seen the page yet.
      for (const { name, trouble } of ERRORS) {
        const other = await openOnFake(bench, fake)
        fake.plan({ ...trouble, method: 'HEAD' })
        expect(await other.exists('page'), name).to.equal(true)
        expect(traffic(), name).to.have.length(2)
      }
      for (const { name, trouble } of [...ERRORS, { name: 'an acknowledgement that was lost', trouble: { kind: 'reset', when: 'acknowledgement' } as const }]) {
        await set('going')
        fake.requests.length = 0
        fake.plan({ ...trouble, method: 'HEAD' })
        fake.plan({ ...trouble, method: 'DELETE' })
        expect(await cache.delete('going'), name).to.equal(true)
        expect(fake.count('DELETE'), name).to.equal(2)
        expect(stored('going'), name).to.equal(false)
      }
    })

    it('the acknowledgement of a write was lost: it is stored, and told so', async () => {
      fake.plan({ kind: 'reset', when: 'acknowledgement', method: 'PUT' })
      expect(await set('new')).to.include({ ok: true, status: 'stored' })
      // The second PUT finds the first one's page, and the HEAD that it is the same.
      expect(traffic()).to.deep.equal(['PUT 0', 'PUT 412', 'HEAD 200'])
      expect(stored('new')).to.equal(true)
    })

    it('wrong bytes: it is read once more, and right', async () => {
      fake.plan({ kind: 'flip', method: 'GET' })
      expect(isRight(await get('page'))).to.equal(true)
      expect(fake.count('GET')).to.equal(2)
    })

    it('a body that comes slowly is waited for', async () => {
      const slow = fake.plan({ kind: 'hold', when: 'body', method: 'GET' })
      const reading = get('page')
      await slow.reached
      slow.release()
      expect(isRight(await reading)).to.equal(true)
      expect(fake.count('GET')).to.equal(1)
    })
  })

  describe('again and again', () => {
    for (const { name, trouble } of [ERRORS[0]!, ...ERRORS.slice(-1), ...ON_PUT]) {
      it(`${name}: a write is rejected after ${TRIES} tries`, async () => {
        fake.plan({ ...trouble, method: 'PUT', times: 0 })
        const outcome = await set('new')
        expect(outcome).to.include({ ok: false, status: 'rejected' })
        expect(errorOf(outcome)).to.include({ code: 'ERR_REJECTED', key: 'new' })
        if (trouble.kind === 'answer') expect(errorOf(outcome).http).to.include({ status: trouble.status })
        expect(fake.count('PUT')).to.be.within(TRIES, trouble.kind === 'reset' ? TRIES + 1 : TRIES)
        expect(fake.bucket.objects.size).to.equal(1)
        await allFree()
      })
    }

    for (const { name, trouble } of [ERRORS[1]!, ...ERRORS.slice(-1), ON_GET[0]!, ON_GET[2]!]) {
      it(`${name}: a read is a miss, unavailable, after ${TRIES} tries`, async () => {
        fake.plan({ ...trouble, method: 'GET', times: 0 })
        expect(await get('page')).to.deep.equal({ ok: false, status: 'miss', key: 'page', reason: 'unavailable' })
        expect(fake.count('GET')).to.be.within(TRIES, trouble.kind === 'reset' ? TRIES + 1 : TRIES)
        await allFree()
      })
    }

    it('a look-up does not find, a delete does not delete', async () => {
      const other = await openOnFake(bench, fake)
      fake.plan({ kind: 'answer', status: 500, times: 0 })
      expect(await other.exists('page')).to.equal(false)
      expect(await cache.delete('page')).to.equal(false)
      expect(traffic()).to.deep.equal([...Array<string>(2 * TRIES).fill('HEAD 500')])
      expect(stored('page')).to.equal(true)
    })

    it('every acknowledgement of a write is lost: it is rejected, and stored all the same', async () => {
      fake.plan({ kind: 'reset', when: 'acknowledgement', method: 'PUT', times: 0 })
      expect(await set('new')).to.include({ ok: false, status: 'rejected' })
      expect(stored('new')).to.equal(true)
    })

    it('wrong bytes: a miss, corrupt, after two reads; the next write replaces the page, whatever it says of itself', async () => {
      const flip = fake.plan({ kind: 'flip', method: 'GET', times: 0 })
      const target = new Uint8Array(PAGE)
      expect((await cache.read([['page', target]]))[0]).to.deep.equal({ ok: false, status: 'miss', key: 'page', reason: 'corrupt' })
      expect(fake.count('GET')).to.equal(2)
      expect(flip.end()).to.equal(2)
      fake.requests.length = 0
      expect(await set('page')).to.include({ ok: true, status: 'stored' })
      expect(traffic()).to.deep.equal(['PUT 200'])
      expect(fake.requests[0]!.headers).to.not.have.property('if-none-match')
      expect(isRight(await get('page'))).to.equal(true)
      // Once replaced it is a page like others.
      expect(await set('page')).to.include({ status: 'already-there' })
    })

    it('bytes that are wrong where they lie are never a hit, by whatever fault', async () => {
      const name = objectOf('page')
      const object = fake.bucket.objects.get(name)!
      const damaged = Buffer.from(object.body)
      damaged[PAGE - 1]! ^= 1
      fake.bucket.objects.set(name, { ...object, body: damaged })
      expect(await get('page')).to.include({ reason: 'corrupt' })
      fake.bucket.objects.set(name, { ...object, body: object.body.subarray(1) })
      expect(await get('page')).to.include({ reason: 'corrupt' })
      const [header, record] = Object.entries(object.headers).find(([each]) => each.startsWith('x-amz-meta'))!
      for (let at = 0; at < record.length; at += 7) {
        const wrong = `${record.slice(0, at)}${record[at] === 'A' ? 'B' : 'A'}${record.slice(at + 1)}`
        fake.bucket.objects.set(name, { ...object, headers: { ...object.headers, [header]: wrong } })
        const outcome = await get('page')
        expect(outcome, `its header with another byte ${at}`).to.include({ ok: false })
      }
      fake.bucket.objects.set(name, object)
      expect(isRight(await get('page'))).to.equal(true)
    })
  })

  describe('by refusing', () => {
    const refusals: readonly (Named & { readonly code: string; readonly says: RegExp })[] = [
      { name: '403 AccessDenied', trouble: FORBIDDEN, code: 'AccessDenied', says: /s3:PutObject/ },
      { name: '404 NoSuchBucket', trouble: { kind: 'answer', status: 404, code: 'NoSuchBucket' }, code: 'NoSuchBucket', says: /make the bucket/ },
      { name: '400 ExpiredToken', trouble: { kind: 'answer', status: 400, code: 'ExpiredToken' }, code: 'ExpiredToken', says: /session token has expired/ },
      { name: '301 to another region', trouble: { kind: 'redirect', status: 301, endpoint: 'http://127.0.0.1:1', region: 'eu-west-1' }, code: 'PermanentRedirect', says: /region eu-west-1.*plugin\.obj\.region/ },
      { name: '307 to another server', trouble: { kind: 'redirect', status: 307, endpoint: 'http://127.0.0.1:1', region: 'eu-west-1' }, code: 'TemporaryRedirect', says: /region eu-west-1/ }
    ]
    for (const { name, trouble, code, says } of refusals) {
      it(`${name}: a page fails at once, with the reason; health says so until it is over`, async () => {
        const fault = fake.plan({ ...trouble, times: 0 })
        const status = trouble.kind === 'answer' || trouble.kind === 'redirect' ? trouble.status : 0
        for (const outcome of [await set('new'), await get('page')]) {
          expect(outcome).to.include({ ok: false, status: 'failed' })
          expect(errorOf(outcome)).to.include({ code: 'ERR_IO', key: outcome.key })
          expect(errorOf(outcome).http).to.deep.equal({ status, code })
          expect(errorOf(outcome).message).to.match(says)
        }
        expect(cache.health()).to.include({ status: 'degraded' })
        expect(cache.health().reasons.join()).to.match(/refuses requests/)
        expect(cache.stats().object_requests_refused).to.equal(2)
        expect(await cache.delete('page')).to.equal(false)
        expect(traffic()).to.deep.equal([`PUT ${status}`, `GET ${status}`, `HEAD ${status}`])
        fault.end()
        expect(isRight(await get('page'))).to.equal(true)
        expect(cache.health().status).to.equal('ok')
      })
    }

    it('only some pages are refused: the others are served, none is unavailable', async () => {
      const names = keys('some', 20)
      await cache.write(names.map(key => [key, page(key)]))
      fake.plan({ ...FORBIDDEN, method: 'GET', match: 'some-07', times: 0 })
      const outcomes = await cache.read(names)
      expect(outcomes.filter(outcome => !isRight(outcome)).map(({ key, status }) => `${key} ${status}`)).to.deep.equal(['some-07 failed'])
    })
  })

  describe('Retry-After', () => {
    const gapOf = (method: string): number => {
      const [first, second] = fake.requests.filter(request => request.method === method)
      return second!.arrivedAt - first!.arrivedAt
    }

    it('is obeyed in seconds, by reads, writes and look-ups', async () => {
      const other = await openOnFake(bench, fake)
      for (const method of ['PUT', 'GET', 'HEAD']) fake.plan({ kind: 'answer', status: 503, retryAfter: '1', method })
      const [written, read, found] = await Promise.all([set('new'), get('page'), other.exists('page')])
      expect([written.ok, isRight(read), found]).to.deep.equal([true, true, true])
      for (const method of ['PUT', 'GET', 'HEAD']) {
        expect(fake.requests.filter(request => request.method === method).length, method).to.equal(2)
        expect(gapOf(method), method).to.be.at.least(1000)
      }
    })

    it('is obeyed as a date of the server\'s clock, which need not be ours', async () => {
      fake.clockSkewMs = -10 * 60_000
      fake.plan({ kind: 'answer', status: 503, retryAfter: new Date(Date.now() + fake.clockSkewMs + 2000).toUTCString(), method: 'GET' })
      expect(isRight(await get('page'))).to.equal(true)
      expect(gapOf('GET')).to.be.at.least(1000)
    })

    it('beyond the deadline: given up at once', async () => {
      fake.plan({ kind: 'answer', status: 503, retryAfter: '40', times: 0 })
      expect(await bounded(get('page'), 'a read that must not wait', 10_000)).to.include({ reason: 'unavailable' })
      expect(traffic()).to.deep.equal(['GET 503'])
      fake.endFaults()
      // The first wait fits, a second one does not; what lies between is for a machine that stalls.
      const late = await openOnFake(bench, fake, { timeoutMs: 3900 })
      fake.plan({ kind: 'answer', status: 503, retryAfter: '2', times: 0 })
      expect(await get('page', late)).to.include({ reason: 'unavailable' })
      expect(fake.requests.length).to.be.within(1, 2)
    })
  })

  describe('in a storm', () => {
    for (const { name, trouble, cost } of [
      { name: 'errors', trouble: { kind: 'answer', status: 500 } as const, cost: COST_ERROR },
      { name: 'silence', trouble: { kind: 'reset', when: 'before' } as const, cost: COST_SILENCE }
    ]) {
      it(`of ${name}: the budget for further tries is spent, and from then on each page is asked for once`, async () => {
        const names = keys('storm', 90)
        expect((await cache.write(names.map(key => [key, page(key)]))).every(({ ok }) => ok)).to.equal(true)
        fake.requests.length = 0
        fake.plan({ ...trouble, method: 'GET', times: 0 })
        const storm = async (): Promise<void> => {
          for (const outcome of await cache.read(names)) expect(outcome).to.deep.equal({ ok: false, status: 'miss', key: outcome.key, reason: 'unavailable' })
        }
        await storm()
        expect(fake.count('GET')).to.be.within(names.length + BUDGET / cost, names.length + BUDGET / cost + (trouble.kind === 'reset' ? CONNECTIONS : 0))
        if (trouble.kind === 'reset') return
        // One request a second is let through.
        fake.requests.length = 0
        await until(async () => {
          await get('storm-00')
          return fake.count('GET') > 0
        }, 'a request that is let through')
        expect(fake.count('GET')).to.equal(1)
        fake.endFaults()
        await until(async () => isRight(await get('storm-00')), 'the endpoint is back')
        for (const outcome of await cache.read(names)) expect(isRight(outcome), outcome.key).to.equal(true)
      })
    }
  })

  describe('by its clock', () => {
    const SKEW = 20 * 60_000

    for (const [name, first, requests] of [
      ['a write', async () => (await set('new')).ok, ['PUT 403', 'PUT 200']],
      ['a read', async () => isRight(await get('page')), ['GET 403', 'GET 200']],
      ['a look-up, whose answer has no body', async () => await (await openOnFake(bench, fake)).exists('page'), ['HEAD 403', 'HEAD 200']],
      ['a delete', async () => await cache.delete('page'), ['HEAD 403', 'HEAD 200', 'DELETE 204']]
    ] as const) {
      it(`${name} is signed anew by the server's Date`, async () => {
        fake.clockSkewMs = SKEW
        expect(await first()).to.equal(true)
        expect(traffic()).to.deep.equal(requests)
        expect(cache.health().status).to.equal('ok')
        fake.requests.length = 0
        expect(await set('next')).to.include({ ok: true })
      })
    }

    it('once it is known, requests are right at once; also when the clocks agree again', async () => {
      for (const skew of [SKEW, -SKEW, 0]) {
        fake.clockSkewMs = skew
        fake.requests.length = 0
        expect(isRight(await get('page'))).to.equal(true)
        expect(isRight(await get('page'))).to.equal(true)
        expect(traffic(), `${skew} ms`).to.deep.equal(['GET 403', 'GET 200', 'GET 200'])
      }
    })

    it('many pages at once meet it', async () => {
      fake.clockSkewMs = SKEW
      const names = keys('many', 40)
      expect((await cache.write(names.map(key => [key, page(key)]))).filter(({ ok }) => !ok)).to.deep.equal([])
      fake.clockSkewMs = 0
      expect((await cache.read(names)).filter(outcome => !isRight(outcome))).to.deep.equal([])
    })
  })

  describe('conditions of writes', () => {
    it('If-None-Match is not known (501): it is left out from then on', async () => {
      fake.bucket.conditionalWrites = 'refused'
      expect(await set('new')).to.include({ status: 'stored' })
      expect(await set('newer')).to.include({ status: 'stored' })
      expect(traffic()).to.deep.equal(['PUT 501', 'PUT 200', 'PUT 200'])
      expect(stored('new') && stored('newer')).to.equal(true)
    })

    it('If-None-Match is ignored: pages are replaced by whole pages', async () => {
      fake.bucket.conditionalWrites = 'ignored'
      const other = await openOnFake(bench, fake)
      expect((await other.write([['page', bytes(PAGE, 'another')]]))[0]).to.include({ status: 'stored' })
      expect(same(await cache.get('page'), bytes(PAGE, 'another'))).to.equal(true)
      fake.plan({ kind: 'reset', when: 'acknowledgement', method: 'PUT' })
      expect((await other.write([['lost', page('lost')]]))[0]).to.include({ status: 'stored' })
      expect(isRight(await get('lost'))).to.equal(true)
    })

    it('the same page by another writer is left, another one is replaced', async () => {
      const other = await openOnFake(bench, fake)
      expect(await set('page', other)).to.include({ status: 'already-there' })
      expect(traffic()).to.deep.equal(['PUT 412', 'HEAD 200'])
      const third = await openOnFake(bench, fake)
      expect((await third.write([['page', bytes(PAGE, 'another')]]))[0]).to.include({ status: 'stored' })
      expect(traffic()).to.deep.equal(['PUT 412', 'HEAD 200', 'PUT 200'])
      expect(fake.requests[2]!.headers).to.not.have.property('if-none-match')
      expect(same(await cache.get('page'), bytes(PAGE, 'another'))).to.equal(true)
    })

    it('it cannot be told which page is there: nothing is replaced', async () => {
      const other = await openOnFake(bench, fake)
      fake.plan({ kind: 'answer', status: 500, method: 'HEAD', times: 0 })
      expect((await other.write([['page', bytes(PAGE, 'another')]]))[0]).to.include({ status: 'rejected' })
      fake.endFaults()
      expect(stored('page')).to.equal(true)
    })
  })

  describe('while it lists and clears', () => {
    const names = keys('listed', 12)
    beforeEach(async () => {
      await cache.delete('page')
      expect((await cache.write(names.map(key => [key, page(key)]))).every(({ ok }) => ok)).to.equal(true)
      fake.requests.length = 0
    })
    const listed = async (): Promise<string[]> => {
      const found: string[] = []
      for await (const { key } of cache.entries()) found.push(key)
      return found
    }

    it('once: a listing and a clear are tried again', async () => {
      fake.plan({ kind: 'answer', status: 503, query: 'list-type' })
      fake.plan({ kind: 'reset', when: 'answer', query: 'list-type', after: 1 })
      fake.plan({ kind: 'answer', status: 500, method: 'HEAD', match: 'listed-03' })
      expect(await listed()).to.deep.equal(names)
      fake.plan({ kind: 'reset', when: 'acknowledgement', method: 'POST' })
      expect(await cache.clear()).to.deep.equal({ deleted: names.length })
      expect(fake.bucket.objects.size).to.equal(0)
    })

    it('again and again: a listing fails, and leaves out nothing in silence', async () => {
      fake.plan({ kind: 'answer', status: 500, method: 'HEAD', match: 'listed-03', times: 0 })
      const [error] = await Promise.all([listed().then(() => null, (reason: unknown) => reason as HiCacheError)])
      expect(error).to.include({ code: 'ERR_REJECTED', key: 'listed-03' })
      fake.endFaults()
      fake.plan({ kind: 'answer', status: 500, query: 'list-type', times: 0 })
      expect(await listed().then(() => null, (reason: unknown) => (reason as HiCacheError).code)).to.equal('ERR_IO')
      fake.endFaults()
      expect(await cache.clear()).to.deep.equal({ deleted: names.length })
    })
  })
})
