import { tracingChannel } from 'node:diagnostics_channel'
import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { createRequire, syncBuiltinESMExports } from 'node:module'
import { inspect } from 'node:util'
import type { Worker as NodeWorker, WorkerOptions } from 'node:worker_threads'
import { expect } from 'chai'
import { HiCacheNixl, type Logger } from '../../lib/index.js'
import { cli } from '../cli/cli-process.js'
import { bytes } from '../support/content.js'
import { describeObjects, objectConfig, objectPlace, prefixOf } from '../support/object-place.js'
import { until } from '../support/planned-faults.js'
import { MIB, workbench } from '../support/workbench.js'

const threads = createRequire(import.meta.url)('node:worker_threads') as { Worker: typeof NodeWorker }

/** Everything that can be got out of a value by looking at it. */
function everything(value: unknown): string {
  const texts = [inspect(value, { depth: 12, showHidden: true, getters: true, maxArrayLength: null, maxStringLength: null }), String(value)]
  try {
    texts.push(JSON.stringify(value, (_, part: unknown) => typeof part === 'bigint' ? String(part) : part) ?? '')
  } catch {
    // Circular: inspect() has seen it.
  }
  if (value instanceof Error) texts.push(value.message, value.stack ?? '', everything(value.cause ?? ''))
  return texts.join('\n')
}

describeObjects('secrets of an object store', () => {
  const bench = workbench('object')
  const seen: string[] = []
  const see = (value: unknown): void => { seen.push(everything(value)) }
  const logger: Logger = Object.fromEntries(['debug', 'info', 'warn', 'error'].map(level => [level, (...words: unknown[]) => { see(words) }])) as never
  const EVENTS = ['start', 'end', 'asyncStart', 'asyncEnd', 'error'] as const
  const subscribers = Object.fromEntries(EVENTS.map(event => [event, see])) as Record<typeof EVENTS[number], (message: unknown) => void>

  beforeEach(() => {
    seen.length = 0
    const { Worker } = threads
    // What a thread is started with goes through a copy that anybody in it can read.
    threads.Worker = class extends Worker {
      constructor(file: string | URL, options?: WorkerOptions) {
        super(file, options)
        see([options, (options as { argv?: unknown } | undefined)?.argv])
      }

      override postMessage(message: unknown, ...rest: never[]): void {
        see(message)
        super.postMessage(message, ...rest)
      }
    }
    syncBuiltinESMExports()
    for (const op of ['read', 'write']) tracingChannel(`hicache-nixl:${op}`).subscribe(subscribers)
    bench.atLast(() => {
      for (const op of ['read', 'write']) tracingChannel(`hicache-nixl:${op}`).unsubscribe(subscribers)
      threads.Worker = Worker
      syncBuiltinESMExports()
    })
  })

  it('show nowhere: not in a cache and what it tells, its threads, events, log, errors and their causes, nor in what others see of the process', async () => {
    const { gateway } = objectPlace()
    const temporary = await gateway.stsAssumeRole(3)
    const secrets = [gateway.accessKey, gateway.secretKey, temporary.accessKey, temporary.secretKey, temporary.sessionToken, 'WRONG-access', 'WRONG-secret', 'WRONG-token']
    const ofTemporary = { access_key: temporary.accessKey, secret_key: temporary.secretKey, session_token: temporary.sessionToken }
    const use = async (cache: HiCacheNixl): Promise<void> => {
      see([await cache.write([['k', bytes(5000, 1)]]), (await cache.read(['k', 'none'])).map(outcome => outcome.ok ? outcome.status : outcome)])
      for (const call of [() => cache.exists('l'), () => cache.delete('none'), () => cache.stat('k'), () => cache.clear(), () => cache.gc(), () => cache.verify()]) see(await call().catch((error: unknown) => error))
      see([cache, cache.config, cache.selection, cache.directories, cache.health(), cache.stats(), cache.metrics()])
    }
    const plain = await bench.open({ logger, config: objectConfig() })
    await use(plain)
    const short = await bench.open({ logger, config: objectConfig(undefined, ofTemporary) })
    await use(short)
    await until(async () => (await short.write([['k', bytes(10, 2)]]))[0]!.status === 'failed', 'the end of keys that live for 3 s')
    await use(short)
    for (const wrong of [{ access_key: 'WRONG-access', secret_key: 'WRONG-secret' }, { ...ofTemporary, session_token: 'WRONG-token' }, { secret_key: 'WRONG-secret' }]) {
      await HiCacheNixl.open({ env: {}, arenaBytes: 16 * MIB, logger, config: objectConfig(undefined, wrong) }).then(() => expect.fail('It opened.'), see)
    }
    see([process.title, process.argv, readFileSync('/proc/self/cmdline', 'utf8'), readFileSync('/proc/self/comm', 'utf8'), process.report.getReport()])

    // Threads were started, events came, and there were errors.
    const text = seen.join('\n')
    expect(text).to.include('workerData').and.include('outcomes').and.match(/refuses requests/).and.match(/SignatureDoesNotMatch/)
    for (const [i, secret] of secrets.entries()) expect(text.includes(secret), `secret ${i}`).to.equal(false)
  })

  it('show in nothing that the command line says', async () => {
    const { gateway } = objectPlace()
    const directory = await bench.directory()
    const [config, wrong] = [`${directory}/config.json`, `${directory}/wrong.json`]
    await writeFile(config, JSON.stringify(objectConfig()))
    await writeFile(wrong, JSON.stringify(objectConfig(undefined, { secret_key: 'WRONG-secret' })))
    const prefix = ['--object-prefix', prefixOf(directory)]
    const commands = [
      ['config', 'show', '--json', config], ['config', 'show', config], ['config', 'check', config], ['doctor', '--json', '--config', config, ...prefix], ['ls', '--json', '--config', config, ...prefix],
      ['metrics', '--json', '--config', config, ...prefix], ['ls', '--config', wrong, ...prefix], ['doctor', '--config', wrong, ...prefix]
    ]
    const results = await Promise.all(commands.map(command => cli(command, { env: { HICACHE_NIXL_DEBUG: '1' } })))
    results.forEach(({ stdout, stderr }, i) => {
      const said = stdout.toString() + stderr
      expect(said, commands[i]!.join(' ')).to.not.equal('')
      for (const secret of [gateway.accessKey, gateway.secretKey, 'WRONG-secret']) expect(said.includes(secret), commands[i]!.join(' ')).to.equal(false)
    })
    expect(results[0]!.stdout.toString()).to.include('***').and.include(objectPlace().bucket)
    expect(results[6]!.stderr).to.match(/SignatureDoesNotMatch/)
  })
})
