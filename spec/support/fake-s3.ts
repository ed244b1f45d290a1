import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo, Socket } from 'node:net'
import { FakeBucket, type FakeAnswer } from './fake-s3-bucket.js'
import { FakeS3Error } from './fake-s3-error.js'
import { PlannedFault, type FakeFault, type FakeTrouble } from './fake-s3-faults.js'
import { splitUrl, verifySignature, type FakeKeys } from './fake-s3-signature.js'
import type { Workbench } from './workbench.js'

export interface FakeRequest {
  readonly method: string
  /** As it came on the wire. */
  readonly url: string
  readonly key: string
  readonly query: ReadonlyMap<string, string>
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>
  /** Which connection it came on, counted from 1. */
  readonly socket: number
  /** When its headers were there; performance.now(). */
  readonly arrivedAt: number
  /** Of the body, so far. */
  bodyBytes: number
  /** Of the answer; 0: none yet, or never. */
  status: number
  /** `cut` by a planned fault, or `left` by the client before it had its answer. */
  outcome: 'open' | 'answered' | 'cut' | 'left'
}

type Kind<K extends FakeTrouble['kind']> = Extract<FakeTrouble, { readonly kind: K }>
/** The fault of a kind that strikes the request at hand. */
type Troubles = <K extends FakeTrouble['kind']>(kind: K, when?: string) => (Kind<K> & { readonly planned: PlannedFault }) | undefined

/**
 * A small S3 server in this process FOR FAULTS ONLY: what it says is what its author took from S3's documentation, so that a client gets on with it proves
 * little. What proves that is the real radosgw (ceph.ts). It is there for what a sound server cannot be made to do: to fail in every way, at a given moment,
 * counted.
 *
 * One bucket, in memory, addressed by path or as `<bucket>.s3.localhost`. It verifies signatures and all digests that come with a body. Nothing waits for a
 * clock: what is slow is held until it is released.
 */
export class FakeS3 {
  readonly host = '127.0.0.1'
  readonly region = 'us-east-1'
  readonly accessKey = 'FAKEACCESSKEY'
  readonly secretKey = 'fake-secret-key'
  readonly bucket = new FakeBucket('pages')
  /** By access key. */
  readonly keys = new Map<string, FakeKeys>([[this.accessKey, { secretKey: this.secretKey }]])
  /** All that arrived, in its order. */
  readonly requests: FakeRequest[] = []
  /** How much the server's clock is ahead of ours. */
  clockSkewMs = 0
  /** Asked of every request that no planned fault strikes: what goes wrong with it; null: nothing. For trials. */
  chance: ((request: FakeRequest) => FakeTrouble | null) | null = null
  #port = 0
  #server: Server | undefined
  readonly #sockets = new Map<Socket, number>()
  #socketCount = 0
  #faults: PlannedFault[] = []

