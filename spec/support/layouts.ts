import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import type { OpenOptions } from '../../lib/index.js'
import type { StorageLayout } from '../../lib/storage/default-layout.js'
import { hang } from './hang.js'
import type { Workbench } from './workbench.js'

export type { StorageLayout }

/** The layouts in which a cache must behave alike. What looks at a layout's own files is a suite of that layout. */
export const LAYOUTS: readonly StorageLayout[] = ['file', 'segment']

/** describe(), once for each layout. */
export function describeLayouts(title: string, suite: (storageLayout: StorageLayout) => void): void {
  for (const storageLayout of LAYOUTS) describe(`${title}, ${storageLayout} layout`, () => { suite(storageLayout) })
}

/** Options of a cache of that layout, as small as a spec's pages: every size of page takes a segment, which is written once before use. */
export function layoutOptions(storageLayout: StorageLayout): OpenOptions {
  return storageLayout === 'segment' ? { storageLayout, segmentBytes: 4 * 1024 * 1024 } : { storageLayout }
}

/**
 * Keeps pages from being read and written, so that a spec can act while they are under way. In the file layout those whose key contains `match`; in the segment
 * layout, where a page has no file of its own, all of that storage directory. Answers how to let them go; the end of the spec does it in any case.
 */
export function hangPages(bench: Workbench, storageLayout: StorageLayout, directory: string, match: string): () => void {
  if (storageLayout === 'file') return hang(bench, match)
  const points = ['ring.complete', 'aio.complete', 'paio.complete', 'preadv', 'pwritev']
  const folders = readdirSync(join(directory, 'segments'), { withFileTypes: true }).filter(entry => entry.isDirectory()).map(({ name }) => name)
  return hang(bench, ...folders.flatMap(folder => points.map(point => ({ point, match: `${folder}/`, times: 0, hang: true }))))
}
