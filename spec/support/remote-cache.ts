import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { DirectoryReport, OpenOptions } from '../../lib/index.js'
import type { NixlBackendSelection } from '../../lib/selection/nixl-backend-selection.js'
import type { Pages, RemoteCommand } from './remote-cache-child.js'
import type { Workbench } from './workbench.js'

const HERE = dirname(fileURLToPath(import.meta.url))
/** Not compiled, and so not copied: it lies in the sources, three folders above dist/spec/support. */
const FUSE_FS = join(HERE, '..', '..', '..', 'spec', 'support', 'fuse_fs.py')
const CHILD = join(HERE, 'remote-cache-child.js')

/** A cache in a process of its own, perhaps in a mount namespace of its own. */
export class RemoteCache {
  /** The process that was started: the cache's own, or that of the file system it runs on. */
  readonly process: ChildProcess
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
  readonly #waiting = new Map<number, { readonly resolve: (value: never) => void; readonly reject: (error: Error) => void }>()
  readonly #ready: Promise<number>
  #ids = 0

  /** `through`: a command that runs the rest of its line; `env`: what it has in its environment beside this process's. */
  constructor(bench: Workbench, through: readonly string[], env: Readonly<Record<string, string>> = {}) {
    const [program, ...rest] = [...through, process.execPath, CHILD]
    const child = spawn(program, rest, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], env: { ...process.env, ...env } })
    this.process = child
    this.ended = once(child, 'exit').then(([code, signal]) => ({ code: code as number | null, signal: signal as NodeJS.Signals | null }))
    // It takes its file system, its namespace and the mounts there with it. A stopped process can be killed, too.
    bench.atEnd(async () => {
      child.kill('SIGKILL')
      await this.ended
    })
    child.on('message', (message: { readonly id: number; readonly value?: unknown; readonly error?: object & { readonly message: string } }) => {
      const waiting = this.#waiting.get(message.id)
      this.#waiting.delete(message.id)
      if (message.error) waiting?.reject(Object.assign(new Error(message.error.message), message.error))
      else waiting?.resolve(message.value as never)
    })
    void this.ended.then(({ code, signal }) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`The cache's process ended: ${signal ?? `exit code ${code}`}.`))
      this.#waiting.clear()
    })
    this.#ready = new Promise((resolve, reject) => { this.#waiting.set(-1, { resolve, reject }) })
    this.#ready.catch(() => {})
  }

  async #ask<T>(command: RemoteCommand): Promise<T> {
    await this.#ready
    return await new Promise<T>((resolve, reject) => {
      const id = this.#ids++
      this.#waiting.set(id, { resolve, reject })
      this.process.send({ id, command }, error => { if (error) reject(error) })
    })
  }

  open(options: OpenOptions, abortAfterMs?: number): Promise<DirectoryReport[]> {
    return this.#ask({ do: 'open', options, ...(abortAfterMs === undefined ? {} : { abortAfterMs }) })
  }
  write(pages: Pages): Promise<string[]> { return this.#ask({ do: 'write', pages }) }
  read(pages: Pages): Promise<string[]> { return this.#ask({ do: 'read', pages }) }
  delete(keys: readonly string[]): Promise<boolean[]> { return this.#ask({ do: 'delete', keys }) }
  exists(keys: readonly string[], timeoutMs?: number): Promise<number> { return this.#ask({ do: 'exists', keys, ...(timeoutMs === undefined ? {} : { timeoutMs }) }) }
  stats(): Promise<Record<string, number>> { return this.#ask({ do: 'stats' }) }
  health(): Promise<{ status: string; reasons: string[] }> { return this.#ask({ do: 'health' }) }
  selection(): Promise<NixlBackendSelection> { return this.#ask({ do: 'selection' }) }
  gc(): Promise<unknown> { return this.#ask({ do: 'gc' }) }
  files(directory: string): Promise<string[]> { return this.#ask({ do: 'files', directory }) }
  close(graceMs: number): Promise<void> { return this.#ask({ do: 'close', graceMs }) }
  /** Has the cache's own process ended, with all its threads? (One whose parent has not asked for its status is still there as a zombie.) */
  async dead(): Promise<boolean> {
    const pid = await this.#ready
    try {
      if (readdirSync(`/proc/${pid}/task`).length > 1) return false
      return /\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT' || (error as NodeJS.ErrnoException).code === 'ESRCH') return true
      throw error
    }
  }

  /** Ends its process by process.exit(). */
  exit(code: number): void { this.#ask({ do: 'exit', code }).catch(() => {}) }
}

/** Runs the rest of its line in a mount namespace of its own, after `script` has mounted what is wanted (its arguments: `args`). */
function mounting(unshare: readonly string[], script: string, args: readonly string[]): string[] {
  return [...unshare, 'sh', '-c', `set -e; ${script}; shift ${args.length}; exec "$@"`, 'sh', ...args]
}

const UNSHARES = [['unshare', '-rm'], ['unshare', '-m']]

export type Through = { readonly through: string[] } | { readonly refusal: string }

/** The way to a mount, tried once with nothing behind it. A user namespace first: then it takes no privilege. */
function tryMount(script: string, args: readonly string[], unshares: readonly (readonly string[])[] = UNSHARES): Through {
  let refusal = ''
  for (const unshare of unshares) {
    const through = mounting(unshare, script, args)
    const { status, stderr, error } = spawnSync(through[0]!, [...through.slice(1), 'true'], { encoding: 'utf8' })
    if (status === 0) return { through }
    refusal = (error?.message ?? stderr).trim().split('\n').at(-1)!
  }
  return { refusal }
}

export function tmpfsAt(directory: string, options: string): Through {
  return tryMount('mount -t tmpfs -o "$2" none "$1"', [directory, `mode=700,${options}`])
}

/** An ext4 of its own in a file. A loop device takes privileges that a user namespace does not give. */
export function ext4At(directory: string, image: string, size: string): Through {
  const { status, stderr, error } = spawnSync('sh', ['-c', 'truncate -s "$2" "$1" && mkfs.ext4 -q "$1"', 'sh', image, size], {
    encoding: 'utf8', env: { ...process.env, PATH: `${process.env.PATH}:/sbin:/usr/sbin` }
  })
  if (status !== 0) return { refusal: (error?.message ?? stderr).trim() }
  return tryMount('mount -o loop "$2" "$1"', [directory, image], [['unshare', '-m']])
}

/** The specs' own FUSE file system. The process that is started is the file system: stop it, and it hangs. */
export function fuseAt(directory: string): Through {
  let refusal = ''
  for (const unshare of UNSHARES) {
    const through = [...unshare, 'python3', FUSE_FS, directory]
    const { status, stderr, error } = spawnSync(through[0]!, [...through.slice(1), 'touch', join(directory, 'tried')], { encoding: 'utf8', timeout: 10_000 })
    if (status === 0) return { through }
    refusal = (error?.message ?? stderr).trim().split('\n').at(-1)!
  }
  return { refusal }
}
