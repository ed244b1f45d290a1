import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

export interface TrialEnding { readonly code: number | null; readonly signal: NodeJS.Signals | null; readonly stderr: string }

/** Processes that a trial has started and that have not ended: none outlives the trial. */
const running = new Set<ChildProcess>()

/** A process of a trial, from outside. It gets its task as JSON, and says objects. */
export class TrialProcess {
  readonly process: ChildProcess
  readonly ended: Promise<TrialEnding>
  readonly said: Record<string, unknown>[] = []
  #stderr = ''
  #over = false
  readonly #listeners = new Set<() => void>()

  /** `module`: name of the compiled file beside this one. */
  constructor(module: string, task: object) {
    const child = fork(fileURLToPath(new URL(module, import.meta.url)), [JSON.stringify(task)], { stdio: ['ignore', 'ignore', 'pipe', 'ipc'], execArgv: [] })
    this.process = child
    running.add(child)
    child.stderr!.setEncoding('utf8').on('data', (text: string) => { this.#stderr += text })
    child.on('message', message => {
      this.said.push(message as Record<string, unknown>)
      for (const listener of this.#listeners) listener()
    })
    this.ended = once(child, 'close').then(([code, signal]) => {
      this.#over = true
      running.delete(child)
      for (const listener of this.#listeners) listener()
      return { code: code as number | null, signal: signal as NodeJS.Signals | null, stderr: this.#stderr }
    })
  }

  /** The `times`th thing said that has this name; null once it has ended without. */
  async says(name: string, times = 1): Promise<Record<string, unknown> | null> {
    for (;;) {
      const found = this.said.filter(message => name in message)[times - 1]
      if (found) return found
      if (this.#over) return null
      await new Promise<void>(resolve => {
        const listener = (): void => {
          this.#listeners.delete(listener)
          resolve()
        }
        this.#listeners.add(listener)
      })
    }
  }

  tell(message: object): void { if (this.process.connected) this.process.send(message, () => {}) }

  kill(): void { this.process.kill('SIGKILL') }
}

/** Ends what a trial that failed has left running. */
export function endProcesses(): void { for (const child of running) child.kill('SIGKILL') }

/** For the child: says something, if anybody still listens. Resolves once it is on its way. */
export async function say(message: object): Promise<void> {
  if (process.connected) await new Promise<void>(resolve => { process.send!(message, () => { resolve() }) })
}

/** For the child: what it was told to do. */
export function taskOf<T>(): T { return JSON.parse(process.argv[2]!) as T }
