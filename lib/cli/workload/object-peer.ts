import { HiCacheError } from '../../error.js'
import type { ObjectCredentials, ObjectEndpoint } from '../../transfer/native-binding.js'
import type { BenchOp } from './bench-arm.js'
import { PeerPages } from './peer-pages.js'

/** What every client in JavaScript gets that `bench` compares with on an object store. */
export interface ObjectPeerOptions {
  readonly endpoint: ObjectEndpoint
  readonly credentials: ObjectCredentials
  /** Of all its objects; its own. */
  readonly prefix: string
  readonly pageBytes: number
  readonly pages: number
  /** Requests at once, each on a connection of its own. */
  readonly concurrency: number
  readonly steps: ReadonlySet<BenchOp>
  /** Removes what the arm stored. */
  removeAll(): Promise<void>
}

/** Ordinary memory: sockets are not written from that of WebAssembly. */
export function peerPages(name: string, { pages, pageBytes, concurrency }: ObjectPeerOptions): PeerPages {
  return new PeerPages(name, pages, pageBytes, concurrency, (count, bytes) => Array.from({ length: count }, () => Buffer.from(new ArrayBuffer(bytes))))
}

/** The names of a round are its own. Nothing in them needs encoding but what the prefix brings. */
export function objectKey(prefix: string, round: number, page: number): string { return `${prefix}${round}/${page}` }

/** Where requests go: the host (with the bucket, where it is a part of it) and the path of a key, encoded as it is signed. */
export function addressOf({ endpoint, bucket, virtualAddressing }: ObjectEndpoint): { readonly origin: string; readonly host: string; path(key: string): string } {
  const url = new URL(endpoint)
  if (virtualAddressing) url.host = `${bucket}.${url.host}`
  const base = virtualAddressing ? '' : `/${bucket}`
  return { origin: url.origin, host: url.host, path: key => `${base}/${key.split('/').map(encodeSegment).join('/')}` }
}

/** As signature version 4 wants it: encodeURIComponent() leaves these alone. */
function encodeSegment(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, character => `%${character.charCodeAt(0).toString(16).toUpperCase()}`)
}

/** A client that is not installed with this package. */
export async function importPeer(name: string): Promise<unknown> {
  try {
    return await import(name)
  } catch (cause) {
    throw new HiCacheError('ERR_IO', `the package ${name} is not installed (npm install ${name}): ${(cause as Error).message.split('\n')[0]!}`, { cause })
  }
}
