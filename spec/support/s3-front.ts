import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo, Socket } from 'node:net'
import { forward } from './tls-front.js'
import type { Workbench } from './workbench.js'

/** A request that came through. */
export interface FrontRequest {
  readonly method: string
  /** What follows the last / of the key, decoded: the stored key of a page. */
  readonly name: string
  readonly query: string
  /** Of its body, as it says. */
  readonly bytes: number
  readonly headers: IncomingMessage['headers']
}

/**
 * Stands before a real object store, lets everything through as it came, counts it, and keeps back what it is told to. What the store does is real; only when, and
 * how often, shows here.
 */
export class S3Front {
  readonly requests: FrontRequest[] = []
  readonly #upstream: string
  readonly #server = createServer((message, response) => { void this.#serve(message, response) })
  readonly #sockets = new Set<Socket>()
  readonly #gates = new Set<{ readonly match: string; readonly method: string | undefined; readonly query: string; readonly open: Promise<void>; readonly release: () => void }>()
  #held = 0

  constructor(upstream: string) { this.#upstream = upstream }

  get endpoint(): string { return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}` }
  /** Requests that are kept back now. */
  get held(): number { return this.#held }
  /** Connections that are open now. */
  get connections(): number { return this.#sockets.size }

  /** Requests of a method, perhaps only those for names that contain `match`. */
  count(method: string, match = ''): number { return this.requests.filter(request => request.method === method && request.name.includes(match)).length }

  /** From now on requests for names that contain `match` get no further: those of the method, whose query begins so. Answers how to let them go. */
  hold(match: string, method?: string, query = ''): () => void {
    let open = (): void => {}
    const gate = { match, method, query, open: new Promise<void>(resolve => { open = resolve }), release: () => { open() } }
    this.#gates.add(gate)
    return () => {
      this.#gates.delete(gate)
      gate.release()
    }
  }

  async up(): Promise<void> {
    Object.assign(this.#server, { keepAliveTimeout: 0, requestTimeout: 0, headersTimeout: 0, timeout: 0 })
    this.#server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket)
      socket.on('close', () => { this.#sockets.delete(socket) }).on('error', () => {})
    })
    this.#server.listen(0, '127.0.0.1')
    await once(this.#server, 'listening')
  }

  /** Lets go whatever is kept back. */
  release(): void {
    for (const gate of this.#gates) gate.release()
    this.#gates.clear()
  }

  /** Ends all connections. */
  drop(): void { for (const socket of this.#sockets) socket.destroy() }

  async down(): Promise<void> {
    this.release()
    const closed = once(this.#server, 'close')
    this.#server.close()
    this.drop()
    await closed
  }

  async #serve(message: IncomingMessage, response: ServerResponse): Promise<void> {
    const [path, query = ''] = message.url!.split('?', 2) as [string, string?]
    const name = decodeURIComponent(path.slice(path.lastIndexOf('/') + 1))
    this.requests.push({ method: message.method!, name, query, bytes: Number(message.headers['content-length'] ?? 0), headers: message.headers })
    const gate = [...this.#gates].find(gate => name.includes(gate.match) && (gate.method === undefined || gate.method === message.method) && query.startsWith(gate.query))
    if (gate !== undefined) {
      this.#held++
      const left = once(response, 'close')
      await Promise.race([gate.open, left])
      this.#held--
      // Whoever does not wait any more wants it done no more either.
      if (response.destroyed) return
    }
    forward(message, response, this.#upstream, message.url!, false)
  }
}

/** A front of this spec: what it keeps back is let go before the spec's caches are closed, and it ends after them. */
export async function s3Front(bench: Workbench, upstream: string): Promise<S3Front> {
  const front = new S3Front(upstream)
  await front.up()
  bench.atEnd(() => { front.release() })
  bench.atLast(() => front.down())
  return front
}
