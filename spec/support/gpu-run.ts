import { expect } from 'chai'
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { GpuTask } from './gpu-rig.js'
import { StandInControl, standInLibrary } from './stand-in.js'

/** What is left when a process with stand-ins has closed its caches: nothing. */
const LIVE = ['cuda.count.allocations', 'cuda.count.registrations', 'cuda.count.ipc_open', 'cufile.count.buffers', 'cufile.count.handles', 'cufile.count.batches', 'cufile.count.in_flight']
const COUNTERS = [...LIVE, 'cuda.count.copies', 'cufile.count.requests', 'cufile.count.in_flight_max', 'cufile.count.batches_made', 'cufile.count.batch_entries', 'cufile.count.batches_in_use_max',
  'cufile.count.hanging', 'cufile.count.buffer_offsets', 'cufile.count.host_requests', 'cufile.count.open']
const raise = (message: string): never => { throw new Error(message) }

export interface GpuRun extends Omit<GpuTask, 'folder'> {
  /** Set in the stand-ins before the library is loaded. */
  readonly set?: Readonly<Record<string, number>>
  /** Of the stand-in for cuFile. */
  readonly defines?: readonly string[]
  /** Over those of the stand-ins. */
  readonly env?: Readonly<Record<string, string>>
  /** Something stays alive, because the scenario does not close. */
  readonly leaves?: boolean
}

/** Runs a scenario over the stand-ins for CUDA and cuFile in a process of its own, which must end well and give everything back. */
export async function runGpu<Result = unknown>({ set = {}, defines = [], env = {}, leaves = false, ...task }: GpuRun): Promise<{ readonly result: Result; readonly counted: (name: string) => number }> {
  const [cuda, cufile] = await Promise.all([standInLibrary('cuda'), standInLibrary('cufile', defines)])
  const folder = mkdtempSync(join(tmpdir(), 'hicache-gpu-'))
  try {
    // /proc/modules is not there in every container, and a stand-in needs none.
    const modules = join(folder, 'modules')
    writeFileSync(modules, 'nvidia_fs 1 0 - Live 0x0000000000000000\n')
    const control = new StandInControl(join(folder, 'control'))
    control.set('cufile.param.tmpfs', 1)
    for (const [name, value] of Object.entries(set)) control.set(name, value)
    const child = fileURLToPath(new URL('./gpu-child.js', import.meta.url))
    const answer = await new Promise<{ stdout: string; stderr: string; ended: string }>(resolve => {
      execFile(process.execPath, ['--enable-source-maps', child, JSON.stringify({ ...task, folder: join(folder, 'work') })], {
        env: { ...process.env, HICACHE_STAND_IN_CONTROL: control.path, HICACHE_NIXL_PROC_MODULES: modules, HICACHE_NIXL_CUDA_PATH: cuda, HICACHE_NIXL_CUFILE_PATH: cufile, ...env },
        timeout: 60_000, killSignal: 'SIGKILL', maxBuffer: 1 << 26
      }, (error, stdout, stderr) => { resolve({ stdout, stderr, ended: error === null ? '' : String(error.signal ?? error.code) }) })
    })
    const last = answer.stdout.trim().split('\n').at(-1) ?? ''
    const told = (last.startsWith('{') ? JSON.parse(last) : {}) as { result?: Result; error?: string }
    if (told.error !== undefined || answer.ended !== '') throw new Error(`${task.scenario}: ${told.error ?? ''} ${answer.ended}\n${answer.stderr}`)
    // Now: the file goes.
    const counters = new Map(COUNTERS.map(name => [name, control.get(name)]))
    if (!leaves) expect(Object.fromEntries(LIVE.map(name => [name, counters.get(name)])), task.scenario).to.deep.equal(Object.fromEntries(LIVE.map(name => [name, 0])))
    return { result: told.result as Result, counted: name => counters.get(name) ?? raise(`${name} is not counted`) }
  } finally {
    rmSync(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 })
  }
}
