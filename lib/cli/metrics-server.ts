import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { HiCacheError } from '../error.js'
import type { HiCacheNixl } from '../index.js'
import type { DirectoryUsage } from './directory-usage.js'

/** A scraper gives up after seconds; a first count of a large store may take longer and is then in a later answer. */
const COUNT_WAIT_MS = 2000

/** Serves /metrics and /health, to this machine only. */
export class MetricsServer {
  readonly #cache: HiCacheNixl
  readonly #usage: DirectoryUsage
  readonly #server: Server

  constructor(cache: HiCacheNixl, usage: DirectoryUsage) {
    this.#cache = cache
    this.#usage = usage
    this.#server = createServer({ requestTimeout: 5000, headersTimeout: 5000, keepAliveTimeout: 5000 }, (request, response) => {
      this.#answer(request, response).catch(() => response.destroy())
    })
    this.#server.maxConnections = 64
  }

  /** The URL that it serves. Rejects with ERR_IO when the port is taken. */
  async listen(port: number): Promise<string> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', (error: NodeJS.ErrnoException) => {
        reject(new HiCacheError('ERR_IO', `cannot listen on 127.0.0.1:${port}: ${error.message}. Choose another --port; 0 takes a free one.`,
          { cause: error, ...(error.code === undefined ? {} : { errno: error.code }) }))
      })
      this.#server.listen(port, '127.0.0.1', resolve)
    })
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise<void>((resolve) => this.#server.close(() => resolve()))
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const send = (status: number, type: string, body: string): void => {
      response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body), 'cache-control': 'no-store' })
      response.end(request.method === 'HEAD' ? undefined : body)
    }
    const path = (request.url ?? '/').split('?', 1)[0]
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.setHeader('allow', 'GET, HEAD')
      send(405, 'text/plain; charset=utf-8', 'GET and HEAD only\n')
    } else if (path === '/metrics') {
      await this.#count()
      send(200, 'text/plain; version=0.0.4; charset=utf-8', this.#cache.metrics() + this.#usage.text())
    } else if (path === '/health') {
      const health = this.#cache.health()
      // Degraded still serves; only a cache that is closing should get no more traffic.
      send(health.status === 'ok' || health.status === 'degraded' ? 200 : 503, 'application/json', `${JSON.stringify(health)}\n`)
    } else {
      send(404, 'text/plain; charset=utf-8', '/metrics and /health are here\n')
    }
  }

  async #count(): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    const waited = new Promise<void>((resolve) => { timer = setTimeout(resolve, COUNT_WAIT_MS) })
    await Promise.race([this.#usage.refresh(), waited])
    clearTimeout(timer)
  }
}
