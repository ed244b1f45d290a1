import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { BusyTask } from './busy-child.js'
import type { Workbench } from './workbench.js'

const BUSY_CHILD = fileURLToPath(new URL('./busy-child.js', import.meta.url))

export interface Ending { readonly code: number | null; readonly signal: NodeJS.Signals | null; readonly said: readonly string[]; readonly stderr: string }

/** A busy process, from outside. */
export class BusyChild {
  readonly process: ChildProcess
  readonly ended: Promise<Ending>
  readonly #said: string[] = []
  #stderr = ''

  constructor(bench: Workbench, task: BusyTask) {
    const child = fork(BUSY_CHILD, [JSON.stringify(task)], { stdio: ['ignore', 'ignore', 'pipe', 'ipc'], execArgv: [] })
    this.process = child
    bench.atEnd(() => { child.kill('SIGKILL') })
    child.stderr!.setEncoding('utf8').on('data', (text: string) => { this.#stderr += text })
    child.on('message', text => { this.#said.push(text as string) })
    this.ended = once(child, 'close').then(([code, signal]) => ({
      code: code as number | null, signal: signal as NodeJS.Signals | null, said: this.#said, stderr: this.#stderr
    }))
  }

  /** Has said `text` so many times; also resolves when it has ended. */
  async says(text: string, times = 1): Promise<void> {
    const enough = (): boolean => this.#said.filter(line => line === text).length >= times
    if (enough()) return
    await Promise.race([this.ended, new Promise<void>(resolve => {
      this.process.on('message', () => { if (enough()) resolve() })
    })])
  }
}

/** Runs `count` jobs, `at` a time. */
export async function inTurns(count: number, at: number, job: (index: number) => Promise<void>): Promise<void> {
  let next = 0
  const line = async (): Promise<void> => {
    while (next < count) await job(next++)
  }
  await Promise.all(Array.from({ length: at }, line))
}
