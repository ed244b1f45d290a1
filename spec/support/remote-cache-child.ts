/** A cache in a child process, for places that the specs' own process must not go to: mounts of a namespace of their own, such as hang, and libraries of other systems that are told how to fail. Started by remote-cache.ts. */
import { readdir } from 'node:fs/promises'
import { HiCacheError, HiCacheNixl, type OpenOptions } from '../../lib/index.js'
import { bytes, same } from './content.js'

export interface Pages { readonly keys: readonly string[]; readonly bytes: number; readonly version?: number; readonly timeoutMs?: number }
export type RemoteCommand =
  | { readonly do: 'open'; readonly options: OpenOptions; readonly abortAfterMs?: number }
  /** Answers a word a page: `stored`, `already-there`, or the status and the errno or code of its error. */
  | { readonly do: 'write'; readonly pages: Pages }
  /** Answers a word a page: `hit` when the bytes are those that `write` stores, `WRONG BYTES`, the reason of a miss, or status and error. */
  | { readonly do: 'read'; readonly pages: Pages }
  | { readonly do: 'delete'; readonly keys: readonly string[] }
  /** How many of them are there, from the first on. */
  | { readonly do: 'exists'; readonly keys: readonly string[]; readonly timeoutMs?: number }
  | { readonly do: 'stats' | 'health' | 'gc' | 'selection' }
  | { readonly do: 'files'; readonly directory: string }
  | { readonly do: 'close'; readonly graceMs: number }
  | { readonly do: 'exit'; readonly code: number }

let cache: HiCacheNixl | undefined

const page = ({ bytes: length, version = 0 }: Pages, key: string): Uint8Array => bytes(length, `${key} ${version}`)
const failure = (status: string, error: HiCacheError): string => `${status} ${error.errno ?? error.code}`

async function obey(command: RemoteCommand): Promise<unknown> {
  switch (command.do) {
    case 'open': {
      const signal = command.abortAfterMs === undefined ? {} : { signal: AbortSignal.timeout(command.abortAfterMs) }
      cache = await HiCacheNixl.open({ env: {}, arenaBytes: 16 * 1024 * 1024, storageLayout: 'file', ...command.options, ...signal })
      return cache.directories
    }
    case 'write': {
      const { keys, timeoutMs } = command.pages
      const outcomes = await cache!.write(keys.map(key => [key, page(command.pages, key)]), timeoutMs === undefined ? {} : { timeoutMs })
      return outcomes.map(outcome => outcome.ok ? outcome.status : failure(outcome.status, outcome.error))
    }
    case 'read': {
      const { keys, timeoutMs } = command.pages
      const outcomes = await cache!.read(keys, timeoutMs === undefined ? {} : { timeoutMs })
      return outcomes.map(outcome => outcome.ok ? same(outcome.value, page(command.pages, outcome.key)) ? 'hit' : 'WRONG BYTES'
        : outcome.status === 'miss' ? outcome.reason : failure(outcome.status, outcome.error))
    }
    case 'delete': return await Promise.all(command.keys.map(key => cache!.delete(key)))
    case 'exists': return await cache!.batchExists(command.keys, command.timeoutMs === undefined ? {} : { timeoutMs: command.timeoutMs })
    case 'stats': return cache!.stats()
    case 'health': return cache!.health()
    case 'selection': return cache!.selection
    case 'gc': return await cache!.gc()
    case 'files': return (await readdir(command.directory, { recursive: true, withFileTypes: true })).filter(entry => entry.isFile()).map(({ name }) => name)
    case 'close':
      await cache!.close({ graceMs: command.graceMs })
      return
    case 'exit': process.exit(command.code)
  }
}

process.on('message', (message: { readonly id: number; readonly command: RemoteCommand }) => {
  const { id, command } = message
  obey(command).then(
    value => { process.send!({ id, value: value ?? null }) },
    (error: unknown) => {
      const { code, errno } = error as HiCacheError
      process.send!({ id, error: HiCacheError.is(error) ? { message: error.message, code, errno } : { message: String(error) } })
    }
  )
})
process.on('disconnect', () => { process.exit(0) })
process.send!({ id: -1, value: process.pid })
