import { expect } from 'chai'
import { HiCacheError } from '../../lib/index.js'
import { QUEUE_REQUESTS_MAX } from '../../lib/transfer/batcher.js'
import { Field, Op, Status } from '../../lib/transfer/protocol.js'
import type { Admission, StorageHold } from '../../lib/transfer/storage-hold.js'
import { BatcherRig, settled } from '../support/batcher-rig.js'
import { until } from '../support/planned-faults.js'

const PAGE = 8192
const NAME = 'segments/x/1'

/** A place in the segments that says what it was asked and told. */
class Hold implements StorageHold {
  readonly log: string[] = []
  readonly encodedBytesMax = 200_000
  admission: Admission
  pageMeta: Uint8Array | null = null

  constructor(admission: Admission = 'go') { this.admission = admission }

  admit(): Admission {
    this.log.push('admit')
    return this.admission
  }
  encode(descriptors: Float64Array, base: number, blob: Uint8Array, at: number): number {
    this.log.push('encode')
    const { written } = new TextEncoder().encodeInto(NAME, blob.subarray(at))
    descriptors[base + Field.nameOffset] = at
    descriptors[base + Field.nameLength] = written
    descriptors[base + Field.fileOffset] = 40_960
    descriptors[base + Field.recordAt] = 5120
    blob.fill(7, at + written, at + 150_000)
    return at + 150_000
  }
  ended(how: 'untouched' | 'unknown' | number): void { this.log.push(`ended ${how}`) }
}

const write = (hold: Hold, bytes = new Uint8Array(PAGE)): object => ({ memory: { kind: 'copy-in', bytes }, length: bytes.length, storage: hold })
const cancelled = new HiCacheError('ERR_CANCELLED', 'x')

