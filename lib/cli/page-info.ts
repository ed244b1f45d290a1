import type { PageInfo } from '../storage/page-info.js'
import { formatBytes, formatTime } from './format.js'

/** `bfloat16 [2,32,128]`; `-` for a page without a record, of which nothing but the length is known. */
export function describeTensor({ dtype, shape }: Pick<PageInfo, 'dtype' | 'shape'>): string {
  return dtype === null ? '-' : `${dtype} [${shape?.join(',') ?? ''}]`
}

/** A control character in a key would reach the terminal as it is: `ls` of somebody's store must not move the cursor. */
export function printableKey(key: string): string {
  // eslint-disable-next-line no-control-regex -- control characters are what is looked for
  return key.replace(/[\u0000-\u001f\u007f-\u009f]/g, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

export function infoRows(info: PageInfo): string[][] {
  return [
    ['key', printableKey(info.key)],
    ['stored key', printableKey(info.storedKey)],
    ['directory', info.directory],
    ['bytes', `${info.bytes} (${formatBytes(info.bytes)}; ${formatBytes(info.allocatedBytes)} on disk)`],
    ['tensor', describeTensor(info)],
    ['written', formatTime(info.writtenAt)],
    ['read last', formatTime(info.accessedAt)],
    ['record', info.verified ? 'checksum and identity are there' : 'none: nothing vouches for the bytes (a page of the Python connector)'],
  ]
}
