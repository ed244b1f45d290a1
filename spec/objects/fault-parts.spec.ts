import { expect } from 'chai'
import type { HiCacheNixl, ReadOutcome, Tensor, WriteOutcome } from '../../lib/index.js'
import { fakeS3, type FakeRequest, type FakeS3 } from '../support/fake-s3.js'
import { openOnFake } from '../support/fake-s3-cache.js'
import type { FakeTrouble } from '../support/fake-s3-faults.js'
import { bounded, until } from '../support/planned-faults.js'
import { isWhole, versionedPage } from '../support/versioned-pages.js'
import { MIB, workbench } from '../support/workbench.js'

const PAGE = 11 * MIB
/** Of 5 MiB, the least that S3 takes, and what is left. */
const PARTS = 3
const TRIES = 4
const KEY = 'large'

describe('pages in parts, of an object store that fails', () => {
  const bench = workbench()
  let fake: FakeS3
  let cache: HiCacheNixl
  const set = async (version: number, on = cache, options = {}): Promise<WriteOutcome> => (await on.write([[KEY, versionedPage(KEY, version, PAGE)]], options))[0]!
  const get = async (on = cache): Promise<ReadOutcome<Tensor>> => (await on.read([[KEY, { dtype: 'uint8', shape: [PAGE], data: target }]]))[0] as ReadOutcome<Tensor>
  const target = new Uint8Array(new SharedArrayBuffer(PAGE))
  /** The version that was read, whole; null: it is a miss. */
  const versionOf = (outcome: ReadOutcome<Tensor>): number | string => {
    if (!outcome.ok) return outcome.status === 'miss' ? outcome.reason : outcome.status
    if (!outcome.verified || !isWhole(KEY, outcome.value, PAGE)) return 'WRONG'
    return new DataView(outcome.value.data.buffer, outcome.value.data.byteOffset).getUint32(0, true)
  }
  /** That the server holds. */
  const versionThere = (): number | null => {
    const object = [...fake.bucket.objects.values()][0]
    return object === undefined ? null : object.body.readUInt32LE(0)
  }
  const of = (method: string, query = '', status?: number): FakeRequest[] =>
    fake.requests.filter(request => request.method === method && (query === '' || request.query.has(query)) && (status === undefined || request.status === status))
  const allFree = (on = cache): Promise<void> => until(() => on.stats().arena_used_bytes === 0 && on.stats().arena_quarantined_bytes === 0, 'the arena is free again')
  const open = (options = {}): Promise<HiCacheNixl> => openOnFake(bench, fake, { arenaBytes: 64 * MIB, obj: { crtMinLimit: 1 }, ...options })

  beforeEach(async () => {
    fake = await fakeS3(bench)
    cache = await open()
  })

  describe('an upload', () => {
    const once: readonly { readonly name: string; readonly trouble: FakeTrouble; readonly query: string; readonly method: string }[] = [
      { name: 'its beginning fails', trouble: { kind: 'answer', status: 500 }, method: 'POST', query: 'uploads' },
      { name: 'a part fails', trouble: { kind: 'answer', status: 503 }, method: 'PUT', query: 'partNumber' },
      { name: 'a part is cut off', trouble: { kind: 'reset', when: 'request' }, method: 'PUT', query: 'partNumber' },
      { name: 'a part\'s acknowledgement is lost', trouble: { kind: 'reset', when: 'acknowledgement' }, method: 'PUT', query: 'partNumber' },
      { name: 'its completion fails', trouble: { kind: 'answer', status: 500 }, method: 'POST', query: 'uploadId' },
      { name: 'its completion fails with status 200', trouble: { kind: 'answer', status: 200, code: 'InternalError' }, method: 'POST', query: 'uploadId' },
      { name: 'its completion\'s acknowledgement is lost', trouble: { kind: 'reset', when: 'acknowledgement' }, method: 'POST', query: 'uploadId' }
    ]
    for (const { name, trouble, method, query } of once) {
      it(`${name}, once: the page is stored, whole`, async () => {
        const fault = fake.plan({ ...trouble, method, query })
        expect(await set(1)).to.include({ ok: true, status: 'stored' })
        expect(fault.struck).to.equal(1)
        expect(of('PUT', 'partNumber')).to.have.length(PARTS + (query === 'partNumber' ? 1 : 0))
        expect(fake.bucket.uploads.size, 'uploads that were left').to.equal(0)
        expect(versionOf(await get())).to.equal(1)
        await allFree()
      })
    }

    for (const { name, trouble, method, query, outcome } of [
      { ...once[1]!, outcome: 'rejected' }, { ...once[5]!, outcome: 'rejected' },
      { name: 'a part is refused', trouble: { kind: 'answer', status: 403 } as const, method: 'PUT', query: 'partNumber', outcome: 'failed' }
    ]) {
      it(`${name}, again and again: the page is ${outcome}, the upload is aborted`, async () => {
        fake.plan({ ...trouble, method, query, times: 0 })
        expect(await set(1)).to.include({ ok: false, status: outcome })
        expect(fake.bucket.objects.size).to.equal(0)
        expect(fake.bucket.uploads.size, 'uploads that were left').to.equal(0)
        expect(of('DELETE', 'uploadId', 204)).to.have.length(1)
        if (name.startsWith('its completion')) expect(of('POST', 'uploadId')).to.have.length(TRIES)
        await allFree()
      })
    }

    it('every acknowledgement of its completion is lost: whatever is told, the page is there or not, and whole', async () => {
      fake.plan({ kind: 'reset', when: 'acknowledgement', method: 'POST', query: 'uploadId', times: 0 })
      expect(await set(1)).to.include({ ok: false, status: 'rejected' })
      fake.endFaults()
      expect(versionOf(await get(await open()))).to.equal(1)
    })

    it('an acknowledgement of its completion is lost, and nobody can tell what became of it: rejected, as an endpoint that is down', async () => {
      fake.plan({ kind: 'reset', when: 'acknowledgement', method: 'POST', query: 'uploadId' })
      fake.plan({ kind: 'answer', status: 500, method: 'HEAD', after: 1, times: 0 })
      const outcome = await set(1)
      expect(outcome).to.include({ ok: false, status: 'rejected' })
      expect((outcome as { error: Error }).error.message).to.not.include('NoSuchUpload')
      fake.endFaults()
      expect(versionOf(await get(await open()))).to.equal(1)
    })

    it('cannot even be aborted: the page has its outcome all the same', async () => {
      fake.plan({ kind: 'answer', status: 500, method: 'PUT', query: 'partNumber', times: 0 })
      fake.plan({ kind: 'hold', when: 'request', method: 'DELETE', times: 0 })
      expect(await bounded(set(1), 'a write whose abortion hangs')).to.include({ ok: false, status: 'rejected' })
      await allFree()
    })

    it('is called off in the midst of its parts: it is aborted, and the arena has its memory back', async () => {
      const held = fake.plan({ kind: 'hold', when: 'request', method: 'PUT', query: 'partNumber', times: 0 })
      const controller = new AbortController()
      const writing = set(1, cache, { signal: controller.signal })
      await held.reached
      controller.abort()
      expect(await bounded(writing, 'a cancelled write')).to.include({ ok: false, status: 'cancelled' })
      await until(() => fake.bucket.uploads.size === 0, 'the upload is aborted')
      await allFree()
      // A server that does not read does not see, either, that nobody is there any more.
      fake.endFaults()
      await until(() => of('PUT').every(({ outcome }) => outcome !== 'open'), 'its connections are closed')
      expect(fake.bucket.objects.size).to.equal(0)
    })

    it('runs into its deadline: it is aborted', async () => {
      fake.plan({ kind: 'hold', when: 'answer', method: 'PUT', query: 'partNumber', after: 1, times: 0 })
      const outcome = await bounded(set(1, cache, { timeoutMs: 1500 }), 'a write with a deadline')
      expect(outcome).to.include({ ok: false })
      expect(outcome.status).to.be.oneOf(['timeout', 'rejected'])
      await until(() => fake.bucket.uploads.size === 0, 'the upload is aborted')
      await allFree()
      expect(fake.bucket.objects.size).to.equal(0)
    })

    it('another writer was first: its page is found, or replaced', async () => {
      const other = await open()
      await set(1, other)
      expect(await set(1)).to.include({ status: 'already-there' })
      expect(await set(2)).to.include({ status: 'stored' })
      expect(versionOf(await get(other))).to.equal(2)
      // It completes while ours is under way.
      await other.delete(KEY)
      const held = fake.plan({ kind: 'hold', when: 'request', method: 'POST', query: 'uploadId' })
      const third = await open()
      const writing = set(4, third)
      await held.reached
      await set(3, other)
      held.release()
      expect(await writing).to.include({ status: 'stored' })
      expect(versionThere()).to.equal(4)
      expect(fake.bucket.uploads.size).to.equal(0)
    })

    it('conditions are not known (501): it goes without', async () => {
      fake.bucket.conditionalWrites = 'refused'
      expect(await set(1)).to.include({ status: 'stored' })
      expect(fake.bucket.uploads.size).to.equal(0)
      expect(versionOf(await get())).to.equal(1)
    })
  })

  describe('a read in ranges', () => {
    beforeEach(async () => {
      expect(await set(1)).to.include({ status: 'stored' })
      fake.requests.length = 0
    })

    for (const [name, trouble] of [
      ['fails', { kind: 'answer', status: 500 }], ['is short', { kind: 'short' }], ['is without an answer', { kind: 'reset', when: 'before' }]
    ] as const) {
      for (const after of [0, 1]) {
        it(`${after === 0 ? 'the first' : 'another'} range ${name}, once: that range is asked for again`, async () => {
          fake.plan({ ...trouble, method: 'GET', after })
          expect(versionOf(await get())).to.equal(1)
          expect(of('GET')).to.have.length(PARTS + 1)
        })
      }

      it(`a range ${name}, again and again: a miss, unavailable, and the other ranges end`, async () => {
        fake.plan({ ...trouble, method: 'GET', after: 1, times: 0 })
        expect(versionOf(await get())).to.equal('unavailable')
        await until(() => of('GET').every(({ outcome }) => outcome !== 'open'), 'all requests have ended')
      })
    }

    it('wrong bytes in one range: everything is read again, and right; wrong again: a miss, corrupt', async () => {
      fake.plan({ kind: 'flip', method: 'GET', after: 2 })
      expect(versionOf(await get())).to.equal(1)
      expect(of('GET')).to.have.length(2 * PARTS)
      fake.plan({ kind: 'flip', method: 'GET', after: 1, times: 0 })
      expect(versionOf(await get())).to.equal('corrupt')
      fake.endFaults()
      expect(await set(1)).to.include({ status: 'stored' })
      expect(versionOf(await get())).to.equal(1)
    })

    it('a server that does not know ranges, or answers another one: never a wrong byte', async () => {
      for (const headers of [{ 'content-range': '' }, { 'content-range': 'bytes 0-1/2' }, { 'content-range': `bytes 0-${5 * MIB - 1}/${PAGE + 1}` }, { etag: '' }]) {
        const fault = fake.plan({ kind: 'headers', headers, method: 'GET', times: 0 })
        expect(versionOf(await get()), JSON.stringify(headers)).to.be.oneOf(['corrupt', 'length'])
        fault.end()
      }
    })

    it('the page is replaced in its midst: the new one is read, and no mix', async () => {
      const other = await open({ obj: { crtMinLimit: 0 } })
      const held = fake.plan({ kind: 'hold', when: 'request', method: 'GET', after: 1 })
      const reading = get()
      await held.reached
      expect(await set(2, other)).to.include({ status: 'stored' })
      held.release()
      expect(versionOf(await reading)).to.equal(2)
      expect(of('GET', '', 412)).to.not.have.length(0)
      expect(of('GET').slice(0, PARTS).map(({ headers }) => headers['if-match'] === undefined)).to.deep.equal([true, false, false])
    })

    it('the page is replaced by one of another length in its midst', async () => {
      const held = fake.plan({ kind: 'hold', when: 'request', method: 'GET', after: 1 })
      const reading = cache.get(KEY)
      await held.reached
      const other = await open()
      await other.set(KEY, versionedPage(KEY, 7, PAGE - MIB))
      held.release()
      expect(isWhole(KEY, (await reading)!, PAGE - MIB)).to.equal(true)
    })

    it('the page is deleted in its midst: absent', async () => {
      const held = fake.plan({ kind: 'hold', when: 'request', method: 'GET', after: 1 })
      const reading = get()
      await held.reached
      fake.bucket.objects.clear()
      held.release()
      expect(versionOf(await reading)).to.equal('absent')
    })

    it('the page is replaced again and again: a miss, stale, and no mix', async () => {
      const name = [...fake.bucket.objects.keys()][0]!
      const one = fake.bucket.objects.get(name)!
      await set(2)
      const two = fake.bucket.objects.get(name)!
      fake.chance = ({ method, headers }) => {
        if (method === 'GET' && headers['if-match'] !== undefined) fake.bucket.objects.set(name, fake.bucket.objects.get(name) === one ? two : one)
        return null
      }
      expect(versionOf(await bounded(get(), 'a read of a page that never rests'))).to.be.oneOf(['stale', 1, 2])
      fake.chance = null
      expect(versionOf(await get())).to.be.oneOf([1, 2])
    })
  })
})
