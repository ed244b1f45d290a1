import { XMLParser } from 'fast-xml-parser'
import { HiCacheError } from '../../error.js'

export interface ListedObject { readonly key: string; readonly size: number; readonly modifiedAt: Date }
/** `next`: the continuation token of what follows; null when that was all. */
export interface ListingPage { readonly objects: readonly ListedObject[]; readonly next: string | null }
export interface ListedUpload { readonly key: string; readonly id: string; readonly initiatedAt: Date }
export interface UploadsPage { readonly uploads: readonly ListedUpload[]; readonly next: { readonly key: string; readonly id: string } | null }

type Node = Readonly<Record<string, unknown>>

const parser = new XMLParser({ parseTagValue: false, trimValues: false, isArray: name => name === 'Contents' || name === 'Upload' || name === 'Error' })

/** The answer to ListObjectsV2 with encoding-type=url. Keys that are not UTF-8 cannot be pages, and are left out. */
export function parseListing(body: Uint8Array): ListingPage {
  const root = rootOf(body, 'ListBucketResult')
  const decode = decoderOf(root)
  const objects: ListedObject[] = []
  for (const item of nodesOf(root.Contents)) {
    const key = decode(textOf(item.Key))
    if (key !== null) objects.push({ key, size: Number(textOf(item.Size)), modifiedAt: new Date(textOf(item.LastModified)) })
  }
  const next = textOf(root.NextContinuationToken)
  return { objects, next: textOf(root.IsTruncated).trim() === 'true' && next !== '' ? next : null }
}

/** The answer to ListMultipartUploads with encoding-type=url. */
export function parseUploads(body: Uint8Array): UploadsPage {
  const root = rootOf(body, 'ListMultipartUploadsResult')
  const decode = decoderOf(root)
  const uploads: ListedUpload[] = []
  for (const item of nodesOf(root.Upload)) {
    const key = decode(textOf(item.Key))
    if (key !== null) uploads.push({ key, id: textOf(item.UploadId), initiatedAt: new Date(textOf(item.Initiated)) })
  }
  const key = decode(textOf(root.NextKeyMarker)) ?? ''
  return { uploads, next: textOf(root.IsTruncated).trim() === 'true' && key !== '' ? { key, id: textOf(root.NextUploadIdMarker) } : null }
}

/** The keys that a quiet DeleteObjects could not delete. */
export function parseDeleteErrors(body: Uint8Array): string[] {
  // An empty answer is what some servers send when all went well.
  return body.length === 0 ? [] : nodesOf(rootOf(body, 'DeleteResult').Error).map(item => textOf(item.Key))
}

/** Has the key characters that XML cannot carry? */
export function fitsXml(key: string): boolean { return !/[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/u.test(key) }

/** The body of a quiet DeleteObjects. */
export function deleteBody(keys: readonly string[]): Buffer {
  const objects = keys.map(key => `<Object><Key>${escapeXml(key)}</Key></Object>`).join('')
  return Buffer.from(`<?xml version="1.0" encoding="UTF-8"?><Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Quiet>true</Quiet>${objects}</Delete>`)
}

const ESCAPES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '\t': '&#9;', '\n': '&#10;', '\r': '&#13;' }
function escapeXml(text: string): string { return text.replace(/[&<>\t\n\r]/g, character => ESCAPES[character]!) }

function rootOf(body: Uint8Array, name: string): Node {
  let parsed: Node
  try {
    parsed = parser.parse(Buffer.from(body).toString('utf8')) as Node
  } catch (cause) {
    throw new HiCacheError('ERR_IO', `The object store's answer is no XML (expected ${name}): is the endpoint an S3 endpoint?`, { cause })
  }
  if (!(name in parsed)) throw new HiCacheError('ERR_IO', `The object store's answer has no ${name}: is the endpoint an S3 endpoint?`)
  const root = parsed[name]
  return typeof root === 'object' && root !== null ? root as Node : {}
}

function nodesOf(value: unknown): readonly Node[] {
  return Array.isArray(value) ? value.filter((item): item is Node => typeof item === 'object' && item !== null) : []
}

function textOf(value: unknown): string { return typeof value === 'string' ? value : '' }

/** Keys are encoded when the server says so: not all of them can. */
function decoderOf(root: Node): (text: string) => string | null {
  if (textOf(root.EncodingType).trim() !== 'url') return text => text
  return text => {
    try {
      return decodeURIComponent(text.replaceAll('+', ' '))
    } catch {
      return null
    }
  }
}
