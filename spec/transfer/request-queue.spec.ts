import { expect } from 'chai'
import { CallScope } from '../../lib/transfer/call-scope.js'
import { Op } from '../../lib/transfer/protocol.js'
import { DirectoryLane, OVERDUE_MS } from '../../lib/transfer/directory-lane.js'
import { RequestQueue } from '../../lib/transfer/request-queue.js'
import { TransferRequest } from '../../lib/transfer/transfer-request.js'
import { HiCacheError } from '../../lib/index.js'

function request(key: string, scope = new CallScope({}, 1000)): TransferRequest {
  return new TransferRequest({ op: Op.pageCheck, flags: 0, directory: 0, storedKey: key, memory: { kind: 'none' }, length: 0, meta: new Uint8Array(0), scope, onResult: () => {} })
}
const end = (one: TransferRequest): void => { one.settle({ failure: 'cancelled', error: new HiCacheError('ERR_CANCELLED', 'x') }) }

describe('the request queue', () => {
  it('first in, first out, over many thousands', () => {
    const queue = new RequestQueue()
    let expected = 0
    let pushed = 0
    for (let round = 0; round < 5; round++) {
      for (let i = 0; i < 5000; i++) queue.push(request(String(pushed++)))
      for (let i = 0; i < 4000; i++) {
        expect(queue.peek()!.storedKey).to.equal(String(expected++))
        queue.shift()
      }
    }
    expect(queue.waiting()).to.have.length(pushed - expected)
    while (queue.peek()) {
      expect(queue.peek()!.storedKey).to.equal(String(expected++))
      queue.shift()
    }
    expect(expected).to.equal(pushed)
  })
  it('what was settled while it waited is passed over, and takes nobody with it', () => {
    const queue = new RequestQueue()
    const requests = ['a', 'b', 'c', 'd'].map(key => request(key))
    for (const one of requests) queue.push(one)
    end(requests[0]!)
    end(requests[2]!)
    expect(queue.waiting().map(({ storedKey }) => storedKey)).to.deep.equal(['b', 'd'])
    expect(queue.peek()).to.equal(requests[1])
    end(requests[1]!)
    expect(queue.peek()).to.equal(requests[3])
    queue.shift()
    expect(queue.peek()).to.equal(null)
  })
})

