import { expect } from 'chai'
import { CallScope } from '../../lib/transfer/call-scope.js'
import { Op } from '../../lib/transfer/protocol.js'
import { DirectoryLane } from '../../lib/transfer/directory-lane.js'
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
  it('foreground goes before background', () => {
    const lane = new DirectoryLane(0, 100, 1)
    const [background, foreground] = [request('b', new CallScope({ priority: 'background' }, 1000)), request('f')]
    lane.push(background)
    lane.push(foreground)
    expect(lane.waiting()).to.deep.equal([foreground, background])
    expect(lane.peek()).to.equal(foreground)
    lane.shift()
    expect(lane.peek()).to.equal(background)
    lane.shift()
    expect(lane.peek()).to.equal(null)
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
