import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import type { HiCacheNixl, OpenOptions } from '../../lib/index.js'
import type { StorageLayout as DiskLayout } from '../../lib/storage/default-layout.js'
import { hang } from './hang.js'
import { describeObjects, objectOptions, objectPlace, prefixOf } from './object-place.js'
import { currentSystem, describeOn, systemOptions, systemsFor } from './systems.js'
import type { Workbench } from './workbench.js'

export type { DiskLayout }
export type StorageLayout = DiskLayout | 'object'

/** The layouts of storage directories. */
export const LAYOUTS: readonly DiskLayout[] = ['file', 'segment']

/**
 * describe(), once for each layout in which a cache must behave alike: files, segments, and objects of a real radosgw; each also on the systems that move
 * their bytes in another way (systems.ts), unless `systems` is false: what is about processes, the kernel's engines, or arguments and
 * names that never reach them. What looks at a layout's own files is a suite of that layout.
 */
export function describeLayouts(title: string, suite: (storageLayout: StorageLayout) => void, { systems = true }: { readonly systems?: boolean } = {}): void {
  describeDiskLayouts(title, suite)
  for (const system of systems ? systemsFor(title) : []) {
    for (const storageLayout of system.layouts ?? LAYOUTS) describeOn(`${title}, ${storageLayout} layout`, system, () => { suite(storageLayout) })
  }
  describeObjects(`${title}, object layout`, () => { suite('object') })
}

/** The same for the layouts of storage directories alone: what is about what a disk, or the kernel before it, does. */
export function describeDiskLayouts(title: string, suite: (storageLayout: DiskLayout) => void): void {
  for (const storageLayout of LAYOUTS) describe(`${title}, ${storageLayout} layout`, () => { suite(storageLayout) })
}

/** Options of a cache of that layout, as small as a spec's pages: every size of page takes a segment, which is written once before use. */
export function layoutOptions(storageLayout: DiskLayout): OpenOptions {
  return storageLayout === 'segment' ? { storageLayout, segmentBytes: 4 * 1024 * 1024 } : { storageLayout }
}

/**
 * Options of a cache of that layout on that directory. Of objects there is none: the same directory is the same prefix in the suite's bucket. `endpoint`: where that
 * is asked, when not at the radosgw itself.
 */
export function placeOptions(storageLayout: StorageLayout, storageDir: string | readonly string[], endpoint?: string): OpenOptions {
  if (storageLayout === 'object' && currentSystem() !== null) return { ...systemOptions(), objectPrefix: prefixOf(storageDir) }
  return storageLayout === 'object' ? objectOptions(storageDir, endpoint) : { storageDir, ...systemOptions(), ...layoutOptions(storageLayout) }
}

/** What pages say of where they are (PageInfo.directory). */
export function placeName(storageLayout: StorageLayout, storageDir: string): string {
  return storageLayout === 'object' ? `s3://${objectPlace().bucket}/${prefixOf(storageDir)} at ${objectPlace().gateway.endpoint}` : storageDir
}

/**
 * Keeps pages from being read and written, so that a spec can act while they are under way. In the file layout those whose key contains `match`; of objects the same
 * (the workbench is to be one for hanging); in the segment layout, where a page has no file of its own, all of that storage directory. Answers how to let them go;
 * the end of the spec does it in any case.
 */
export function hangPages(bench: Workbench, cache: HiCacheNixl, match: string, directory = 0): () => void {
  if (cache.storageLayout === 'object') return bench.front.hold(match)
  if (cache.storageLayout === 'file') return hang(bench, match)
  const points = ['ring.complete', 'aio.complete', 'paio.complete', 'preadv', 'pwritev', 'usrbio.complete', 'cufile.complete', 'nixl.complete']
  const segments = join(cache.directories[directory]!.realPath, 'segments')
  const folders = readdirSync(segments, { withFileTypes: true }).filter(entry => entry.isDirectory()).map(({ name }) => name)
  return hang(bench, ...folders.flatMap(folder => points.map(point => ({ point, match: `${folder}/`, times: 0, hang: true }))))
}
