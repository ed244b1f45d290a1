import { execFile } from 'node:child_process'
import { request, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer } from 'node:https'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { mkdtemp, readFile, writeFile } from 'node:fs/promises'
import type { AddressInfo, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Workbench } from './workbench.js'

/** `*.localhost` is refused by verifiers, as `*.com` is. */
const NAMES = 'DNS:s3.localhost,DNS:*.s3.localhost,IP:127.0.0.1'
const KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']

interface Certificates {
  readonly directory: string
  readonly caFile: string
  readonly otherCaFile: string
  readonly key: Buffer
  readonly certificate: Buffer
}
let made: Promise<Certificates> | undefined

/** An authority, another one that has signed nothing, and a certificate of the first one: once a process. */
async function makeCertificates(): Promise<Certificates> {
  const directory = await mkdtemp(join(tmpdir(), 'hicache-tls-'))
  process.once('exit', () => { rmSync(directory, { recursive: true, force: true }) })
  const file = (name: string): string => join(directory, name)
  const openssl = async (...words: readonly string[]): Promise<void> => { await promisify(execFile)('openssl', words) }
  const authority = (name: string): Promise<void> => openssl('req', '-x509', ...KEY, '-keyout', file(`${name}.key`), '-out', file(`${name}.pem`), '-days', '2',
    '-subj', `/CN=spec ${name}`)
  await Promise.all([authority('ca'), authority('other-ca'), writeFile(file('names'), `subjectAltName=${NAMES}\n`)])
  await openssl('req', '-new', ...KEY, '-keyout', file('server.key'), '-out', file('server.csr'), '-subj', '/CN=s3.localhost')
  await openssl('x509', '-req', '-in', file('server.csr'), '-CA', file('ca.pem'), '-CAkey', file('ca.key'), '-set_serial', '1', '-days', '2',
    '-extfile', file('names'), '-out', file('server.pem'))
  const [key, certificate] = await Promise.all(['server.key', 'server.pem'].map(name => readFile(file(name)))) as [Buffer, Buffer]
  return { directory, caFile: file('ca.pem'), otherCaFile: file('other-ca.pem'), key, certificate }
}

/** TLS in front of a server of the specs. What goes through is as it was: the Host header, too, which is signed. */
export interface TlsFront {
  /** `https://127.0.0.1:port`. */
  readonly endpoint: string
  /** `https://s3.localhost:port`, below which a bucket has a name of its own. libcurl resolves it by itself, Node does not. */
  readonly namedEndpoint: string
  readonly port: number
  /** PEM of the authority that vouches for it, and of one that does not. */
  readonly caFile: string
  readonly otherCaFile: string
  /** Host headers of the requests that came through, in their order. */
  readonly hosts: readonly string[]
  /** Connections that came as far as a TLS session. */
  readonly sessions: number
}

/** `upstream`: `http://address:port`. Ended after the spec's caches. */
export async function tlsFront(bench: Workbench, upstream: string): Promise<TlsFront> {
  const { key, certificate, caFile, otherCaFile } = await (made ??= makeCertificates())
  const hosts: string[] = []
  const sockets = new Set<Socket>()
  let sessions = 0
  const server = createServer({ key, cert: certificate }, (message, response) => { pass(message, response, false) })
  server.on('checkContinue', (message: IncomingMessage, response: ServerResponse) => { pass(message, response, true) })
  server.on('secureConnection', () => { sessions++ })
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('close', () => { sockets.delete(socket) }).on('error', () => {})
  })
  Object.assign(server, { keepAliveTimeout: 0, requestTimeout: 0, headersTimeout: 0, timeout: 0 })

  function pass(message: IncomingMessage, response: ServerResponse, waits: boolean): void {
    hosts.push(message.headers.host ?? '')
    forward(message, response, upstream, message.url!, waits)
  }

  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  bench.atLast(async () => {
    const closed = once(server, 'close')
    server.close()
    for (const socket of sockets) socket.destroy()
    await closed
  })
  const { port } = server.address() as AddressInfo
  return {
    endpoint: `https://127.0.0.1:${port}`, namedEndpoint: `https://s3.localhost:${port}`, port, caFile, otherCaFile, hosts,
    get sessions() { return sessions }
  }
}

/** Hop by hop: they concern one connection, not the request. */
const HOP = new Set(['connection', 'keep-alive', 'proxy-connection', 'proxy-authorization'])

function endToEnd(rawHeaders: readonly string[]): string[] {
  return rawHeaders.filter((_, index) => !HOP.has(rawHeaders[index & ~1]!.toLowerCase()))
}

/** Sends a request on as it came, and its answer back. When either side breaks off, the other one is told in the same way. */
export function forward(message: IncomingMessage, response: ServerResponse, upstream: string, path: string, waits: boolean): void {
  const { hostname, port } = new URL(upstream)
  // A connection for each request: one that is kept may be closed by the server at the moment it is used again.
  const onward = request({ host: hostname, port, method: message.method, path, headers: endToEnd(message.rawHeaders), setHost: false, agent: false })
  // The server is asked whether it wants the body at all.
  if (waits) onward.on('continue', () => { response.writeContinue() })
  onward.on('response', answer => {
    response.sendDate = false
    response.writeHead(answer.statusCode!, endToEnd(answer.rawHeaders))
    answer.pipe(response)
    answer.on('error', () => { response.destroy() })
  })
  onward.on('error', () => { response.destroy() })
  response.on('close', () => { onward.destroy() })
  message.on('error', () => { onward.destroy() })
  message.pipe(onward)
}
