import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import { FakeS3Error } from './fake-s3-error.js'

/** Keys that the fake knows. */
export interface FakeKeys {
  readonly secretKey: string
  /** Requests have to carry it. */
  readonly sessionToken?: string
  readonly expired?: boolean
}
export interface SignedRequest {
  readonly method: string
  /** As it came on the wire. */
  readonly url: string
  /** Names in lower case, several values joined by commas. */
  readonly headers: Readonly<Record<string, string>>
}
const AUTHORIZATION =
  /^AWS4-HMAC-SHA256 +Credential=([^/,]+)\/(\d{8})\/([^/,]+)\/([^/,]+)\/aws4_request, *SignedHeaders=([a-z0-9;-]+), *Signature=([0-9a-f]{64})$/
const SKEW_MS = 15 * 60 * 1000

/** Signature version 4 of a request's headers, written from AWS's description and from nothing of ours. Throws what S3 would answer; answers the access key. */
export function verifySignature(request: SignedRequest, known: ReadonlyMap<string, FakeKeys>, region: string, now: number): string {
  const { headers } = request
  const authorization = headers['authorization']
  if (authorization === undefined) throw new FakeS3Error(403, 'AccessDenied', 'The request is not signed.')
  const parts = AUTHORIZATION.exec(authorization)
  if (parts === null) throw new FakeS3Error(400, 'AuthorizationHeaderMalformed', 'The authorization header is malformed.')
  const [, accessKey, day, scopeRegion, service, signedHeaders, signature] = parts as unknown as [string, string, string, string, string, string, string]
  const date = headers['x-amz-date'] ?? ''
  const at = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(date)
  if (at === null || !date.startsWith(day) || service !== 's3') throw new FakeS3Error(400, 'AuthorizationHeaderMalformed', 'Date or scope do not fit.')
  if (scopeRegion !== region) {
    throw new FakeS3Error(400, 'AuthorizationHeaderMalformed', `The region '${scopeRegion}' is wrong; expecting '${region}'`, { Region: region })
  }
  const keys = known.get(accessKey)
  if (keys === undefined) throw new FakeS3Error(403, 'InvalidAccessKeyId', 'The access key does not exist.', { AWSAccessKeyId: accessKey })
  const [year, month, dayOfMonth, hour, minute, second] = at.slice(1).map(Number) as [number, number, number, number, number, number]
  if (Math.abs(Date.UTC(year, month - 1, dayOfMonth, hour, minute, second) - now) > SKEW_MS) {
    throw new FakeS3Error(403, 'RequestTimeTooSkewed', 'The difference between the request time and the server\'s time is too large.', {
      RequestTime: date, ServerTime: new Date(now).toISOString(), MaxAllowedSkewMilliseconds: String(SKEW_MS)
    })
  }

  const names = signedHeaders.split(';')
  // All of these have to be signed where they are sent, or somebody on the way could change them.
  const unsigned = Object.keys(headers).filter(name => (name === 'host' || name === 'content-md5' || name.startsWith('x-amz-')) && !names.includes(name))
  if (unsigned.length > 0) {
    throw new FakeS3Error(403, 'AccessDenied', 'There were headers present in the request which were not signed', { HeadersNotSigned: unsigned.join(', ') })
  }
  const [path, query] = splitUrl(request.url)
  const canonical = [
    request.method, path, canonicalQuery(query), ...names.map(name => `${name}:${(headers[name] ?? '').trim().replace(/ +/g, ' ')}`), '', signedHeaders,
    headers['x-amz-content-sha256'] ?? ''
  ].join('\n')
  const scope = `${day}/${scopeRegion}/${service}/aws4_request`
  const toSign = ['AWS4-HMAC-SHA256', date, scope, createHash('sha256').update(canonical).digest('hex')].join('\n')
  const mac = (key: Buffer | string, text: string): Buffer => createHmac('sha256', key).update(text).digest()
  const expected = mac([day, scopeRegion, service, 'aws4_request'].reduce<Buffer | string>(mac, `AWS4${keys.secretKey}`), toSign)
  if (!timingSafeEqual(expected, Buffer.from(signature, 'hex'))) {
    throw new FakeS3Error(403, 'SignatureDoesNotMatch', 'The request signature we calculated does not match the signature you provided.', {
      AWSAccessKeyId: accessKey, StringToSign: toSign, CanonicalRequest: canonical
    })
  }
  const token = headers['x-amz-security-token']
  if (token !== keys.sessionToken) throw new FakeS3Error(400, 'InvalidToken', 'The provided token is malformed or otherwise invalid.')
  if (keys.expired === true) throw new FakeS3Error(400, 'ExpiredToken', 'The provided token has expired.')
  return accessKey
}

/** Path and query as they stand on the wire. */
export function splitUrl(url: string): [path: string, query: string] {
  const mark = url.indexOf('?')
  return mark < 0 ? [url, ''] : [url.slice(0, mark), url.slice(mark + 1)]
}

function canonicalQuery(query: string): string {
  if (query === '') return ''
  const hex = (character: string): string => `%${character.charCodeAt(0).toString(16).toUpperCase()}`
  const encode = (text: string): string => encodeURIComponent(decodeURIComponent(text)).replace(/[!'()*]/g, hex)
  const pairs = query.split('&').map((pair): [string, string] => {
    const equals = pair.indexOf('=')
    return equals < 0 ? [encode(pair), ''] : [encode(pair.slice(0, equals)), encode(pair.slice(equals + 1))]
  })
  const order = (one: string, other: string): number => one < other ? -1 : one > other ? 1 : 0
  return pairs.sort(([name, value], [otherName, otherValue]) => order(name, otherName) || order(value, otherValue)).map(pair => pair.join('=')).join('&')
}
