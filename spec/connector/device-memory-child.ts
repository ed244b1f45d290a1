/**
 * A process of its own for device memory on the stand-in for CUDA, which is loaded once a process. Prints what came of the scenario that its argument names.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads'
import { HiCacheNixl } from '../../lib/index.js'
import { StandInControl } from '../support/stand-in.js'
import { rejection } from '../support/rejection.js'

const KIB = 1024
const control = new StandInControl(process.env['HICACHE_STAND_IN_CONTROL']!)
const open = (storageDir: string): Promise<HiCacheNixl> => HiCacheNixl.open({ env: {}, storageDir, arenaBytes: 16 * KIB * KIB, storageLayout: 'file', config: { plugin: { posix: { active: true } } } })

async function refusedSource(storageDir: string): Promise<unknown> {
  const cache = await open(storageDir)
  const memory = await cache.allocDeviceBuffer({ length: 64 * KIB })
  await rejection(cache.set('page', { ...memory.subarray(0, 64 * KIB), dtype: 'float32', shape: [3] }), 'ERR_ARGUMENT')
  memory.release()
  await cache.close()
  return control.get('cuda.count.allocations')
}

/** Calls that are not waited for: the last write wins, and a read brings what was asked for before it. */
async function order(storageDir: string): Promise<unknown> {
  const cache = await open(storageDir)
  const memory = await cache.allocDeviceBuffer({ length: 64 * KIB })
  const page = (fill: number): Uint8Array => new Uint8Array(64 * KIB).fill(fill)
  await cache.set('seven', page(7))
  await cache.get('seven', memory)
  const first = cache.set('page', memory)
  const read = cache.get('page')
  const second = cache.set('page', page(1))
  const third = cache.set('other', page(2))
  const fourth = cache.set('other', memory)
  const fifth = cache.set('gone', memory)
  const gone = cache.delete('gone')
  await Promise.all([first, second, third, fourth, fifth])
  const bytes = [await read, await cache.get('page'), await cache.get('other')].map(tensor => (tensor?.data as Uint8Array | undefined)?.[0] ?? null)
  const deleted = [await gone, await cache.exists('gone')]
  memory.release()
  await cache.close()
  return [bytes, deleted]
}

/** A worker that ends without closing its cache. */
async function endedWorker(storageDir: string): Promise<unknown> {
  const worker = new Worker(new URL(import.meta.url), { workerData: storageDir })
  await new Promise(resolve => { worker.once('message', resolve) })
  const pinned = control.get('cuda.count.registrations')
  await worker.terminate()
  return [pinned, control.get('cuda.count.registrations')]
}

const folder = isMainThread ? mkdtempSync(join(tmpdir(), 'hicache-device-')) : workerData as string
if (isMainThread) {
  try {
    process.stdout.write(JSON.stringify(await ({ refusedSource, order, endedWorker })[process.argv[2] as 'refusedSource' | 'order' | 'endedWorker'](folder)))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
} else {
  const cache = await open(folder)
  const memory = await cache.allocDeviceBuffer({ length: 64 * KIB })
  parentPort!.postMessage(await cache.set('page', memory))
  await new Promise(() => { setInterval(() => {}, 1000) })
}
