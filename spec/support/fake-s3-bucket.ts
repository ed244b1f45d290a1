import { createHash, randomBytes } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { Crc64Nvme } from '@aws-sdk/crc64-nvme'
import { XMLParser } from 'fast-xml-parser'
import { FakeS3Error, xmlText } from './fake-s3-error.js'

const PART_BYTES_MIN = 5 * 1024 * 1024
const KEYS_MAX = 1000
const XMLNS = 'http://s3.amazonaws.com/doc/2006-03-01/'
/** Headers that come back with an object as they were put. */
const KEPT = /^(x-amz-meta-.+|content-type|content-encoding|cache-control|content-disposition)$/

export interface FakeObject {
  readonly body: Buffer
  readonly etag: string
  readonly headers: Readonly<Record<string, string>>
  /** By header, `x-amz-checksum-...`, base64. */
  readonly checksums: Readonly<Record<string, string>>
  readonly modifiedAt: Date
}
interface FakeUpload {
  readonly key: string
  readonly headers: Readonly<Record<string, string>>
  readonly parts: Map<number, { readonly body: Buffer; readonly etag: string }>
}
/** A request that has been read and let in. */
export interface FakeCall {
  readonly method: string
  readonly key: string
  readonly query: ReadonlyMap<string, string>
  readonly headers: Readonly<Record<string, string>>
  readonly body: Buffer
}
export interface FakeAnswer { readonly status: number; readonly headers: Readonly<Record<string, string>>; readonly body: Buffer }

/** The one bucket of a fake server, in memory: what S3's documentation says of the requests that a cache sends, and no more. */
export class FakeBucket {
  readonly name: string
  /** To be looked at, and set, by specs. */
  objects = new Map<string, FakeObject>()
  /** Multipart uploads that were begun and neither completed nor aborted. */
  readonly uploads = new Map<string, FakeUpload>()
  /** What a PUT's If-None-Match and If-Match do; `refused`: 501, as servers answer that know them and lack them. */
  conditionalWrites: 'honoured' | 'ignored' | 'refused' = 'honoured'
  /** Does it know how to delete many objects in one request? Else 501. */
  batchDeletes = true
  /** Keys that a delete of many leaves, with AccessDenied. */
  readonly protectedKeys = new Set<string>()

  constructor(name: string) { this.name = name }

  /** Puts an object past the server, as somebody else's program may have done. */
  put(key: string, body: Uint8Array, headers: Readonly<Record<string, string>> = {}): FakeObject {
    const object = { body: Buffer.from(body), etag: quotedMd5(body), headers, checksums: {}, modifiedAt: new Date() }
    this.objects.set(key, object)
    return object
  }

  /** Does what is asked. Throws a FakeS3Error. */
  async answer(call: FakeCall): Promise<FakeAnswer> {
    const { method, key, query } = call
    const checksums = await checkBody(call)
    if (key === '') {
      if (method === 'HEAD') return { status: 200, headers: {}, body: Buffer.alloc(0) }
      if (method === 'GET' && query.get('list-type') === '2') return this.#list(query)
      if (method === 'GET' && query.has('uploads')) return this.#listUploads()
      if (method === 'POST' && query.has('delete')) return this.#deleteMany(call)
    } else if (query.has('uploadId')) {
      if (method === 'PUT') return this.#putPart(call, checksums)
      if (method === 'POST') return await this.#complete(call)
      if (method === 'DELETE') return this.#abort(query)
    } else if (method === 'POST' && query.has('uploads')) {
      return this.#begin(call)
    } else {
      if (method === 'PUT') return this.#put(call, checksums)
      if (method === 'GET' || method === 'HEAD') return await this.#get(call)
      if (method === 'DELETE') return this.#delete(call)
    }
    throw new FakeS3Error(501, 'NotImplemented', `The fake does not know ${method} with ${[...query.keys()].join(', ') || 'no parameter'}.`)
  }