  get port(): number { return this.#port }
  get endpoint(): string { return `http://${this.host}:${this.#port}` }
  /** Open now. */
  get connections(): number { return this.#sockets.size }
  /** That were ever opened. */
  get connectionsTotal(): number { return this.#socketCount }

  /** Listens, again at the same port when it did before. */
  async up(): Promise<void> {
    const server = createServer((request, response) => { void this.#serve(request, response, false) })
    // Else Node asks for every body before anybody has looked at the request.
    server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => { void this.#serve(request, response, true) })
    server.on('connection', (socket: Socket) => {
      this.#sockets.set(socket, ++this.#socketCount)
      socket.on('close', () => { this.#sockets.delete(socket) })
      // A reset is what some specs are about.
      socket.on('error', () => {})
    })
    // Connections end when somebody ends them.
    Object.assign(server, { keepAliveTimeout: 0, requestTimeout: 0, headersTimeout: 0, timeout: 0 })
    server.listen(this.#port, this.host)
    await once(server, 'listening')
    this.#server = server
    this.#port = (server.address() as AddressInfo).port
  }

  /** Connections are refused from now on; those there were are gone. */
  async down(): Promise<void> {
    const server = this.#server
    this.#server = undefined
    if (server === undefined) return
    const closed = [server, ...this.#sockets.keys()].map(open => once(open, 'close'))
    server.close()
    this.dropConnections()
    await Promise.all(closed)
  }

  /** Ends all connections. */
  dropConnections(): void { for (const socket of this.#sockets.keys()) socket.destroy() }

  /** Plans a fault. Several that concern one request strike together. */
  plan(fault: FakeFault): PlannedFault {
    const planned = new PlannedFault(fault)
    this.#faults.push(planned)
    return planned
  }

  /** Takes all faults back, and lets go what they hold. */
  endFaults(): void { for (const planned of this.#faults.splice(0)) planned.end() }

  /** Requests of a method, perhaps only those whose key contains `match`. */
  count(method: string, match = ''): number { return this.requests.filter(request => request.method === method && request.key.includes(match)).length }

  async #serve(message: IncomingMessage, response: ServerResponse, waits: boolean): Promise<void> {
    const socket = message.socket
    // In several values only where a header may have several: they are joined as signatures want them.
    const headers = Object.fromEntries(Object.entries(message.headers).map(([name, value]) => [name, Array.isArray(value) ? value.join(',') : value ?? '']))
    const { bucket, key, query } = targetOf(message.url!, headers['host'] ?? '')
    const record: FakeRequest = {
      method: message.method!, url: message.url!, key, query, headers, socket: this.#sockets.get(socket) ?? 0,
      arrivedAt: performance.now(), bodyBytes: 0, status: 0, outcome: 'open'
    }
    this.requests.push(record)
    response.on('close', () => { if (record.outcome === 'open') record.outcome = response.writableFinished ? 'answered' : 'left' })
    const struck = this.#faults.filter(planned => planned.strikes(record.method, key, query))
    const chanced = struck.length === 0 ? this.chance?.(record) ?? null : null
    if (chanced !== null) struck.push(this.#strike(chanced, response))
    const trouble: Troubles = (kind, when) => {
      const planned = struck.find(({ fault }) => fault.kind === kind && (when === undefined || ('when' in fault && fault.when === when)))
      return planned && { ...planned.fault as Kind<typeof kind>, planned }
    }
    try {
      const answer = await this.#answer(record, bucket, message, response, waits, trouble)
      if (answer === null) cut(record, socket)
      else await this.#send(record, response, answer, trouble)
    } catch (failure) {
      // The client left while its body was read. Anything else is a mistake of this file, and has to be seen.
      if (!message.destroyed && !socket.destroyed) throw failure
    }
  }

  /** A fault for this one request. */
  #strike(trouble: FakeTrouble, response: ServerResponse): PlannedFault {
    const planned = this.plan(trouble)
    response.once('close', () => {
      planned.end()
      this.#faults = this.#faults.filter(other => other !== planned)
    })
    planned.struck = 1
    return planned
  }

  /** What to answer; null: nothing, but a reset. */
  async #answer(
    record: FakeRequest, bucket: string, message: IncomingMessage, response: ServerResponse, waits: boolean, trouble: Troubles
  ): Promise<FakeAnswer | null> {
    const error = trouble('answer')
    if (error?.early === true) {
      // A client that was not asked for its body may send it all the same, or not: the connection is of no more use.
      if (waits) response.setHeader('connection', 'close')
      return errorAnswer(answerOf(error))
    }
    await trouble('hold', 'request')?.planned.released
    if (waits) response.writeContinue()
    const cutAt = trouble('reset', 'request')
    const limit = cutAt === undefined ? Infinity : cutAt.bytes ?? Number(record.headers['content-length'] ?? 0) / 2
    if (limit <= 0) return null
    const chunks: Buffer[] = []
    for await (const chunk of message as AsyncIterable<Buffer>) {
      chunks.push(chunk)
      record.bodyBytes += chunk.length
      if (record.bodyBytes >= limit) return null
    }
    if (trouble('reset', 'before')) return null
    if (error) return errorAnswer(answerOf(error))
    const redirect = trouble('redirect')
    if (redirect) return errorAnswer(redirection(redirect, this.bucket.name, record.url))

    let answer = await this.#do(record, bucket, Buffer.concat(chunks))
    if (trouble('reset', 'acknowledgement')) return null
    await trouble('hold', 'answer')?.planned.released
    const changed = trouble('headers')
    if (changed) {
      const merged = { ...answer.headers, ...changed.headers }
      answer = { ...answer, headers: Object.fromEntries(Object.entries(merged).filter(([, value]) => value !== '')) }
    }
    const flip = trouble('flip')
    if (flip && answer.body.length > 0) {
      const body = Buffer.from(answer.body)
      body[flip.at ?? body.length >> 1]! ^= 0xff
      answer = { ...answer, body }
    }
    return answer
  }

  /** The deed, or why not. */
  async #do(record: FakeRequest, bucket: string, body: Buffer): Promise<FakeAnswer> {
    try {
      verifySignature(record, this.keys, this.region, Date.now() + this.clockSkewMs)
      if (bucket !== this.bucket.name) throw new FakeS3Error(404, 'NoSuchBucket', 'The specified bucket does not exist', { BucketName: bucket })
      return await this.bucket.answer({ ...record, body })
    } catch (failure) {
      if (!(failure instanceof FakeS3Error)) throw failure
      return errorAnswer(failure)
    }
  }

  async #send(record: FakeRequest, response: ServerResponse, answer: FakeAnswer, trouble: Troubles): Promise<void> {
    this.#head(record, response, answer)
    const stop = trouble('reset', 'answer') ?? trouble('short') ?? trouble('hold', 'body')
    const whole = record.method === 'HEAD' ? Buffer.alloc(0) : answer.body
    if (stop === undefined) {
      response.end(whole)
      return
    }
    // The rest comes after the gate, or never.
    const first = whole.subarray(0, stop.bytes ?? whole.length >> 1)
    response.flushHeaders()
    await new Promise(resolve => { response.write(first.length > 0 ? first : '', resolve) })
    if (stop.kind === 'reset') cut(record, response.socket!)
    else if (stop.kind === 'short') {
      record.outcome = 'cut'
      response.socket!.end()
    } else {
      await stop.planned.released
      response.end(whole.subarray(first.length))
    }
  }

  #head(record: FakeRequest, response: ServerResponse, { status, headers, body }: FakeAnswer): void {
    record.status = status
    response.sendDate = false
    response.setHeader('date', new Date(Date.now() + this.clockSkewMs).toUTCString())
    response.setHeader('server', 'fake-s3')
    // A HEAD's error has no length: there is no body it could be that of.
    if (status !== 204 && status !== 304 && (record.method !== 'HEAD' || status < 400)) response.setHeader('content-length', body.length)
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value)
    response.writeHead(status)
  }
}

function cut(record: FakeRequest, socket: Socket): void {
  record.outcome = 'cut'
  socket.resetAndDestroy()
}

/** A fake server of this spec: let go before its caches are closed, ended after them. */
export async function fakeS3(bench: Workbench): Promise<FakeS3> {
  const server = new FakeS3()
  await server.up()
  bench.atEnd(() => { server.endFaults() })
  bench.atLast(() => server.down())
  return server
}

function targetOf(url: string, host: string): { bucket: string; key: string; query: Map<string, string> } {
  const [path, words] = splitUrl(url)
  const query = new Map(words === '' ? [] : words.split('&').map(pair => {
    const equals = pair.indexOf('=')
    const name = equals < 0 ? pair : pair.slice(0, equals)
    return [decodeURIComponent(name), equals < 0 ? '' : decodeURIComponent(pair.slice(equals + 1))]
  }))
  const virtual = /^(.+)\.s3\.localhost(:\d+)?$/.exec(host)?.[1]
  const slash = path.indexOf('/', 1)
  const bucket = virtual ?? decodeURIComponent(slash < 0 ? path.slice(1) : path.slice(1, slash))
  const key = decodeURIComponent(virtual !== undefined ? path.slice(1) : slash < 0 ? '' : path.slice(slash + 1))
  return { bucket, key, query }
}

function errorAnswer(error: FakeS3Error): FakeAnswer {
  return { status: error.status, headers: { 'content-type': 'application/xml', ...error.headers }, body: Buffer.from(error.document()) }
}

const CODES: Readonly<Record<number, string>> = {
  403: 'AccessDenied', 404: 'NoSuchKey', 409: 'ConditionalRequestConflict', 412: 'PreconditionFailed', 429: 'TooManyRequests', 500: 'InternalError',
  503: 'SlowDown'
}

function answerOf({ status, code, retryAfter, headers }: Kind<'answer'>): FakeS3Error {
  const wait = retryAfter === undefined ? {} : { 'retry-after': retryAfter }
  return new FakeS3Error(status, code ?? CODES[status] ?? 'InternalError', 'A planned fault.', {}, { ...wait, ...headers })
}

function redirection({ status, endpoint, region }: Kind<'redirect'>, bucket: string, url: string): FakeS3Error {
  const code = status === 307 ? 'TemporaryRedirect' : 'PermanentRedirect'
  return new FakeS3Error(status, code, 'The bucket you are attempting to access must be addressed using the specified endpoint.', {
    Endpoint: new URL(endpoint).host, Bucket: bucket
  }, {
    // S3 says where to only with 307; with 301 the client is to know better.
    ...(status === 307 ? { location: new URL(url, endpoint).href } : {}), ...(region === undefined ? {} : { 'x-amz-bucket-region': region })
  })
}