describe('the lane of a directory', () => {
  const MIB = 1024 * 1024
  const make = (op: number, priority: 'foreground' | 'background' = 'foreground', length = 0): TransferRequest => new TransferRequest({
    op, flags: 0, directory: 0, storedKey: 'k', memory: { kind: 'none' }, length, meta: new Uint8Array(0), scope: new CallScope({ priority }, 1000), onResult: () => {}
  })
  const names = (lane: DirectoryLane, now = performance.now()): string[] => lane.turns(now).map(([queue, batches]) =>
    `${queue === lane.urgent ? 'urgent' : queue === lane.writes ? 'writes' : 'background'} ${batches}`)

  it('reads, look-ups and records are urgent, then come writes and deletes; an eviction is never background', () => {
    const lane = new DirectoryLane(0, 100 * MIB, 16)
    for (const op of [Op.pageRead, Op.pageCheck, Op.segmentRead, Op.tombstones]) expect(lane.queueOf(make(op)), String(op)).to.equal(lane.urgent)
    for (const op of [Op.pageWrite, Op.pageDelete, Op.segmentWrite]) expect(lane.queueOf(make(op)), String(op)).to.equal(lane.writes)
    for (const op of [Op.pageRead, Op.pageWrite, Op.pageTouch]) expect(lane.queueOf(make(op, 'background')), String(op)).to.equal(lane.background)
    expect(lane.queueOf(make(Op.tombstones, 'background'))).to.equal(lane.urgent)
  })
  it('background has its turn when nothing else waits', () => {
    const lane = new DirectoryLane(0, 100 * MIB, 16)
    const [background, write, read] = [make(Op.pageRead, 'background'), make(Op.pageWrite), make(Op.pageRead)]
    for (const one of [background, write, read]) lane.push(one)
    expect(lane.waiting()).to.deep.equal([read, write, background])
    expect(names(lane)).to.deep.equal(['urgent Infinity', 'writes Infinity'])
    end(read)
    expect(names(lane)).to.deep.equal(['urgent Infinity', 'writes Infinity'])
    end(write)
    expect(names(lane)).to.deep.equal(['urgent Infinity', 'writes Infinity', 'background Infinity'])
  })
  it('what waited too long goes first, one batch at a time', () => {
    const lane = new DirectoryLane(0, 100 * MIB, 16)
    const [background, write, read] = [make(Op.pageRead, 'background'), make(Op.pageWrite), make(Op.pageRead)]
    for (const one of [background, write, read]) lane.push(one)
    const later = performance.now() + OVERDUE_MS
    expect(names(lane, later)).to.deep.equal(['writes 1', 'background 1', 'urgent Infinity', 'writes Infinity'])
    lane.background.batchesInFlight = 1
    expect(names(lane, later)).to.deep.equal(['writes 1', 'urgent Infinity', 'writes Infinity'])
  })
  it('writes and background leave batches and bytes to reads, and reads to writes that wait', () => {
    const lane = new DirectoryLane(0, 40 * MIB, 16)
    lane.batchesInFlight = lane.writes.batchesInFlight = 12
    expect([lane.urgent, lane.writes, lane.background].map(queue => lane.hasBatch(queue))).to.deep.equal([true, false, false])
    lane.writes.batchesInFlight = 0
    lane.urgent.batchesInFlight = 12
    lane.bytesInFlight = lane.urgent.bytesInFlight = 30 * MIB
    expect(lane.hasBatch(lane.urgent)).to.equal(true)
    expect(lane.hasBytes(lane.urgent, 10 * MIB)).to.equal(true)
    expect(lane.hasBytes(lane.urgent, 11 * MIB)).to.equal(false)
    lane.push(make(Op.pageWrite, 'foreground', 5 * MIB))
    expect(lane.hasBatch(lane.urgent)).to.equal(false)
    expect(lane.hasBytes(lane.urgent, 1)).to.equal(false)
    expect(lane.hasBytes(lane.writes, 5 * MIB)).to.equal(true)
  })
  it('the window opens and closes by what is in flight; at least one write goes, whatever its size', () => {
    const lane = new DirectoryLane(0, 100 * MIB, 16)
    expect(lane.windowOpen()).to.equal(true)
    lane.writeBytesInFlight = lane.window.bytes - 1
    expect(lane.windowOpen()).to.equal(true)
    lane.writeBytesInFlight++
    expect(lane.windowOpen()).to.equal(false)
    expect(new DirectoryLane(0, 1, 16).windowOpen()).to.equal(true)
    expect(new DirectoryLane(0, 1000 * MIB, 16, 2 * MIB).window.bytes).to.equal(2 * MIB)
  })
})

describe('the scope of a call', () => {
  it('a signal that has fired ends its requests at once', () => {
    const scope = new CallScope({ signal: AbortSignal.abort('why') }, 1000)
    const requests = [request('a', scope), request('b', scope)]
    let ended: readonly TransferRequest[] = []
    scope.watch((unsettled, error) => {
      ended = unsettled
      expect(error).to.include({ code: 'ERR_CANCELLED', cause: 'why' })
    })
    expect(ended).to.deep.equal(requests)
    for (const one of requests) end(one)
  })
  it('one listener and one timer a call, gone when its last request is settled', () => {
    let listeners = 0
    const signal = { aborted: false, addEventListener: () => { listeners++ }, removeEventListener: () => { listeners-- } } as unknown as AbortSignal
    const scope = new CallScope({ signal, timeoutMs: 60_000 }, 1)
    const requests = Array.from({ length: 100 }, (_, i) => request(String(i), scope))
    scope.watch(() => { expect.fail('nothing ended it') })
    expect(listeners).to.equal(1)
    for (const one of requests.slice(1)) end(one)
    expect(listeners).to.equal(1)
    end(requests[0]!)
    expect(listeners).to.equal(0)
  })
})
