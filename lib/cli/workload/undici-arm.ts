import { HiCacheError } from '../../error.js'
import type { ArmSample, BenchArm, BenchOp } from './bench-arm.js'
import { addressOf, importPeer, objectKey, peerPages, type ObjectPeerOptions } from './object-peer.js'
import type { PeerPages } from './peer-pages.js'
import { RequestSigner } from './request-signer.js'

/** What is used of the package undici, which is not installed with this one. */
interface UndiciModule {
  readonly Pool: new (origin: string, options: { connections: number; pipelining: number; connect?: { ca: Buffer } }) => UndiciPool
}
interface UndiciPool {
  request(options: { method: string; path: string; headers: Record<string, string>; body?: Uint8Array }): Promise<UndiciResponse>
  close(): Promise<void>
}
interface UndiciResponse {
  readonly statusCode: number
  readonly body: AsyncIterable<Buffer> & { text(): Promise<string>; dump(): Promise<void> }
}

/** Node's fastest HTTP client with signing of one's own: no metadata, no checksum but the signed one, bodies read into buffers that are used again. */
export class UndiciArm implements BenchArm {
  readonly name = 'undici'
  readonly steps: ReadonlySet<BenchOp>
  private readonly pages: PeerPages
  private readonly address
  private readonly signer: RequestSigner
  private pool: UndiciPool | null = null

  constructor(private readonly options: ObjectPeerOptions, private readonly ca: Buffer | undefined) {
    this.steps = options.steps
    this.pages = peerPages(this.name, options)
    this.address = addressOf(options.endpoint)
    const { region } = options.endpoint
    this.signer = new RequestSigner({ host: this.address.host, region, credentials: options.credentials, signPayload: this.address.origin.startsWith('http:') })
  }

  async run(op: BenchOp, round: number): Promise<ArmSample> {
    const pool = this.pool ??= await this.connect()
    const path = (page: number): string => this.address.path(objectKey(this.options.prefix, round, page))
    if (op === 'write') {
      return await this.pages.write(round, async (page, body) => {
        const to = path(page)
        const response = await pool.request({ method: 'PUT', path: to, headers: this.signer.headers('PUT', to, body), body })
        if (response.statusCode !== 200) throw await this.unexpected(response, page)
        await response.body.dump()
      })
    }
    return await this.pages.read(round, async (page, buffer) => {
      const from = path(page)
      const response = await pool.request({ method: 'GET', path: from, headers: this.signer.headers('GET', from) })
      if (response.statusCode !== 200) throw await this.unexpected(response, page)
      let length = 0
      for await (const chunk of response.body) {
        chunk.copy(buffer, length)
        length += chunk.length
      }
      if (length !== buffer.length) throw new HiCacheError('ERR_IO', `${this.name}: page ${page} came with ${length} of ${buffer.length} bytes`)
    })
  }

  async discard(): Promise<void> { await this.options.removeAll() }

  async close(): Promise<void> { await this.pool?.close() }

  private async connect(): Promise<UndiciPool> {
    const { Pool } = await importPeer('undici') as UndiciModule
    return new Pool(this.address.origin, { connections: this.options.concurrency, pipelining: 1, ...(this.ca === undefined ? {} : { connect: { ca: this.ca } }) })
  }

  private async unexpected({ statusCode, body }: UndiciResponse, page: number): Promise<HiCacheError> {
    const code = /<Code>([^<]*)<\/Code>/.exec(await body.text())?.[1] ?? 'no code'
    return new HiCacheError('ERR_IO', `${this.name}: page ${page} was answered with ${statusCode} (${code})`)
  }
}