describe('the place of a request in the segments', () => {
  let rig: BatcherRig
  beforeEach(() => { rig = new BatcherRig() })

  it('is taken before memory, and fills in its part of the descriptor', async () => {
    const hold = new Hold()
    const page = new Uint8Array(PAGE).fill(9)
    const { results } = rig.submit(Op.segmentWrite, 'k', { ...write(hold, page), onResult: () => { hold.log.push('result') } })
    rig.submit(Op.segmentWrite, 'l', { ...write(new Hold(), page) })
    await settled()
    expect(hold.log).to.deep.equal(['admit', 'encode'])
    const [batch] = rig.batches
    expect(batch!.count).to.equal(2)
    const field = (name: keyof typeof Field): number => batch!.field(1, name)
    expect([field('op'), field('fileOffset'), field('recordAt'), field('length'), field('region')]).to.deep.equal([Op.segmentWrite, 40_960, 5120, PAGE, 1])
    expect(Buffer.from(batch!.blob.subarray(field('nameOffset'), field('nameOffset') + field('nameLength'))).toString()).to.equal(NAME)
    expect(field('nameOffset')).to.equal(150_000)
    await batch!.end()
    expect(hold.log).to.deep.equal(['admit', 'encode', 'ended 0', 'result'])
    expect(results[0]).to.include({ failure: null, status: Status.ok })
  })
  it('that has to be waited for holds back its own queue only, takes no memory, and is asked for again by pumpSoon()', async () => {
    const hold = new Hold('wait')
    rig.submit(Op.segmentWrite, 'k', write(hold))
    rig.submit(Op.segmentWrite, 'behind', write(new Hold()))
    rig.submit(Op.tombstones, 'evicted', { storage: new Hold() })
    rig.submit(Op.segmentRead, 'read', { memory: { kind: 'fresh' }, length: PAGE, storage: new Hold() })
    await settled()
    expect(rig.batches.map(({ count }) => count)).to.deep.equal([2])
    expect(rig.arena.usedBytes).to.equal(PAGE)
    hold.admission = 'go'
    rig.batcher.pumpSoon()
    await settled()
    expect(rig.batches.map(({ count }) => count)).to.deep.equal([2, 2])
    expect(hold.log.at(-1)).to.equal('encode')
    for (const batch of rig.batches) await batch.end()
    expect(hold.log.filter(line => line.startsWith('ended'))).to.deep.equal(['ended 0'])
  })
  it('that is refused rejects the request with the reason', async () => {
    const hold = new Hold({ refused: 'the disk is full' })
    const { results } = rig.submit(Op.segmentWrite, 'k', write(hold))
    const next = rig.submit(Op.segmentWrite, 'l', write(new Hold()))
    await settled()
    expect(results).to.have.length(1)
    expect(results[0]!.failure === 'rejected' && results[0]!.error).to.include({ code: 'ERR_REJECTED', key: 'k' })
    expect(results[0]!.failure === 'rejected' && results[0]!.error.message).to.match(/the disk is full/)
    expect(hold.log).to.deep.equal(['admit', 'ended untouched'])
    await rig.batches[0]!.end()
    expect(next.results).to.have.length(1)
  })
  it('may know the answer', async () => {
    const hold = new Hold({ answer: Status.length, length: 77 })
    const { results } = rig.submit(Op.segmentRead, 'k', { memory: { kind: 'fresh' }, length: PAGE, storage: hold })
    await settled()
    expect(results[0]).to.include({ failure: null, status: Status.length, length: 77 })
    expect(hold.log).to.deep.equal(['admit', 'ended untouched'])
    expect(rig.batches).to.have.length(0)
  })
  it('gives a read its meta, which segmentRead does not answer', async () => {
    const hold = new Hold()
    hold.pageMeta = new Uint8Array([1, 2, 3])
    const { results } = rig.submit(Op.segmentRead, 'k', { memory: { kind: 'fresh' }, length: PAGE, storage: hold })
    const joined = rig.submit(Op.segmentRead, 'k', { memory: { kind: 'fresh' }, length: PAGE, storage: new Hold() })
    await settled()
    await rig.batches[0]!.end()
    await until(() => results.length + joined.results.length === 2, 'both are copied')
    for (const [result] of [results, joined.results]) expect(result).to.deep.include({ failure: null, meta: hold.pageMeta })
  })
  it('hears that a request was called off before it was sent, and before it began', async () => {
    const waiting = new Hold('wait')
    const sent = new Hold()
    const first = rig.submit(Op.segmentWrite, 'sent', write(sent))
    await settled()
    const second = rig.submit(Op.segmentWrite, 'waiting', write(waiting))
    await settled()
    rig.batcher.cancel([first.request, second.request], cancelled)
    expect(waiting.log).to.deep.equal(['admit', 'ended untouched'])
    expect(sent.log).to.deep.equal(['admit', 'encode', 'ended untouched'])
    await rig.batches[0]!.end(Status.cancelled)
    expect(sent.log).to.deep.equal(['admit', 'encode', 'ended untouched'])
    expect(rig.arena.usedBytes).to.equal(0)
  })
  it('hears of one that was given up under way when native code lets go, and how it ended', async () => {
    const hold = new Hold()
    const other = new Hold()
    const { request, results } = rig.submit(Op.segmentWrite, 'k', write(hold))
    rig.submit(Op.segmentWrite, 'l', write(other))
    await settled()
    const [batch] = rig.batches
    batch!.start(0)
    rig.batcher.cancel([request], cancelled)
    expect(results[0]!.failure).to.equal('cancelled')
    expect(hold.log).to.deep.equal(['admit', 'encode'])
    batch!.done(0)
    batch!.done(1, Status.error)
    await until(() => rig.batcher.quarantinedBytes === 0, 'its memory is let go')
    expect(hold.log, 'its batch has not answered').to.deep.equal(['admit', 'encode'])
    await batch!.answer()
    expect(hold.log.at(-1)).to.equal('ended 0')
    expect(other.log.at(-1)).to.equal(`ended ${Status.error}`)
  })
  it('also when its batch answers before the kernel lets go', async () => {
    const hold = new Hold()
    const { request } = rig.submit(Op.segmentWrite, 'k', write(hold))
    await settled()
    const [batch] = rig.batches
    batch!.done(0, Status.error)
    batch!.start(0)
    rig.batcher.cancel([request], cancelled)
    await batch!.answer()
    expect(hold.log.at(-1)).to.equal('encode')
    batch!.done(0, Status.error)
    await until(() => hold.log.at(-1) === `ended ${Status.error}`, 'the end is told')
  })
  it('hears `unknown` when the worker is lost, `untouched` of what it had not begun', async () => {
    const [begun, queued, over] = [new Hold(), new Hold(), new Hold()]
    const results = [begun, queued, over].map((hold, i) => rig.submit(Op.segmentWrite, String(i), write(hold)).results)
    await settled()
    const [batch] = rig.batches
    batch!.start(0)
    batch!.done(2)
    await batch!.lose()
    for (const [result] of results) expect(result!.failure === 'failed' && result!.error.code).to.equal('ERR_WORKER')
    expect(begun.log.at(-1)).to.equal('encode')
    expect(queued.log.at(-1)).to.equal('ended untouched')
    expect(over.log.at(-1)).to.equal('ended unknown')
    batch!.done(0)
    await until(() => begun.log.at(-1) === 'ended unknown', 'the kernel let go')
  })
  it('hears of the end of the cache, once', async () => {
    const [begun, queued] = [new Hold(), new Hold()]
    const first = rig.submit(Op.segmentWrite, 'a', write(begun))
    const second = rig.submit(Op.segmentWrite, 'b', write(queued))
    await settled()
    rig.batches[0]!.start(0)
    rig.batcher.cancel([first.request, second.request], new HiCacheError('ERR_CLOSED', 'x'))
    rig.batcher.close()
    expect(begun.log.at(-1)).to.equal('ended unknown')
    expect(queued.log.at(-1)).to.equal('ended untouched')
    rig.batches[0]!.done(0)
    await rig.batches[0]!.lose()
    expect([...begun.log, ...queued.log].filter(line => line.startsWith('ended'))).to.have.length(2)
  })
})

