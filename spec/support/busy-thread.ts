/** A thread that opens a cache of its own, and writes and reads without a pause until it is ended. Says `busy` after every batch. */
import { parentPort, workerData } from 'node:worker_threads'
import { HiCacheNixl, type OpenOptions } from '../../lib/index.js'
import { versionedPage } from './versioned-pages.js'

export interface BusyThreadTask { readonly options: OpenOptions; readonly keys: readonly string[]; readonly pageBytes: number; readonly end: 'terminated' | 'exit' | 'throw' }

async function main({ options, keys, pageBytes, end }: BusyThreadTask): Promise<void> {
  const cache = await HiCacheNixl.open({ env: {}, arenaBytes: 16 * 1024 * 1024, storageLayout: 'file', directoryScheme: 'flat', ...options })
  let version = 0
  const work = async (write: boolean): Promise<void> => {
    for (;;) {
      if (write) await cache.write(keys.map(key => [key, versionedPage(key, version++, pageBytes)]))
      else await cache.read(keys)
      parentPort!.postMessage('busy')
      if (version > keys.length * 3) {
        if (end === 'exit') process.exit(3)
        if (end === 'throw') throw new Error('thrown on purpose')
      }
    }
  }
  await Promise.all([work(true), work(true), work(false)])
}

await main(workerData as BusyThreadTask)
