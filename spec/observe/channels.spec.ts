import { AsyncLocalStorage } from 'node:async_hooks'
import { tracingChannel } from 'node:diagnostics_channel'
import { expect } from 'chai'
import { traceTransfer, type TransferContext } from '../../lib/observe/channels.js'

const EVENTS = ['start', 'end', 'asyncStart', 'asyncEnd', 'error'] as const
type EventName = typeof EVENTS[number]
interface Seen { readonly event: EventName; readonly context: TransferContext; readonly store: unknown }

/** Subscribes to all events of an operation while `run` runs. */
async function watching(op: 'read' | 'write', storage: AsyncLocalStorage<unknown>, run: () => Promise<void>): Promise<Seen[]> {
  const channel = tracingChannel<unknown, TransferContext>(`hicache-nixl:${op}`)
  const seen: Seen[] = []
  const subscribers = Object.fromEntries(EVENTS.map(event =>
    [event, (context: unknown) => { seen.push({ event, context: context as TransferContext, store: storage.getStore() }) }])) as
    Record<EventName, (message: TransferContext) => void>
  channel.subscribe(subscribers)
  try {
    await run()
  } finally {
    channel.unsubscribe(subscribers)
  }
  return seen
}

/** Settles promises from an async context of its own, as a worker's message does. */
class Elsewhere {
  readonly #waiting: (() => void)[] = []
  settle(act: () => void): void { this.#waiting.push(act) }
  async run(): Promise<void> {
    await new Promise<void>(resolve => { setImmediate(resolve) })
    for (const act of this.#waiting.splice(0)) act()
  }
}

describe('diagnostics channels', () => {
  it('publish every stage of a transfer, in the async context of its caller, at the end too', async () => {
    const storage = new AsyncLocalStorage<unknown>()
    const elsewhere = new Elsewhere()
    const outside = storage.run('the worker', async () => await elsewhere.run())
    const context: TransferContext = { op: 'read', pages: 2, bytes: 0 }
    const seen = await watching('read', storage, async () => {
      const answer = storage.run('the caller', async () => await traceTransfer('read', context, async () =>
        await new Promise<string>(resolve => { elsewhere.settle(() => { context.outcomes = { hit: 2 }; resolve('pages') }) })))
      await outside
      expect(await answer).to.equal('pages')
    })
    expect(seen.map(({ event }) => event)).to.deep.equal(['start', 'end', 'asyncStart', 'asyncEnd'])
    for (const { context: published, store } of seen) {
      expect(published).to.equal(context)
      expect(store).to.equal('the caller')
    }
    expect(context.outcomes).to.deep.equal({ hit: 2 })
  })

  it('never hand out the result, which is page bytes', async () => {
    const context: TransferContext = { op: 'read', pages: 1, bytes: 4 }
    await watching('read', new AsyncLocalStorage(), async () => {
      await traceTransfer('read', context, () => Promise.resolve(Buffer.from('page')))
    })
    expect(Object.keys(context)).to.have.members(['op', 'pages', 'bytes'])
  })

  it('publish an error and pass it on, whether it is thrown or rejected', async () => {
    for (const synchronous of [false, true]) {
      const failure = new Error('closed')
      const context: TransferContext = { op: 'write', pages: 1, bytes: 1 }
      const seen = await watching('write', new AsyncLocalStorage(), async () => {
        let caught: unknown
        try {
          await traceTransfer('write', context, () => { if (synchronous) throw failure; return Promise.reject(failure) })
        } catch (error) {
          caught = error
        }
        expect(caught).to.equal(failure)
      })
      expect(context.error).to.equal(failure)
      expect(seen.map(({ event }) => event)).to.deep.equal(synchronous ? ['start', 'error', 'end'] : ['start', 'end', 'error', 'asyncStart', 'asyncEnd'])
    }
  })

  it('bind stores: a tracer\'s span is current inside the transfer', async () => {
    const span = new AsyncLocalStorage<string>()
    const { start } = tracingChannel<string, TransferContext>('hicache-nixl:write')
    start.bindStore(span, context => `span of ${context.pages} pages`)
    try {
      const inside = await traceTransfer('write', { op: 'write', pages: 3, bytes: 0 }, () => Promise.resolve(span.getStore()))
      expect(inside).to.equal('span of 3 pages')
    } finally {
      start.unbindStore(span)
    }
  })

  it('cost nothing without subscribers: the transfer\'s own promise is the answer', () => {
    const promise = Promise.resolve(1)
    expect(traceTransfer('read', { op: 'read', pages: 1, bytes: 0 }, () => promise)).to.equal(promise)
  })

  it('keep the operations apart', async () => {
    const seen = await watching('read', new AsyncLocalStorage(), async () => {
      await traceTransfer('write', { op: 'write', pages: 1, bytes: 0 }, () => Promise.resolve())
    })
    expect(seen).to.deep.equal([])
  })
})
