import { createServer, type IncomingMessage } from 'node:http'
import { once } from 'node:events'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { forward } from './tls-front.js'
import type { Workbench } from './workbench.js'

/** An HTTP proxy, as companies have them between their machines and the rest: it sees plain requests, and tunnels the others. */
export interface ForwardProxy {
  /** `http://127.0.0.1:port`. */
  readonly url: string
  readonly port: number
  /** `host:port` of each tunnel that was asked for (CONNECT). */
  readonly tunnels: readonly string[]
  /** Method and absolute URL of each plain request. */
  readonly requests: readonly string[]
  /** The Proxy-Authorization of everything that came, '' where there was none. */
  readonly authorizations: readonly string[]
}

/** Every name below `localhost` is this machine. Ended after the spec's caches. */
export async function forwardProxy(bench: Workbench): Promise<ForwardProxy> {
  const tunnels: string[] = []
  const requests: string[] = []
  const authorizations: string[] = []
  const sockets = new Set<Socket>()
  const address = (host: string): string => host === 'localhost' || host.endsWith('.localhost') ? '127.0.0.1' : host
  const keep = (socket: Socket): void => {
    sockets.add(socket)
    socket.on('close', () => { sockets.delete(socket) }).on('error', () => { socket.destroy() })
  }

  const server = createServer((message, response) => {
    requests.push(`${message.method} ${message.url}`)
    authorizations.push(message.headers['proxy-authorization'] ?? '')
    if (!URL.canParse(message.url!)) {
      response.writeHead(400).end()
      return
    }
    const { hostname, port, pathname, search } = new URL(message.url!)
    // The path as it stands in the request: parsing might write it in another way, and then its signature would not hold.
    const target = message.url!.slice(message.url!.indexOf('/', message.url!.indexOf('//') + 2))
    forward(message, response, `http://${address(hostname)}:${port === '' ? '80' : port}`, target.startsWith('/') ? target : pathname + search, false)
  })
  server.on('connect', (message: IncomingMessage, client: Socket, head: Buffer) => {
    tunnels.push(message.url!)
    authorizations.push(message.headers['proxy-authorization'] ?? '')
    const [, host, port] = /^(.*):(\d+)$/.exec(message.url!) ?? ['', '', '0']
    const onward = connect(Number(port), address(host))
    keep(onward)
    onward.once('connect', () => {
      client.write('HTTP/1.1 200 Connection established\r\n\r\n')
      onward.write(head)
      client.pipe(onward).pipe(client)
    })
    onward.once('close', () => { client.destroy() })
    client.once('close', () => { onward.destroy() })
  })
  server.on('connection', keep)
  Object.assign(server, { keepAliveTimeout: 0, requestTimeout: 0, headersTimeout: 0, timeout: 0 })

  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  bench.atLast(async () => {
    const closed = once(server, 'close')
    server.close()
    for (const socket of sockets) socket.destroy()
    await closed
  })
  const { port } = server.address() as AddressInfo
  return { url: `http://127.0.0.1:${port}`, port, tunnels, requests, authorizations }
}
