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

let agent: NativeAgent | undefined

function agentOfThisWorker(): NativeAgent {
  agent ??= new (loadAddon().Agent)((workerData as { agent: AgentOptions }).agent)
  return agent
}

export default function run(task: WorkerTask): Promise<WorkerAnswer> {
  const own = agentOfThisWorker()
  switch (task.kind) {
    case 'transfer': return own.submit(task.descriptors, task.blob, task.wantMetas)
    case 'list': return own.list(task.directory, task.folder, { records: task.records })
    case 'sweep': return own.sweep(task.directory, task.folder)
  }
}
