import { Agent as HttpAgent } from 'node:http'
import { Agent as HttpsAgent } from 'node:https'
import { HiCacheError } from '../../error.js'
import type { ArmSample, BenchArm, BenchOp } from './bench-arm.js'
import { importPeer, objectKey, peerPages, type ObjectPeerOptions } from './object-peer.js'
import type { PeerPages } from './peer-pages.js'

/** What is used of the package @aws-sdk/client-s3, which is not installed with this one. */
interface S3Module {
  readonly S3Client: new (options: Record<string, unknown>) => S3Client
  readonly PutObjectCommand: new (input: { Bucket: string; Key: string; Body: Uint8Array }) => object
  readonly GetObjectCommand: new (input: { Bucket: string; Key: string }) => object
}
interface S3Client {
  send(command: object): Promise<{ readonly Body?: { transformToByteArray(): Promise<Uint8Array> } }>
  destroy(): void
}

/** The AWS SDK as most services have it, on connections that are kept. Checksums beyond the signature only where an operation requires them: not every server takes the SDK's default. */
export class AwsSdkArm implements BenchArm {
  readonly name = 'aws-sdk'
  readonly steps: ReadonlySet<BenchOp>
  private readonly pages: PeerPages
  private sdk: { readonly module: S3Module; readonly client: S3Client } | null = null

  constructor(private readonly options: ObjectPeerOptions, private readonly ca: Buffer | undefined) {
    this.steps = options.steps
    this.pages = peerPages(this.name, options)
  }

  async run(op: BenchOp, round: number): Promise<ArmSample> {
    const { module, client } = this.sdk ??= await this.connect()
    const { prefix, endpoint: { bucket: Bucket } } = this.options
    if (op === 'write') {
      return await this.pages.write(round, async (page, Body) => { await client.send(new module.PutObjectCommand({ Bucket, Key: objectKey(prefix, round, page), Body })) })
    }
    return await this.pages.read(round, async (page, buffer) => {
      const { Body } = await client.send(new module.GetObjectCommand({ Bucket, Key: objectKey(prefix, round, page) }))
      const bytes = await Body!.transformToByteArray()
      if (bytes.length !== buffer.length) throw new HiCacheError('ERR_IO', `${this.name}: page ${page} came with ${bytes.length} of ${buffer.length} bytes`)
      buffer.set(bytes)
    })
  }

  async discard(): Promise<void> { await this.options.removeAll() }

  close(): Promise<void> {
    this.sdk?.client.destroy()
    return Promise.resolve()
  }

  private async connect(): Promise<{ module: S3Module; client: S3Client }> {
    const module = await importPeer('@aws-sdk/client-s3') as S3Module
    const { endpoint: { endpoint, region, virtualAddressing }, credentials, concurrency } = this.options
    const agent = { keepAlive: true, maxSockets: concurrency, ...(this.ca === undefined ? {} : { ca: this.ca }) }
    const client = new module.S3Client({
      endpoint, region, forcePathStyle: !virtualAddressing, maxAttempts: 1,
      credentials: {
        accessKeyId: credentials.accessKey, secretAccessKey: credentials.secretKey, ...(credentials.sessionToken === '' ? {} : { sessionToken: credentials.sessionToken }),
      },
      requestChecksumCalculation: 'WHEN_REQUIRED', responseChecksumValidation: 'WHEN_REQUIRED',
      requestHandler: { httpAgent: new HttpAgent(agent), httpsAgent: new HttpsAgent(agent) },
    })
    return { module, client }
  }
}