describe('the number of requests that may wait', () => {
  it('is a bound that what is refused does not move', async () => {
    const rig = new BatcherRig()
    const submit = (count: number): number => Array.from({ length: count }, (_, i) => rig.submit(Op.pageCheck, String(i), { fromStorage: true })).filter(({ results }) => results.length > 0).length
    expect(submit(QUEUE_REQUESTS_MAX)).to.equal(0)
    expect(submit(100)).to.equal(100)
    expect(rig.batcher.queuedRequests).to.equal(QUEUE_REQUESTS_MAX)
    rig.batcher.cancel(rig.batcher.pending(), cancelled)
    await settled()
    expect([rig.batcher.queuedRequests, rig.batcher.queuedBytes, rig.batcher.unsettled]).to.deep.equal([0, 0, 0])
  })
})

describe('the order in which requests go', () => {
  it('records of evictions are not held back by anything that waits for them', async () => {
    const rig = new BatcherRig({ inFlightBytesMax: PAGE })
    rig.submit(Op.segmentWrite, 'a', write(new Hold()))
    await settled()
    rig.submit(Op.segmentWrite, 'b', write(new Hold()))
    rig.submit(Op.segmentRead, 'c', { memory: { kind: 'fresh' }, length: PAGE, storage: new Hold() })
    rig.submit(Op.tombstones, 'evicted', { storage: new Hold(), scope: rig.scope({ priority: 'background' }) })
    await settled()
    // Behind the read, which waits for bytes, as it was asked for later.
    expect(rig.batches).to.have.length(1)
    await rig.batches[0]!.end()
    expect(rig.batches.slice(1).flatMap(batch => Array.from({ length: batch.count }, (_, i) => batch.field(i, 'op')))).to.deep.equal([Op.segmentRead, Op.tombstones])
  })
  it('writes go as the window lets them, reads at once', async () => {
    const rig = new BatcherRig()
    const page = new Uint8Array(3 * 1024 * 1024)
    const source = rig.arena.allocate(page.length)!
    source.hold()
    const memory = { kind: 'direct', region: 1, offset: source.offset, owner: source, bytes: source.view() } as const
    const window = rig.batcher.writeWindowBytes
    const fit = Math.ceil(window / page.length)
    for (let i = 0; i < fit + 2; i++) rig.submit(Op.segmentWrite, `w${i}`, { memory, length: page.length, storage: new Hold() })
    await settled()
    const sent = (): number => rig.batches.reduce((sum, { count }) => sum + count, 0)
    expect(sent()).to.equal(fit)
    rig.submit(Op.segmentRead, 'r', { memory: { kind: 'fresh' }, length: PAGE, storage: new Hold() })
    await settled()
    expect(sent()).to.equal(fit + 1)
    expect(rig.batches.at(-1)!.field(0, 'op')).to.equal(Op.segmentRead)
  })
  it('background waits for the rest, but not for ever', async () => {
    const rig = new BatcherRig()
    rig.submit(Op.segmentWrite, 'stuck', write(new Hold('wait')))
    rig.submit(Op.segmentRead, 'b', { memory: { kind: 'fresh' }, length: PAGE, storage: new Hold(), scope: rig.scope({ priority: 'background' }) })
    await settled()
    expect(rig.batches).to.have.length(0)
    await until(() => rig.batches.length === 1, 'the background read goes')
    rig.batcher.close()
  })
})

