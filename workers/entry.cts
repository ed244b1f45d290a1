/**
 * What piscina loads. CommonJS on purpose: piscina tries require() first, and a Node that can require() an ES module aborts the whole process
 * ("Assertion failed: facade->InstantiateModule") when the worker is terminated while it does: seen where a cache was closed right after it was opened.
 */
import type { WorkerAnswer, WorkerRefusal, WorkerTask } from './worker.js' with { 'resolution-mode': 'import' }

const loading = import('./worker.js')
// The first task reports a failure; until then nobody waits for it.
loading.catch(() => {})

let worker: Awaited<typeof loading> | undefined

async function run(task: WorkerTask): Promise<WorkerAnswer | WorkerRefusal> {
  worker ??= await loading
  return await worker.default(task)
}

// Ready only once all is loaded, or has failed to: a worker that is ended while it loads leaves Node's descriptor of the file it was reading behind.
export = loading.then(() => run, () => run)
