/**
 * The piscina worker: holds one native agent and turns a message into a native transfer, nothing else. The agent is made at the first task, from
 * workerData, so that a worker that replaces a dead one gets its own.
 */
import { workerData } from 'node:worker_threads'
import { loadAddon } from '../lib/transfer/load-addon.js'
import type { AgentOptions, BatchResult, ListedFile, NativeAgent } from '../lib/transfer/native-binding.js'

export type WorkerTask =
  | { readonly kind: 'transfer'; readonly descriptors: Float64Array; readonly blob: Uint8Array; readonly wantMetas: boolean }
  | { readonly kind: 'list'; readonly directory: number; readonly folder: string; readonly records: boolean }
  | { readonly kind: 'sweep'; readonly directory: number; readonly folder: string }
export type WorkerAnswer = BatchResult | ListedFile[] | number
/** The agent refused the task, and the worker lives on. Not an Error: its code would not survive the message to another thread. */
export interface WorkerRefusal { readonly refused: string; readonly code: string }

let agent: NativeAgent | undefined

function agentOfThisWorker(): NativeAgent {
  agent ??= new (loadAddon().Agent)((workerData as { agent: AgentOptions }).agent)
  return agent
}

export default async function run(task: WorkerTask): Promise<WorkerAnswer | WorkerRefusal> {
  try {
    const own = agentOfThisWorker()
    switch (task.kind) {
      case 'transfer': return await own.submit(task.descriptors, task.blob, task.wantMetas)
      case 'list': return await own.list(task.directory, task.folder, { records: task.records })
      case 'sweep': return await own.sweep(task.directory, task.folder)
    }
  } catch (error) {
    const { message, code } = error as NodeJS.ErrnoException
    return { refused: message, code: code ?? '' }
  }
}
