/** What specs of the native agent do in another process or worker thread: `node child.js <scenario> <directory> ...`. */
import { existsSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads'
import type { EngineName } from '../../lib/transfer/native-binding.js'
import { addon, Rig, type SharedPart } from './rig.js'

const LENGTH = 65_536
const COUNT = 32

/** One of them is under way, or was. */
async function untilBegun(rig: Rig, words: readonly number[]): Promise<void> {
  while (words.every(word => rig.state(word) === 'queued')) await new Promise(resolve => { setImmediate(resolve) })
}

const pages = (op: 'pageRead' | 'pageWrite') => Array.from({ length: COUNT }, (_, i) =>
  ({ op, name: op === 'pageRead' ? 'page' : `page${i}`, at: i * LENGTH, length: LENGTH, flags: op === 'pageWrite' ? ['replace'] as const : [] }))

async function prepared(rig: Rig): Promise<void> {
  rig.fill(0, LENGTH, 1)
  await rig.one({ op: 'pageWrite', name: 'page', length: LENGTH, flags: ['replace'] })
}

async function main(scenario: string, directory: string, engine: EngineName = 'aio', direct = 'no', point = ''): Promise<void> {
  const open = (): Rig => new Rig({ directory, engine, direct: direct === 'yes', drainMs: 100 })
  switch (scenario) {
    case 'stuck-writer': {
      const rig = new Rig({ directory })
      rig.fill(0, 100, 2)
      addon.setFaults([{ point: 'rename', hang: true }])
      void rig.one({ op: 'pageWrite', name: 'd1/page', length: 100 })
      while (!existsSync(`${directory}/.hicache-nixl-tmp`) || readdirSync(`${directory}/.hicache-nixl-tmp`).length === 0) await new Promise(resolve => { setImmediate(resolve) })
      process.send!('stuck')
      return
    }
    // Ends by itself: an agent with nothing in flight keeps no process alive.
    case 'idle': {
      await prepared(open())
      return
    }
    // Ends when the batch is answered, although nobody waits for it.
    case 'unawaited': {
      const rig = open()
      await prepared(rig)
      void rig.run(...pages('pageRead')).then(answers => { console.log(answers.filter(({ status }) => status === 'ok').length) })
      return
    }
    case 'exit-main': {
      const rig = open()
      await prepared(rig)
      if (point) addon.setFaults([{ point, hang: true, times: 0 }])
      const { words } = rig.start(pages(point.startsWith('pwrite') ? 'pageWrite' : 'pageRead'))
      await untilBegun(rig, words)
      process.exit(7)
      return
    }
    case 'exit-workers':
    case 'throw-in-worker': {
      await prepared(open())
      if (point) addon.setFaults([{ point, hang: true, times: 0 }])
      const workers = [0, 1].map(() => new Worker(fileURLToPath(import.meta.url), { workerData: { directory, engine, direct, throws: scenario === 'throw-in-worker' } }))
      const ends = workers.map(async worker => await new Promise(resolve => { worker.once('exit', resolve) }))
      const begun = workers.map(async worker => await new Promise(resolve => { worker.once('message', resolve) }))
      for (const worker of workers) worker.on('error', error => { console.log(error.message) })
      await Promise.all(begun)
      if (scenario === 'exit-workers') process.exit(7)
      await Promise.all(ends)
      process.exit(8)
      return
    }
    default: throw new Error(scenario)
  }
}

/** A worker that has work in flight when its end comes. */
async function work(data: { directory: string; engine: EngineName; direct: string; shared?: SharedPart; throws?: boolean; forever?: boolean }): Promise<void> {
  const rig = new Rig({ directory: data.directory, engine: data.engine, direct: data.direct === 'yes', drainMs: 100, ...data.shared ? { shared: data.shared } : {} })
  const { words } = rig.start([...pages('pageRead'), ...pages('pageWrite')])
  await untilBegun(rig, words)
  parentPort!.postMessage('begun')
  if (data.throws) throw new Error('thrown with work in flight')
  while (data.forever) await Promise.all([rig.run(...pages('pageRead')), rig.run(...pages('pageWrite')), rig.agent.list(0, '', { records: true })])
  // Whatever it has in flight: it stays until it is ended.
  parentPort!.on('message', () => undefined)
}

if (isMainThread) void main(...process.argv.slice(2) as [string, string, EngineName?, string?, string?])
else void work(workerData as never)