  #put({ key, headers, body }: FakeCall, checksums: Readonly<Record<string, string>>): FakeAnswer {
    this.#checkWrite(key, headers)
    const etag = quotedMd5(body)
    this.objects.set(key, { body, etag, headers: kept(headers), checksums, modifiedAt: new Date() })
    return { status: 200, headers: { etag, ...checksums }, body: Buffer.alloc(0) }
  }

  async #get({ key, headers }: FakeCall): Promise<FakeAnswer> {
    const object = this.#object(key)
    const { body, etag, modifiedAt } = object
    const wanted = headers['if-match']
    if (wanted !== undefined && wanted !== etag && wanted !== '*') throw unmet('If-Match')
    const about: Record<string, string> = { ...object.headers, etag, 'last-modified': modifiedAt.toUTCString(), 'accept-ranges': 'bytes' }
    if (headers['if-none-match'] === etag) return { status: 304, headers: about, body: Buffer.alloc(0) }
    const range = rangeOf(headers['range'], body.length)
    if (range !== null) {
      about['content-range'] = `bytes ${range[0]}-${range[1]}/${body.length}`
      return { status: 206, headers: about, body: body.subarray(range[0], range[1] + 1) }
    }
    if (headers['x-amz-checksum-mode']?.toUpperCase() === 'ENABLED') {
      // S3 keeps this one of every object, whoever put it and however.
      Object.assign(about, { 'x-amz-checksum-crc64nvme': await crc64(body) }, object.checksums, { 'x-amz-checksum-type': 'FULL_OBJECT' })
    }
    return { status: 200, headers: about, body }
  }

  #delete({ key, headers }: FakeCall): FakeAnswer {
    const wanted = headers['if-match']
    const object = this.objects.get(key)
    if (wanted !== undefined && object !== undefined && wanted !== object.etag && wanted !== '*') throw unmet('If-Match')
    this.objects.delete(key)
    return { status: 204, headers: {}, body: Buffer.alloc(0) }
  }

  #deleteMany({ headers, body }: FakeCall): FakeAnswer {
    if (!this.batchDeletes) throw new FakeS3Error(501, 'NotImplemented', 'A header or query you provided implies functionality that is not implemented.')
    if (headers['content-md5'] === undefined && !Object.keys(headers).some(name => name.startsWith('x-amz-checksum-'))) {
      throw new FakeS3Error(400, 'InvalidRequest', 'Missing required header for this request: Content-MD5 OR x-amz-checksum-*')
    }
    const { Object: asked, Quiet: quiet } = parsed<{ Object?: { Key: string; ETag?: string }[]; Quiet?: string }>(body, 'Delete', ['Object'])
    if (asked === undefined || asked.length > KEYS_MAX) throw new FakeS3Error(400, 'MalformedXML', 'None, or more than 1000 keys.')
    const lines = asked.map(({ Key: key, ETag: etag }) => {
      const other = etag !== undefined && etag !== (this.objects.get(key)?.etag ?? etag)
      const refused = this.protectedKeys.has(key) ? 'AccessDenied' : other ? 'PreconditionFailed' : null
      if (refused !== null) return `<Error><Key>${xmlText(key)}</Key><Code>${refused}</Code><Message>${refused}</Message></Error>`
      this.objects.delete(key)
      return quiet === 'true' ? '' : `<Deleted><Key>${xmlText(key)}</Key></Deleted>`
    })
    return document('DeleteResult', lines.join(''))
  }

  #list(query: ReadonlyMap<string, string>): FakeAnswer {
    const prefix = query.get('prefix') ?? ''
    const delimiter = query.get('delimiter') ?? ''
    const token = query.get('continuation-token')
    const after = token === undefined ? query.get('start-after') ?? '' : Buffer.from(token, 'base64url').toString()
    const max = Math.min(Number(query.get('max-keys') ?? KEYS_MAX), KEYS_MAX)
    // A space is `+` there, as in a form, and a slash stays.
    const encoded = query.get('encoding-type') === 'url'
    const shown = (text: string): string => encoded ? new URLSearchParams([['', text]]).toString().slice(1).replaceAll('%2F', '/') : xmlText(text)
    const entries: { readonly last: string; readonly line: string }[] = []
    let cut = false
    // In the order of their bytes in UTF-8.
    const order = (one: string, other: string): number => Buffer.compare(Buffer.from(one), Buffer.from(other))
    for (const [key, { body, etag, modifiedAt }] of [...this.objects].sort(([one], [other]) => order(one, other))) {
      if (!key.startsWith(prefix) || order(key, after) <= 0) continue
      const end = delimiter === '' ? -1 : key.indexOf(delimiter, prefix.length)
      const group = end < 0 ? null : key.slice(0, end + delimiter.length)
      if (group !== null && (entries.at(-1)?.last === group || after.startsWith(group))) continue
      if (entries.length === max) {
        cut = true
        break
      }
      entries.push(group !== null ? { last: group, line: `<CommonPrefixes><Prefix>${shown(group)}</Prefix></CommonPrefixes>` } : {
        last: key,
        line: `<Contents><Key>${shown(key)}</Key><LastModified>${modifiedAt.toISOString()}</LastModified><ETag>${xmlText(etag)}</ETag>` +
          `<Size>${body.length}</Size><StorageClass>STANDARD</StorageClass></Contents>`
      })
    }
    // A group ends after all that begins so: the next page goes on behind it.
    const next = cut && max > 0 ? `<NextContinuationToken>${Buffer.from(entries.at(-1)!.last).toString('base64url')}</NextContinuationToken>` : ''
    return document('ListBucketResult', [
      `<Name>${this.name}</Name><Prefix>${shown(prefix)}</Prefix><KeyCount>${entries.length}</KeyCount><MaxKeys>${max}</MaxKeys>`,
      `${encoded ? '<EncodingType>url</EncodingType>' : ''}<IsTruncated>${cut}</IsTruncated>${next}`, ...entries.map(({ line }) => line)
    ].join(''))
  }

  #listUploads(): FakeAnswer {
    const uploads = [...this.uploads].map(([id, { key }]) => `<Upload><Key>${xmlText(key)}</Key><UploadId>${id}</UploadId></Upload>`)
    return document('ListMultipartUploadsResult', `<Bucket>${this.name}</Bucket><IsTruncated>false</IsTruncated>${uploads.join('')}`)
  }

  #begin({ key, headers }: FakeCall): FakeAnswer {
    const id = randomBytes(12).toString('hex')
    this.uploads.set(id, { key, headers: kept(headers), parts: new Map() })
    return document('InitiateMultipartUploadResult', `<Bucket>${this.name}</Bucket><Key>${xmlText(key)}</Key><UploadId>${id}</UploadId>`)
  }

  #putPart({ key, query, body }: FakeCall, checksums: Readonly<Record<string, string>>): FakeAnswer {
    const upload = this.#upload(key, query)
    const number = Number(query.get('partNumber'))
    if (!(Number.isInteger(number) && number >= 1 && number <= 10_000)) throw new FakeS3Error(400, 'InvalidArgument', 'Part numbers are 1 to 10000.')
    const etag = quotedMd5(body)
    upload.parts.set(number, { body, etag })
    return { status: 200, headers: { etag, ...checksums }, body: Buffer.alloc(0) }
  }

  async #complete({ key, query, headers, body }: FakeCall): Promise<FakeAnswer> {
    const upload = this.#upload(key, query)
    const listed = parsed<{ Part?: { PartNumber: string; ETag: string }[] }>(body, 'CompleteMultipartUpload', ['Part']).Part ?? []
    if (listed.length === 0) throw new FakeS3Error(400, 'MalformedXML', 'No parts.')
    const parts = listed.map(({ PartNumber: number, ETag: etag }, index) => {
      if (index > 0 && Number(number) <= Number(listed[index - 1]!.PartNumber)) throw new FakeS3Error(400, 'InvalidPartOrder')
      const part = upload.parts.get(Number(number))
      if (part === undefined || part.etag.replaceAll('"', '') !== etag.replaceAll('"', '')) throw new FakeS3Error(400, 'InvalidPart', `Part ${number}`)
      if (index < listed.length - 1 && part.body.length < PART_BYTES_MIN) throw new FakeS3Error(400, 'EntityTooSmall', `Part ${number} has ${part.body.length} bytes.`)
      return part
    })
    const whole = Buffer.concat(parts.map(part => part.body))
    const given = headers['x-amz-checksum-crc64nvme']
    if (given !== undefined && given !== await crc64(whole)) throw new FakeS3Error(400, 'BadDigest', 'The CRC64NVME of the object does not match.')
    this.#checkWrite(key, headers)
    const digests = Buffer.concat(parts.map(({ body: bytes }) => createHash('md5').update(bytes).digest()))
    const etag = `"${createHash('md5').update(digests).digest('hex')}-${parts.length}"`
    const checksums: Record<string, string> = given === undefined ? {} : { 'x-amz-checksum-crc64nvme': given }
    this.objects.set(key, { body: whole, etag, headers: upload.headers, checksums, modifiedAt: new Date() })
    this.uploads.delete(query.get('uploadId')!)
    return document('CompleteMultipartUploadResult', `<Bucket>${this.name}</Bucket><Key>${xmlText(key)}</Key><ETag>${xmlText(etag)}</ETag>`)
  }

  #abort(query: ReadonlyMap<string, string>): FakeAnswer {
    if (!this.uploads.delete(query.get('uploadId')!)) throw noUpload()
    return { status: 204, headers: {}, body: Buffer.alloc(0) }
  }

  #object(key: string): FakeObject {
    const object = this.objects.get(key)
    if (object === undefined) throw new FakeS3Error(404, 'NoSuchKey', 'The specified key does not exist.', { Key: key })
    return object
  }

  #upload(key: string, query: ReadonlyMap<string, string>): FakeUpload {
    const upload = this.uploads.get(query.get('uploadId')!)
    if (upload?.key !== key) throw noUpload()
    return upload
  }

  #checkWrite(key: string, headers: Readonly<Record<string, string>>): void {
    const absent = headers['if-none-match']
    const present = headers['if-match']
    if ((absent === undefined && present === undefined) || this.conditionalWrites === 'ignored') return
    if (this.conditionalWrites === 'refused') throw new FakeS3Error(501, 'NotImplemented', 'A header implies functionality that is not implemented.')
    const there = this.objects.get(key)
    if (absent !== undefined && absent !== '*') throw new FakeS3Error(501, 'NotImplemented', 'If-None-Match takes only *.')
    if (absent === '*' && there !== undefined) throw unmet('If-None-Match')
    if (present !== undefined && there === undefined) throw new FakeS3Error(404, 'NoSuchKey', 'The specified key does not exist.', { Key: key })
    if (present !== undefined && there!.etag !== present) throw unmet('If-Match')
  }
}

