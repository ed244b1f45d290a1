/**
 * A cache in another place (a child process, a cluster worker, a worker thread) that does what it is told by messages. Started by servants.ts.
 */
import { isMainThread, parentPort } from 'node:worker_threads'
import { HiCacheError, HiCacheNixl, type OpenOptions } from '../../lib/index.js'
import { bytes, same } from './content.js'

export type ServantCommand =
  | { readonly do: 'open'; readonly options: OpenOptions }
  | { readonly do: 'set'; readonly keys: readonly string[]; readonly bytes: number }
  /** Answers for each key: 'hit' when the bytes are those that `set` stores, else the outcome. */
  | { readonly do: 'get'; readonly keys: readonly string[]; readonly bytes: number }
  | { readonly do: 'health' }
  | { readonly do: 'close' }
  /** Starts a batch of writes and does not wait for it. */
  | { readonly do: 'start'; readonly keys: readonly string[]; readonly bytes: number }
export type ServantAnswer = { readonly id: number; readonly value: unknown } | { readonly id: number; readonly error: { code: string; message: string } }

/** The id of the first message: from then on it listens. */
const READY = -1

let cache: HiCacheNixl | undefined

async function serve(command: ServantCommand): Promise<unknown> {
  if (command.do === 'open') {
    cache = await HiCacheNixl.open({ env: {}, arenaBytes: 16 * 1024 * 1024, storageLayout: 'file', ...command.options })
    return cache.directories.map(({ path, writable }) => ({ path, writable }))
  }
  const open = cache!
  switch (command.do) {
    case 'set': return (await open.write(command.keys.map(key => [key, bytes(command.bytes, key)]))).map(outcome => outcome.ok ? outcome.status : `${outcome.status} ${outcome.error.errno ?? outcome.error.code}`)
    case 'get': return (await open.read(command.keys)).map((outcome, i) =>
      outcome.ok ? same(outcome.value, bytes(command.bytes, command.keys[i]!)) ? 'hit' : 'WRONG BYTES' : outcome.status === 'miss' ? outcome.reason : `${outcome.status} ${outcome.error.errno ?? outcome.error.code}`)
    case 'health': return open.health()
    case 'close': await open.close(); return 'closed'
    case 'start': void open.write(command.keys.map(key => [key, bytes(command.bytes, key)])); return 'started'
  }
}

function listen(message: { readonly id: number; readonly command: ServantCommand }, answer: (answer: ServantAnswer) => void): void {
  serve(message.command).then(
    value => answer({ id: message.id, value }),
    (error: unknown) => answer({ id: message.id, error: { code: HiCacheError.is(error) ? error.code : 'not ours', message: String(error) } })
  )
}

const say: (answer: ServantAnswer) => void = isMainThread ? answer => { process.send!(answer) } : answer => { parentPort!.postMessage(answer) }
;(isMainThread ? process : parentPort!).on('message', (message: unknown) => { listen(message as never, say) })
// A cluster worker loses what is sent to it before somebody listens.
say({ id: READY, value: 'ready' })
