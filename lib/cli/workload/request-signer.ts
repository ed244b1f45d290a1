import { createHash, createHmac } from 'node:crypto'
import type { ObjectCredentials } from '../../transfer/native-binding.js'

/** SHA-256 of no bytes. */
const EMPTY_SHA256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'

export interface SignerOptions {
  /** `host[:port]`, as it is sent. */
  readonly host: string
  readonly region: string
  readonly credentials: ObjectCredentials
  /** SHA-256 of the payload is signed (http); else UNSIGNED-PAYLOAD (https, where TLS vouches for it). */
  readonly signPayload: boolean
}

/**
 * Signature version 4 in node:crypto, as little of it as pages need: what somebody would write who finds the SDK too slow. It is the signing of a contestant in
 * `bench`; the plugin signs natively.
 */
export class RequestSigner {
  private day = ''
  private signingKey: Buffer = Buffer.alloc(0)

  constructor(private readonly options: SignerOptions) {}

  /** The headers of a request without a query. `path` is encoded already. */
  headers(method: 'GET' | 'PUT', path: string, body?: Uint8Array): Record<string, string> {
    const { host, region, credentials, signPayload } = this.options
    const date = new Date().toISOString().replace(/[-:]|\.\d+/g, '')
    const day = date.slice(0, 8)
    const payload = !signPayload ? 'UNSIGNED-PAYLOAD' : body === undefined ? EMPTY_SHA256 : createHash('sha256').update(body).digest('hex')
    const token = credentials.sessionToken
    const signed = token === '' ? 'host;x-amz-content-sha256;x-amz-date' : 'host;x-amz-content-sha256;x-amz-date;x-amz-security-token'
    const canonical = `${method}\n${path}\n\nhost:${host}\nx-amz-content-sha256:${payload}\nx-amz-date:${date}\n${token === '' ? '' : `x-amz-security-token:${token}\n`}\n${signed}\n${payload}`
    const scope = `${day}/${region}/s3/aws4_request`
    if (day !== this.day) this.renewKey(day)
    const text = `AWS4-HMAC-SHA256\n${date}\n${scope}\n${createHash('sha256').update(canonical).digest('hex')}`
    const signature = createHmac('sha256', this.signingKey).update(text).digest('hex')
    return {
      host, 'x-amz-content-sha256': payload, 'x-amz-date': date, ...(token === '' ? {} : { 'x-amz-security-token': token }),
      authorization: `AWS4-HMAC-SHA256 Credential=${credentials.accessKey}/${scope}, SignedHeaders=${signed}, Signature=${signature}`,
    }
  }

  private renewKey(day: string): void {
    const hmac = (key: string | Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest()
    this.signingKey = hmac(hmac(hmac(hmac(`AWS4${this.options.credentials.secretKey}`, day), this.options.region), 's3'), 'aws4_request')
    this.day = day
  }
}
