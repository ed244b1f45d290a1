import { tracingChannel, type TracingChannel } from 'node:diagnostics_channel'

/**
 * What subscribers of `tracing:hicache-nixl:read:*` and `tracing:hicache-nixl:write:*` get: the same object in `start`, `end`, `asyncStart`,
 * `asyncEnd` and `error`. It never holds page bytes, keys' contents or secrets.
 */
export interface TransferContext {
  op: 'read' | 'write'
  /** Pages of the call. */
  pages: number
  /** Payload bytes of the call as far as they are known at the start; those that moved at the end. */
  bytes: number
  /** At `asyncEnd`: pages by outcome (`hit`, `absent`, `stored`, ...). */
  outcomes?: Record<string, number>
  /** At `error`: why the call as a whole rejected. A page's own failure is an outcome, not an error. */
  error?: unknown
}

type Channel = TracingChannel<unknown, TransferContext>
const channels: Record<'read' | 'write', Channel> = {
  read: tracingChannel<unknown, TransferContext>('hicache-nixl:read'),
  write: tracingChannel<unknown, TransferContext>('hicache-nixl:write'),
}

/** Has anybody subscribed to the events of these transfers? */
export function isTraced(op: 'read' | 'write'): boolean {
  const { start, end, asyncStart, asyncEnd, error } = channels[op]
  return start.hasSubscribers || end.hasSubscribers || asyncStart.hasSubscribers || asyncEnd.hasSubscribers || error.hasSubscribers
}

/**
 * Runs a transfer with its channel's events around it. Subscribers run in the caller's async context, at the end too, whichever worker's message settled
 * the promise. Without subscribers this is `run()`.
 *
 * It does what TracingChannel.tracePromise does, less one thing: that one puts the result into the context, and the result is page bytes.
 */
export function traceTransfer<T>(op: 'read' | 'write', context: TransferContext, run: () => Promise<T>): Promise<T> {
  const { start, end, asyncStart, asyncEnd, error } = channels[op]
  if (!isTraced(op)) return run()

  const fail = (thrown: unknown): void => {
    context.error = thrown
    error.publish(context)
  }
  return start.runStores(context, () => {
    let promise: Promise<T>
    try {
      promise = run()
    } catch (thrown) {
      fail(thrown)
      throw thrown
    } finally {
      end.publish(context)
    }
    // then() captures the async context of this very call, so what resolves the promise (a worker's message) does not matter.
    return promise.then((value) => {
      asyncStart.publish(context)
      asyncEnd.publish(context)
      return value
    }, (thrown: unknown) => {
      fail(thrown)
      asyncStart.publish(context)
      asyncEnd.publish(context)
      throw thrown
    })
  })
}
