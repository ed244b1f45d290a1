import { expect } from 'chai'
import { Metrics, type Gauges } from '../../lib/observe/metrics.js'
import { parseExposition, valueOf } from './exposition.js'

const gauges: Gauges = {
  queuedRequests: 1, queuedBytes: 2, inFlightRequests: 3, inFlightBytes: 4, inFlightBytesMax: 5, writeWindowBytes: 12, arenaBytes: 6, arenaUsedBytes: 7, arenaHeldBytes: 8,
  arenaQuarantinedBytes: 9, workers: 10, workersAlive: 11,
}
const make = (labels = { plugin: 'posix', engine: 'aio', layout: 'file' }): Metrics => new Metrics(labels, () => gauges)

describe('metrics', () => {
  it('count pages by operation and outcome; a miss has its reason', () => {
    const metrics = make()
    metrics.page('read', 'hit', 65536, 0.001)
    metrics.page('read', 'hit', 65536, 0.001)
    metrics.page('read', 'absent', 0, 0.001)
    metrics.page('read', 'corrupt', 0, 0.001)
    metrics.page('write', 'stored', 4096, 0.002)
    metrics.page('write', 'already-there', 4096, 0.002)
    metrics.page('delete', 'absent', 0, 0.0001)
    expect(metrics.stats()).to.include({
      pages_read: 4, pages_read_hit: 2, pages_read_miss: 2, pages_read_miss_absent: 1, pages_read_miss_corrupt: 1, pages_read_miss_stale: 0, pages_read_timeout: 0,
      pages_write: 2, pages_write_stored: 1, pages_write_already_there: 1, pages_delete_absent: 1, pages_delete_deleted: 0,
    })
    const families = parseExposition(metrics.text())
    expect(valueOf(families, 'hicache_nixl_pages_total', { op: 'read', outcome: 'hit', reason: '' })).to.equal(2)
    expect(valueOf(families, 'hicache_nixl_pages_total', { op: 'read', outcome: 'miss', reason: 'corrupt' })).to.equal(1)
    expect(valueOf(families, 'hicache_nixl_pages_total', { op: 'write', outcome: 'already-there' })).to.equal(1)
    expect(valueOf(families, 'hicache_nixl_pages_total', { op: 'delete', outcome: 'absent', reason: '' })).to.equal(1)
  })

  it('count the bytes of hits and of stored pages, and of nothing else', () => {
    const metrics = make()
    for (const outcome of ['hit', 'absent', 'timeout', 'failed']) metrics.page('read', outcome, 1000, 0.001)
    for (const outcome of ['stored', 'already-there', 'rejected']) metrics.page('write', outcome, 500, 0.001)
    expect(metrics.stats()).to.include({ bytes_read: 1000, bytes_written: 500 })
    expect(valueOf(parseExposition(metrics.text()), 'hicache_nixl_bytes_total', { op: 'read' })).to.equal(1000)
  })

  it('are a text that a scraper reads: families whole, series once, buckets cumulative and closed', () => {
    const metrics = make()
    for (let step = 0; step < 40; step++) metrics.page('read', 'hit', 4096, 0.00001 * 2 ** step)
    metrics.batch('read', 40, 40 * 4096, 0.25)
    metrics.count('worker_restarts')
    const families = parseExposition(metrics.text())
    for (const { name, type, help, samples } of families.values()) {
      expect(name).to.match(/^hicache_nixl_/)
      expect(help).to.match(/\.$/)
      expect(samples, name).to.not.be.empty
      if (type === 'counter') expect(name).to.match(/_total$/)
      for (const { labels } of samples) expect(labels).to.include({ plugin: 'posix', engine: 'aio', layout: 'file' })
    }
    for (const op of ['read', 'write']) {
      const samples = families.get('hicache_nixl_page_duration_seconds')!.samples.filter(({ labels }) => labels.op === op)
      const buckets = samples.filter(({ name }) => name.endsWith('_bucket'))
      const bounds = buckets.map(({ labels }) => labels.le === '+Inf' ? Infinity : Number(labels.le))
      expect(bounds).to.deep.equal(bounds.toSorted((a, b) => a - b))
      expect(bounds[0]).to.equal(0.00005)
      expect(bounds.slice(-2)).to.deep.equal([30, Infinity])
      const counts = buckets.map(({ value }) => value)
      expect(counts).to.deep.equal(counts.toSorted((a, b) => a - b))
      expect(counts.at(-1)).to.equal(op === 'read' ? 40 : 0)
      expect(samples.find(({ name }) => name.endsWith('_count'))!.value).to.equal(counts.at(-1))
    }
    expect(valueOf(families, 'hicache_nixl_batch_pages', { op: 'read', le: '64' }, 'hicache_nixl_batch_pages_bucket')).to.equal(1)
    expect(valueOf(families, 'hicache_nixl_batch_pages', { op: 'read', le: '32' }, 'hicache_nixl_batch_pages_bucket')).to.equal(0)
  })

  it('put a value that equals a bound into that bucket', () => {
    const metrics = make()
    metrics.page('write', 'stored', 1, 0.001)
    const families = parseExposition(metrics.text())
    const bucket = (le: string): number => valueOf(families, 'hicache_nixl_page_duration_seconds', { op: 'write', le }, 'hicache_nixl_page_duration_seconds_bucket')
    expect([bucket('0.0005'), bucket('0.001'), bucket('0.0025')]).to.deep.equal([0, 1, 1])
  })

  it('escape what a label cannot hold', () => {
    const metrics = make({ plugin: 'a"b', engine: 'c\\d\ne', layout: 'file' })
    const sample = parseExposition(metrics.text()).get('hicache_nixl_workers')!.samples[0]!
    expect(sample.labels).to.deep.equal({ plugin: 'a"b', engine: 'c\\d\ne', layout: 'file' })
  })

  it('show the gauges as they are when asked', () => {
    let workersAlive = 2
    const metrics = new Metrics({ plugin: 'posix', engine: 'aio', layout: 'file' }, () => ({ ...gauges, workersAlive }))
    expect(metrics.stats()).to.include({ workers_alive: 2, arena_quarantined_bytes: 9, in_flight_bytes_max: 5 })
    workersAlive = 1
    expect(valueOf(parseExposition(metrics.text()), 'hicache_nixl_workers_alive')).to.equal(1)
  })

  it('have counters of any name, the known ones from the start', () => {
    const metrics = make()
    expect(metrics.stats()).to.include({ worker_restarts: 0, cleaner_evicted_pages: 0 })
    metrics.count('worker_restarts')
    metrics.count('cleaner_evicted_bytes', 4096)
    metrics.count('some-thing', 2)
    metrics.count('some-thing')
    expect(metrics.stats()).to.include({ worker_restarts: 1, cleaner_evicted_bytes: 4096, some_thing: 3 })
    expect(valueOf(parseExposition(metrics.text()), 'hicache_nixl_some_thing_total')).to.equal(3)
  })

  it('stay bounded whatever they are told', () => {
    const metrics = make()
    for (let index = 0; index < 10_000; index++) {
      metrics.page('read', `outcome-${index}`, 0, 0.001)
      metrics.count(`counter_${index}`)
    }
    const families = parseExposition(metrics.text())
    expect(families.size).to.be.below(200)
    const reads = families.get('hicache_nixl_pages_total')!.samples.filter(({ labels }) => labels.op === 'read')
    expect(reads.length).to.be.below(60)
    expect(reads.reduce((sum, { value }) => sum + value, 0)).to.equal(10_000)
    expect(metrics.stats().pages_read).to.equal(10_000)
  })

  it('estimate latencies from the histogram', () => {
    const metrics = make()
    for (let index = 0; index < 99; index++) metrics.page('read', 'hit', 1, 0.0008)
    metrics.page('read', 'hit', 1, 4)
    const { latency_read_p50_us: p50, latency_read_p99_us: p99, latency_write_p99_us: none } = metrics.stats()
    expect(p50).to.be.within(500, 1000)
    expect(p99).to.be.within(500, 1000)
    expect(none).to.equal(0)
  })

  it('answer flat numbers only', () => {
    const stats = make().stats()
    for (const [name, value] of Object.entries(stats)) {
      expect(name).to.match(/^[a-z][a-z0-9_]*$/)
      expect(value, name).to.be.a('number').and.satisfy(Number.isFinite)
    }
  })
})