/** Compares the body with every digest that came with it. Answers the checksums to keep. */
async function checkBody({ method, key, headers, body }: FakeCall): Promise<Record<string, string>> {
  const hash = headers['x-amz-content-sha256'] ?? ''
  if (hash.startsWith('STREAMING-')) throw new FakeS3Error(411, 'MissingContentLength', 'The fake takes no chunks with signatures or trailers.')
  if (hash !== 'UNSIGNED-PAYLOAD' && hash !== createHash('sha256').update(body).digest('hex')) {
    throw new FakeS3Error(400, 'XAmzContentSHA256Mismatch', 'The provided \'x-amz-content-sha256\' header does not match what was computed.')
  }
  const md5 = headers['content-md5']
  if (md5 !== undefined && md5 !== createHash('md5').update(body).digest('base64')) throw new FakeS3Error(400, 'BadDigest', 'The Content-MD5 does not match.')
  const checksums: Record<string, string> = {}
  // With CompleteMultipartUpload it is the object's, not the body's.
  if (method === 'POST' && key !== '') return checksums
  for (const [name, given] of Object.entries(headers)) {
    const algorithm = /^x-amz-checksum-(crc32|crc64nvme|sha1|sha256)$/.exec(name)?.[1]
    if (algorithm === undefined) continue
    if (given !== await digestOf(algorithm, body)) throw new FakeS3Error(400, 'BadDigest', `The ${algorithm.toUpperCase()} does not match.`)
    checksums[name] = given
  }
  return checksums
}