describe('a read that several wait for', () => {
  const read = { memory: { kind: 'fresh' }, length: PAGE } as const

  it('is taken over by the next one when its worker is lost', async () => {
    const rig = new BatcherRig()
    const all = [1, 2, 3].map(() => rig.submit(Op.pageRead, 'k', read).results)
    await settled()
    expect(rig.batches.map(({ count }) => count)).to.deep.equal([1])
    await rig.batches[0]!.lose()
    expect(all.map(({ length }) => length)).to.deep.equal([1, 0, 0])
    expect(rig.batches.map(({ count }) => count)).to.deep.equal([1, 1])
    await rig.batches[1]!.end()
    await until(() => all.every(({ length }) => length === 1), 'all are answered')
    expect(all.slice(1).every(([result]) => result!.failure === null && result!.bytes?.length === PAGE)).to.equal(true)
    expect(rig.batcher.unsettled).to.equal(0)
    expect(rig.arena.usedBytes).to.equal(0)
  })
  it('is not joined by one whose flags ask for something else, and storage may be asked alone', async () => {
    const rig = new BatcherRig()
    rig.submit(Op.pageRead, 'k', read)
    rig.submit(Op.pageRead, 'k', { ...read, flags: 1 })
    rig.submit(Op.pageRead, 'k', { ...read, fromStorage: true })
    await settled()
    expect(rig.batches.map(({ count }) => count)).to.deep.equal([3])
  })
  it('that still waits in the background is not waited for', async () => {
    const rig = new BatcherRig()
    rig.submit(Op.pageWrite, 'x', { memory: { kind: 'copy-in', bytes: new Uint8Array(PAGE) }, length: PAGE, storage: new Hold('wait') })
    rig.submit(Op.pageRead, 'k', { ...read, scope: rig.scope({ priority: 'background' }) })
    const { results } = rig.submit(Op.pageRead, 'k', read)
    await settled()
    expect(rig.batches.map(({ count }) => count)).to.deep.equal([1])
    await rig.batches[0]!.end()
    await until(() => results.length === 1, 'the foreground read is answered')
    rig.batcher.close()
  })
  it('a joiner waits in no queue and is known to be pending', async () => {
    const rig = new BatcherRig()
    const [one, two] = [rig.submit(Op.pageRead, 'k', read), rig.submit(Op.pageRead, 'k', read)]
    await settled()
    expect(new Set(rig.batcher.pending())).to.deep.equal(new Set([one.request, two.request]))
    rig.batcher.cancel(rig.batcher.pending(), cancelled)
    expect([one.results[0]!.failure, two.results[0]!.failure]).to.deep.equal(['cancelled', 'cancelled'])
    expect(rig.batcher.unsettled).to.equal(0)
    expect(rig.batcher.queuedRequests).to.equal(0)
  })
})
