import { AsyncLocalStorage } from 'node:async_hooks'
import { tracingChannel } from 'node:diagnostics_channel'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { HiCacheNixl, type Logger } from '../../lib/index.js'
import type { TransferContext } from '../../lib/observe/channels.js'
import { parseExposition, valueOf } from './exposition.js'

const PAGE_BYTES = 8192

describe('observation of a cache', () => {
  let directory: string
  let cache: HiCacheNixl
  const logged: string[] = []
  const log = (level: string) => (message: string): void => { logged.push(`${level}: ${message}`) }
  const logger: Logger = { debug: log('debug'), info: log('info'), warn: log('warn'), error: log('error') }

  before(async () => {
    directory = mkdtempSync(join(tmpdir(), 'hicache-observe-'))
    cache = await HiCacheNixl.open({ storageDir: directory, storageLayout: 'file', workers: 1, arenaBytes: 16 * 2 ** 20, env: {}, logger, config: { plugin: { posix: { active: true }, obj: { active: true } } } })
  })
  after(async () => {
    await cache.close()
    rmSync(directory, { recursive: true })
  })

  it('counts what happened, in stats and in the text alike', async () => {
    await cache.batchSet(['a', 'b', 'c'], [1, 2, 3].map(fill => Buffer.alloc(PAGE_BYTES, fill)))
    await cache.set('a', Buffer.alloc(PAGE_BYTES, 1))
    await cache.batchGet(['a', 'b', 'c', 'nothing'])
    await cache.batchExists(['a', 'nothing'])
    await cache.delete('c')
    await cache.delete('c')
    const stats = cache.stats()
    expect(stats).to.include({
      pages_write: 4, pages_write_stored: 3, pages_write_already_there: 1, bytes_written: 3 * PAGE_BYTES,
      pages_read: 4, pages_read_hit: 3, pages_read_miss: 1, pages_read_miss_absent: 1, bytes_read: 3 * PAGE_BYTES,
      pages_exists_hit: 1, pages_exists_miss_absent: 1, pages_delete_deleted: 1, pages_delete_absent: 1,
      queued_requests: 0, in_flight_requests: 0, in_flight_bytes: 0, arena_held_bytes: 0, arena_quarantined_bytes: 0, workers: 1, workers_alive: 1,
    })
    expect(stats.batches_read).to.be.above(0)
    expect(stats.latency_read_p99_us).to.be.above(0)
    const families = parseExposition(cache.metrics())
    expect(valueOf(families, 'hicache_nixl_pages_total', { op: 'read', outcome: 'hit' })).to.equal(3)
    expect(valueOf(families, 'hicache_nixl_pages_total', { op: 'read', outcome: 'miss', reason: 'absent' })).to.equal(1)
    expect(valueOf(families, 'hicache_nixl_page_duration_seconds', { op: 'write' }, 'hicache_nixl_page_duration_seconds_count')).to.equal(4)
    expect(families.get('hicache_nixl_arena_bytes')!.samples[0]!.labels).to.deep.equal({ plugin: 'posix', engine: cache.selection.engine, layout: 'file' })
  })

  it('shows arena memory that a caller holds, until it is released', () => {
    const tensor = cache.allocate({ dtype: 'uint8', shape: [PAGE_BYTES] })
    expect(cache.stats().arena_held_bytes).to.be.at.least(PAGE_BYTES)
    tensor.release()
    expect(cache.stats().arena_held_bytes).to.equal(0)
  })

  it('traces every call in the context of its caller, with outcomes and without bytes', async () => {
    const storage = new AsyncLocalStorage<string>()
    const seen: { event: string; context: TransferContext; caller: string | undefined }[] = []
    const subscribers = Object.fromEntries(['start', 'end', 'asyncStart', 'asyncEnd', 'error'].map(event =>
      [event, (context: unknown) => { seen.push({ event, context: context as TransferContext, caller: storage.getStore() }) }])) as
      Record<'start' | 'end' | 'asyncStart' | 'asyncEnd' | 'error', (message: TransferContext) => void>
    const channels = (['read', 'write'] as const).map(op => tracingChannel<unknown, TransferContext>(`hicache-nixl:${op}`))
    for (const channel of channels) channel.subscribe(subscribers)
    try {
      // Requests of one microtask go to the workers as one batch; each must still find its own caller.
      await Promise.all([
        storage.run('writer', async () => await cache.write([['t1', Buffer.alloc(PAGE_BYTES, 7)], ['t2', Buffer.alloc(PAGE_BYTES, 8)]])),
        storage.run('reader', async () => await cache.read(['a', 'nothing'])),
      ])
    } finally {
      for (const channel of channels) channel.unsubscribe(subscribers)
    }
    for (const [caller, op, context] of [
      ['writer', 'write', { pages: 2, bytes: 2 * PAGE_BYTES, outcomes: { stored: 2 } }], ['reader', 'read', { pages: 2, bytes: PAGE_BYTES, outcomes: { hit: 1, absent: 1 } }],
    ] as const) {
      const own = seen.filter(one => one.caller === caller)
      expect(own.map(({ event }) => event)).to.deep.equal(['start', 'end', 'asyncStart', 'asyncEnd'])
      for (const one of own) expect(one.context).to.deep.equal({ op, ...context })
    }
    expect(seen).to.have.length(8)
  })

  it('tells its logger what an operator should read once', () => {
    expect(logged.filter(line => line.startsWith('warn: '))).to.have.length(1)
    expect(logged.join('\n')).to.include('several plugin sections are active (posix, obj)')
  })

  it('is healthy, then closing, then closed; figures stay readable', async () => {
    expect(cache.health()).to.deep.equal({ status: 'ok', reasons: [] })
    const closing = cache.close()
    expect(cache.health().status).to.equal('closing')
    await closing
    expect(cache.health().status).to.equal('closed')
    expect(cache.stats()).to.include({ pages_write_stored: 5, workers_alive: 0 })
    expect(parseExposition(cache.metrics()).size).to.be.above(10)
  })
})