async function digestOf(algorithm: string, body: Buffer): Promise<string> {
  if (algorithm === 'crc64nvme') return await crc64(body)
  if (algorithm !== 'crc32') return createHash(algorithm).update(body).digest('base64')
  const word = Buffer.alloc(4)
  word.writeUInt32BE(crc32(body))
  return word.toString('base64')
}

/** As the SDK computes it, not as we do. */
async function crc64(body: Buffer): Promise<string> {
  const sum = new Crc64Nvme()
  sum.update(body)
  return Buffer.from(await sum.digest()).toString('base64')
}

function quotedMd5(body: Uint8Array): string { return `"${createHash('md5').update(body).digest('hex')}"` }

function kept(headers: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => KEPT.test(name)))
}

/** First and last byte; null = all. A header that is not understood does not count, as HTTP has it. */
function rangeOf(header: string | undefined, length: number): [number, number] | null {
  const words = /^bytes=(\d*)-(\d*)$/.exec(header ?? '')
  if (words === null || (words[1] === '' && words[2] === '')) return null
  const first = words[1] === '' ? Math.max(0, length - Number(words[2])) : Number(words[1])
  const last = words[1] === '' || words[2] === '' ? length - 1 : Math.min(Number(words[2]), length - 1)
  if (first > last) throw new FakeS3Error(416, 'InvalidRange', 'The requested range is not satisfiable', {}, { 'content-range': `bytes */${length}` })
  return [first, last]
}

function unmet(condition: string): FakeS3Error {
  return new FakeS3Error(412, 'PreconditionFailed', 'At least one of the pre-conditions you specified did not hold', { Condition: condition })
}

function noUpload(): FakeS3Error { return new FakeS3Error(404, 'NoSuchUpload', 'The specified upload does not exist. It may have been aborted or completed.') }

function document(root: string, content: string): FakeAnswer {
  const text = `<?xml version="1.0" encoding="UTF-8"?>\n<${root} xmlns="${XMLNS}">${content}</${root}>`
  return { status: 200, headers: { 'content-type': 'application/xml' }, body: Buffer.from(text) }
}

/** The root element of a request's document; `lists`: elements that may occur several times. All values are text. */
function parsed<T>(body: Buffer, root: string, lists: readonly string[]): T {
  const parser = new XMLParser({ parseTagValue: false, trimValues: false, isArray: name => lists.includes(name) })
  const found = (parser.parse(body.toString()) as Record<string, unknown>)[root]
  if (typeof found !== 'object' || found === null) throw new FakeS3Error(400, 'MalformedXML', `No ${root}.`)
  return found as T
}
