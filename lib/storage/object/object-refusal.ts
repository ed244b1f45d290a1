import { XMLParser } from 'fast-xml-parser'
import { HiCacheError } from '../../error.js'
import type { ObjectResponse } from '../../transfer/native-binding.js'

/** What an object store said when it would not do it. */
export interface Refusal {
  /** Of HTTP. */
  readonly status: number
  /** S3's word for it, `AccessDenied`; made of the status where the server gave none. */
  readonly code: string
  /** The server's own sentence; may be empty. */
  readonly message: string
}

/** What of a server's text goes into a message at most. */
const TEXT_CHARACTERS_MAX = 300
const RIGHTS = 'see that the keys are right; they must be allowed s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload on the objects, and s3:ListBucket and s3:ListBucketMultipartUploads on the bucket'
const REGION = 'set plugin.obj.region (or AWS_REGION) to the bucket\'s region, and endpoint_override to its endpoint'
const TOKEN = 'the session token has expired: open the cache with new credentials, or let the AWS credential chain fetch them (install @aws-sdk/credential-provider-node and configure no keys)'

const REMEDIES: Readonly<Record<string, string>> = {
  AccessDenied: RIGHTS,
  AllAccessDisabled: RIGHTS,
  AuthorizationHeaderMalformed: REGION,
  BadDigest: 'the bytes changed on the way: look at proxies between here and the server',
  EntityTooLarge: 'the server takes no object of this size: lower crtMinLimit, so that the page is written in parts',
  ExpiredToken: TOKEN,
  IllegalLocationConstraintException: REGION,
  InvalidAccessKeyId: 'the server does not know access_key: correct plugin.obj.access_key or AWS_ACCESS_KEY_ID',
  InvalidBucketName: 'correct plugin.obj.bucket, or set use_virtual_addressing = false',
  InvalidToken: 'session_token does not belong to access_key: correct it, or leave it out for keys that do not expire',
  MethodNotAllowed: 'the server, or a proxy before it, does not allow the method: is the endpoint an S3 endpoint?',
  MissingContentLength: 'the server wants a length that was taken out on the way: look at proxies between here and the server',
  NoSuchBucket: 'make the bucket, or correct plugin.obj.bucket or AWS_DEFAULT_BUCKET',
  NotImplemented: 'the server cannot do this: is the endpoint an S3 endpoint?',
  PermanentRedirect: REGION,
  QuotaExceeded: 'the quota of the bucket or of the user is used up: raise it, or remove objects',
  RequestTimeTooSkewed: 'this machine\'s clock and the server\'s differ: synchronise them (NTP)',
  SignatureDoesNotMatch: 'secret_key is not the one of access_key: correct plugin.obj.secret_key or AWS_SECRET_ACCESS_KEY',
  TemporaryRedirect: REGION,
  TokenRefreshRequired: TOKEN,
  XAmzContentSHA256Mismatch: 'the bytes changed on the way: look at proxies between here and the server',
}
const BY_STATUS: Readonly<Record<number, string>> = {
  301: 'PermanentRedirect', 307: 'TemporaryRedirect', 400: 'BadRequest', 401: 'AccessDenied', 403: 'AccessDenied', 404: 'NotFound', 405: 'MethodNotAllowed', 411: 'MissingContentLength',
  413: 'EntityTooLarge', 501: 'NotImplemented', 507: 'QuotaExceeded'
}

/** What to do about it; empty where nothing can be said. */
export function remedyOf({ code }: Refusal): string { return Object.hasOwn(REMEDIES, code) ? REMEDIES[code]! : '' }

/** Would other credentials help, which the chain may have by now? */
export function isExpired({ code }: Refusal): boolean { return code === 'ExpiredToken' || code === 'TokenRefreshRequired' }

/** Of what native code answers of a page: `AccessDenied: a sentence`, zero-filled. */
export function refusalOfMeta(status: number, meta: Uint8Array | null): Refusal {
  const text = textOfMeta(meta)
  const [, code, message] = /^([A-Za-z][\w.-]*)(?::\s*([\s\S]*))?$/.exec(text) ?? [undefined, undefined, text]
  return { status, code: code ?? codeOf(status), message: shown(message ?? '') }
}

/** The text in a result's meta. */
export function textOfMeta(meta: Uint8Array | null): string {
  if (meta === null) return ''
  const end = meta.indexOf(0)
  return shown(Buffer.from(meta.buffer, meta.byteOffset, end < 0 ? meta.length : end).toString('utf8'))
}

const parser = new XMLParser({ parseTagValue: false })

/** Of an answer with an XML body, or without any (HEAD has none). */
export function refusalOf({ status, headers, body }: ObjectResponse): Refusal {
  let code = ''
  let message = ''
  try {
    const { Error: error } = parser.parse(Buffer.from(body).toString('utf8')) as { Error?: { Code?: unknown; Message?: unknown } }
    if (typeof error?.Code === 'string') code = error.Code
    if (typeof error?.Message === 'string') message = error.Message
  } catch {
    // A proxy's page of HTML: the status says what can be known.
  }
  const region = headers['x-amz-bucket-region']
  if (region !== undefined && (status === 301 || status === 307 || status === 400)) message = `${message === '' ? '' : `${message} `}(the bucket is in region ${region})`
  return { status, code: /^[\w.-]{1,64}$/.test(code) ? code : codeOf(status), message: shown(message) }
}

/** `403 AccessDenied: Access Denied`. */
export function sayRefusal({ status, code, message }: Refusal): string {
  return `${status} ${code}${message === '' ? '' : `: ${message.replace(/\.$/, '')}`}`
}

/** @param action `Writing the page "a"`. @param place the store's name for people. */
export function refusalError(refusal: Refusal, action: string, place: string, key?: string): HiCacheError {
  const remedy = remedyOf(refusal)
  return new HiCacheError('ERR_IO', `${action} failed: ${place} answered ${sayRefusal(refusal)}${remedy === '' ? '' : ` (${remedy})`}.`, {
    http: { status: refusal.status, code: refusal.code }, ...(key === undefined ? {} : { key })
  })
}

function codeOf(status: number): string { return BY_STATUS[status] ?? `HTTP${status}` }

/** A server's text is a stranger's: one line, and short. */
function shown(text: string): string { return text.replace(/[\p{Cc}\p{Cf}\s]+/gu, ' ').trim().slice(0, TEXT_CHARACTERS_MAX) }
