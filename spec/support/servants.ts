import { spawn, type ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import type { ServantAnswer, ServantCommand } from './servant.js'
import type { Workbench } from './workbench.js'

/** As in servant.ts, which serves whoever imports it. */
const READY = -1
export const SERVANT = fileURLToPath(new URL('./servant.js', import.meta.url))

interface Line { send(message: unknown): void; on(hear: (answer: ServantAnswer) => void): void; onEnd(hear: (how: string) => void): void }

/** A cache somewhere else. */
export class Servant {
  readonly #line: Line
  readonly #waiting = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>()
  readonly #ready: Promise<void>
  #ids = 0

  constructor(line: Line) {
    this.#line = line
    this.#ready = new Promise((resolve, reject) => { this.#waiting.set(READY, { resolve, reject }) })
    // Whoever asks hears of it.
    this.#ready.catch(() => {})
    line.on(answer => {
      const waiting = this.#waiting.get(answer.id)
      this.#waiting.delete(answer.id)
      if ('error' in answer) waiting?.reject(Object.assign(new Error(answer.error.message), { code: answer.error.code }))
      else waiting?.resolve(answer.value as never)
    })
    line.onEnd(how => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`The servant ended: ${how}.`))
      this.#waiting.clear()
    })
  }

  async ask<T>(command: ServantCommand): Promise<T> {
    await this.#ready
    return await new Promise<T>((resolve, reject) => {
      const id = this.#ids++
      this.#waiting.set(id, { resolve, reject })
      this.#line.send({ id, command })
    })
  }
}

function overIpc(child: ChildProcess): Line {
  return {
    send: message => { child.send(message as never) },
    on: hear => { child.on('message', answer => hear(answer as ServantAnswer)) },
    onEnd: hear => { child.on('exit', (code, signal) => hear(signal ?? `exit code ${code}`)) }
  }
}

/** A servant in a child process; `through` is a command that runs the rest of its line (unshare, sh -c ...). */
export function childServant(bench: Workbench, through: readonly string[] = []): { servant: Servant; child: ChildProcess } {
  const [program, ...rest] = [...through, process.execPath, SERVANT]
  const child = spawn(program, rest, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  bench.atEnd(() => { child.kill('SIGKILL') })
  return { servant: new Servant(overIpc(child)), child }
}

export function ipcServant(child: ChildProcess): Servant { return new Servant(overIpc(child)) }

/** A servant in a thread of this process. */
export function threadServant(bench: Workbench): { servant: Servant; worker: Worker } {
  const worker = new Worker(SERVANT)
  bench.atEnd(() => worker.terminate())
  const servant = new Servant({
    send: message => { worker.postMessage(message) },
    on: hear => { worker.on('message', (answer: ServantAnswer) => hear(answer)) },
    onEnd: hear => { worker.on('exit', code => hear(`exit code ${code}`)) }
  })
  return { servant, worker }
}
