/**
 * A process of its own for one scenario about the memory of GPUs: the libraries of NVIDIA, or the stand-ins for them, are loaded once a process, by variables that must be set before. Started by
 * gpu-run.ts, and by scripts/try-gpu.mjs on the real libraries. Its last line on standard output is what came of it.
 */
import { GpuRig, type GpuTask } from './gpu-rig.js'
import { SCENARIOS } from './gpu-scenarios.js'

const task = JSON.parse(process.argv[2]!) as GpuTask
const rig = new GpuRig(task)
let answer: { readonly result?: unknown; readonly error?: string }
try {
  const scenario = SCENARIOS[task.scenario]
  if (scenario === undefined) throw new Error(`There is no scenario ${task.scenario}.`)
  answer = { result: await scenario(rig) ?? null }
} catch (error) {
  answer = { error: error instanceof Error ? error.stack ?? error.message : String(error) }
}
try {
  await rig.close()
} catch (error) {
  answer = { error: `${answer.error ?? ''}\nclosing: ${String(error)}` }
}
process.stdout.write(`${JSON.stringify(answer)}\n`)
process.exitCode = answer.error === undefined ? 0 : 1
if (process.connected) process.disconnect()
