import { expect } from 'chai'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ArmSummary, measures, median } from '../../lib/cli/workload/arm-summary.js'
import { limitSteps, measuredSteps, ownSteps, type ArmSample, type BenchArm, type BenchOp } from '../../lib/cli/workload/bench-arm.js'
import { CHECKSUMS, LAYOUTS } from '../../lib/cli/workload/bench-plan.js'
import { nameOf, withStores } from '../../lib/cli/workload/bench-stores.js'
import { InterleavedRounds } from '../../lib/cli/workload/interleaved-rounds.js'
import { MainThreadWatch } from '../../lib/cli/workload/main-thread-watch.js'
import { StampedBuffers } from '../../lib/cli/workload/stamped-buffers.js'
import { UNCHECKED_READS, type UncheckedReads } from '../../lib/connector/unchecked-reads.js'
import type { HiCacheNixl } from '../../lib/index.js'
import { captureCli } from '../support/captured-cli.js'

type Entry = Record<string, unknown>
interface BenchJson { machine: Entry; runs: Entry[]; peers: Entry[]; lookups: Entry[]; churn: Entry[]; leftOut: Entry[] }

const RUN_KEYS = ['storageLayout', 'engine', 'op', 'pageBytes', 'batch', 'workers', 'zeroCopy', 'inFlight', 'checksum', 'mibPerSecond', 'limitMibPerSecond',
  'ratioToLimit', 'ratioMin', 'ratioMax', 'cpuSecondsPerGib', 'p50Us', 'p99Us', 'callP50Us', 'callP99Us', 'against', 'mix', 'peakRssBytes', 'capacityBytes']
const PEER_KEYS = ['name', 'op', 'pageBytes', 'mibPerSecond', 'flushedMibPerSecond', 'cpuSecondsPerGib', 'p50Us', 'p99Us']

describe('bench', () => {
  let folder: string
  beforeEach(async () => { folder = await mkdtemp(join(tmpdir(), 'bench-spec-')) })
  afterEach(async () => await rm(folder, { recursive: true, force: true }))

  async function bench(...args: string[]): Promise<BenchJson> {
    const defaults = [['--bytes', '1MiB'], ['--batch', '4'], ['--workers', '1']].filter(([name]) => !args.includes(name!)).flat()
    const { code, stdout, stderr } = await captureCli(['bench', '--quick', ...defaults, '--storage-dir', folder, '--json', '--quiet', ...args])
    expect(code, stderr + stdout).to.equal(0)
    return JSON.parse(stdout) as BenchJson
  }

  it('answers runs and peers in the form that others rely on, and leaves nothing behind', async () => {
    const { machine, runs, peers, leftOut } = await bench('--layout', 'file', '--bytes', '2MiB', '--batch', '8')
    expect(machine).to.include.keys('cpu', 'cores', 'node', 'kernel', 'fileSystem', 'direct', 'peakRssBytes')
    expect(runs.map(({ op, zeroCopy }) => `${String(op)} ${String(zeroCopy)}`)).to.have.members(['read true', 'read false', 'write true', 'write false'])
    for (const run of runs) {
      expect(run).to.include.keys(RUN_KEYS)
      expect(run).to.include({ storageLayout: 'file', pageBytes: 65536, batch: 8, workers: 1, inFlight: 3, checksum: 'on', capacityBytes: null })
      expect(run.mibPerSecond).to.be.a('number').greaterThan(0)
      expect(run.p99Us).to.be.at.least(run.p50Us as number)
      expect(run.against).to.include.keys('device-limit', 'cpp-loop', 'fs-promises', 'lmdb', 'lmdb-nosync')
      for (const other of Object.values(run.against as Record<string, Entry>)) expect(other).to.include.keys('speed', 'speedMin', 'speedMax', 'speedFlushed', 'cpu', 'p99')
    }
    for (const peer of peers) {
      expect(peer).to.include.keys(PEER_KEYS)
      expect(peer.mibPerSecond).to.be.a('number').greaterThan(0)
      // Only what went through the page cache has bytes to wait for.
      expect(peer.flushedMibPerSecond !== null, String(peer.name)).to.equal(peer.op === 'write' && ['fs-promises', 'lmdb', 'lmdb-nosync'].includes(peer.name as string))
    }
    for (const op of ['read', 'write']) {
      expect(peers.filter(peer => peer.op === op).map(({ name }) => name)).to.include.members(['device-limit', 'cpp-loop', 'fs-promises', 'lmdb', 'lmdb-nosync'])
    }
    expect(leftOut).to.deep.equal([])
    expect(await readdir(folder)).to.deep.equal([])
  })

  it('has single calls beside the limit of what they come down to', async () => {
    const { runs, peers } = await bench('--layout', 'file', '--ops', 'set,get,one-batch', '--only', 'hicache,limit', '--zero-copy')
    expect(runs.map(({ op, inFlight }) => `${String(op)} ${String(inFlight)}`)).to.deep.equal(['set 3', 'one-batch-write 1', 'get 3', 'one-batch-read 1'])
    for (const run of runs) expect(run.ratioToLimit, String(run.op)).to.be.a('number').greaterThan(0)
    expect(peers.map(({ name, op }) => `${String(name)} ${String(op)}`)).to.deep.equal(['device-limit write', 'device-limit read'])
  })

  it('reads under a load of writes, beside a ring that has as many bytes in flight', async () => {
    const { runs, peers } = await bench('--layout', 'file', '--ops', 'mix', '--copying', '--write-load', '512KiB', '--reads-in-flight', '2', '--only', 'hicache,ring')
    expect(runs).to.have.length(1)
    expect(peers.map(({ name }) => name)).to.deep.equal(['cpp-ring'])
    for (const { op, mix } of [...runs, ...peers]) {
      expect(op).to.equal('mix')
      expect(mix).to.include({ writeBytesInFlight: 524288, readsInFlight: 2 })
      expect((mix as Entry).readMibPerSecond).to.be.greaterThan(0)
      expect((mix as Entry).writeMibPerSecond).to.be.greaterThan(0)
    }
    expect((runs[0]!.against as Record<string, Entry>)['cpp-ring']!.p99).to.be.greaterThan(0)
  })

  it('looks pages up', async () => {
    const { lookups, runs } = await bench('--layout', 'file', '--ops', 'lookup', '--only', 'hicache')
    expect(runs).to.deep.equal([])
    expect(lookups).to.have.length(1)
    expect(lookups[0]).to.include({ storageLayout: 'file', pageBytes: 65536, batch: 4, pages: 16 })
    expect(lookups[0]!.lookupsPerSecond).to.be.greaterThan(0)
    expect(lookups[0]!.lookupsPerCpuSecond).to.be.greaterThan(0)
  })

  it('measures the segment layout over segments that are used again, what it reads being what it keeps', async () => {
    const { runs, lookups } = await bench('--layout', 'segment', '--ops', 'write,read,set,get,one-batch,mix,lookup', '--capacity', '8MiB', '--only', 'hicache')
    expect(runs.map(({ op, zeroCopy }) => `${String(op)} ${String(zeroCopy)}`)).to.have.members(
      ['write', 'set', 'one-batch-write', 'read', 'get', 'one-batch-read', 'mix'].flatMap(op => [`${op} true`, `${op} false`]))
    for (const run of runs) {
      expect(run).to.include({ storageLayout: 'segment', capacityBytes: 8 * 2 ** 20, checksum: 'on' })
      expect(run.mibPerSecond, String(run.op)).to.be.greaterThan(0)
    }
    expect(lookups[0]).to.include({ storageLayout: 'segment', pages: 16 })
    expect(await readdir(folder)).to.deep.equal([])
  })

  it('wears a store out', async () => {
    const { churn, runs } = await bench('--layout', 'segment', '--ops', 'churn', '--capacity', '4MiB', '--evictions', '200', '--zero-copy', '--only', 'hicache,limit')
    expect(runs).to.deep.equal([])
    expect(churn).to.have.length(1)
    expect(churn[0]).to.include({ storageLayout: 'segment', pageBytes: 65536, capacityBytes: 4 * 2 ** 20, zeroCopy: true, rounds: 2 })
    expect(churn[0]!.evictions).to.be.at.least(200)
    for (const figure of ['firstMibPerSecond', 'lastMibPerSecond', 'ratio', 'ratioOfLimitRatios']) expect(churn[0]![figure], figure).to.be.greaterThan(0)
    expect(await readdir(folder)).to.deep.equal([])
  })

  it('opens a store for each engine and each number of workers', async () => {
    const { runs } = await bench('--layout', 'file', '--engine', 'aio,posix_aio', '--workers', '1,2', '--ops', 'write', '--only', 'hicache', '--zero-copy')
    expect(runs.map(({ workers, engine }) => `${String(workers)} ${String(engine)}`)).to.have.members(['1 aio', '2 aio', '1 posix_aio', '2 posix_aio'])
  })

  it('measures what it is asked for, and shows it as tables', async () => {
    const { code, stdout, stderr } = await captureCli(['bench', '--quick', '--bytes', '1MiB', '--batch', '4', '--ops', 'read,mix,lookup', '--only', 'hicache,fs', '--zero-copy', '--workers', '1',
      '--rounds', '1', '--layout', 'file', '--storage-dir', folder])
    expect(code, stderr).to.equal(0)
    expect(stdout).to.match(/Read 64\.0 KiB pages/).and.match(/hicache-nixl file, zero copy/).and.match(/fs\.promises/)
    expect(stdout).to.match(/under a load of writes, 64\.0 KiB pages, 768\.0 KiB being written, 4 reads at once/).and.match(/Lookups/)
    expect(stdout).not.to.match(/Write 64|copying|C\+\+ loop, a|device limit\b.*MiB/)
  })

  it('reads with and without checksums, and writes with them', async () => {
    const { runs, lookups, churn } = await bench('--layout', 'file,segment', '--capacity', '8MiB', '--ops', 'write,read,get,one-batch,mix,lookup,churn', '--evictions', '10', '--checksum', 'on,off', '--zero-copy',
      '--only', 'hicache', '--rounds', '1')
    const found = runs.map(({ storageLayout, op, checksum }) => `${String(storageLayout)} ${String(op)} ${String(checksum)}`)
    const reads = ['read', 'get', 'one-batch-read', 'mix'].flatMap(op => [`${op} on`, `${op} off`])
    expect(found).to.have.members(['file', 'segment'].flatMap(layout => ['write on', 'one-batch-write on', ...reads].map(run => `${layout} ${run}`)))
    for (const run of runs) expect(run.mibPerSecond, String(run.op)).to.be.greaterThan(0)
    expect(lookups).to.have.length(2)
    expect(churn).to.have.length(1)
    expect(await readdir(folder)).to.deep.equal([])
  })

  it('says in its tables which reads were unchecked, also where all were', async () => {
    const tables = async (checksum: string): Promise<string> => {
      const { code, stdout, stderr } = await captureCli(['bench', '--quick', '--bytes', '1MiB', '--batch', '4', '--layout', 'file', '--checksum', checksum, '--zero-copy', '--only', 'hicache', '--workers', '1',
        '--rounds', '1', '--storage-dir', folder])
      expect(code, stderr).to.equal(0)
      return stdout.replace(/[0-9.,]+/g, '')
    }
    const both = await tables('on,off')
    expect(both.match(/zero copy +checksum off/g), both).to.have.length(1)
    expect(both.match(/zero copy/g), both).to.have.length(3)
    const off = await tables('off')
    expect(off.match(/zero copy +checksum off/g), off).to.have.length(1)
    expect(off.match(/zero copy/g), off).to.have.length(2)
    expect(await tables('on')).not.to.include('checksum')
  })

  it('refuses to leave checksums out where nothing is read', async () => {
    expect(await captureCli(['bench', '--checksum', 'off', '--ops', 'write,lookup', '--storage-dir', folder])).to.include({ code: 2 })
      .and.have.property('stderr').that.matches(/--checksum: off is for operations that read/)
  })

  for (const [option, value] of [
    ['--page-bytes', '1000'], ['--batch', '0'], ['--ops', 'erase'], ['--only', 'disk'], ['--rounds', '0'], ['--checksum', 'on,maybe'], ['--layout', 'objects'], ['--engine', 'steam'],
    ['--workers', '1,0'], ['--ops', 'churn'],
  ] as const) {
    it(`refuses ${option} ${value}`, async () => {
      expect(await captureCli(['bench', option, value, '--storage-layout', 'file', '--storage-dir', folder])).to.include({ code: 2 }).and.have.property('stderr').that.includes(option)
    })
  }
})

describe('steps of a round', () => {
  it('are those asked for, and what they need', () => {
    expect([...measuredSteps(['one-batch', 'churn', 'get'])]).to.have.members(['one-batch-write', 'one-batch-read', 'get'])
    expect([...ownSteps(measuredSteps(['lookup']), false)]).to.have.members(['lookup', 'write'])
    expect([...ownSteps(measuredSteps(['lookup']), true)]).to.deep.equal(['lookup'])
    expect([...ownSteps(measuredSteps(['set']), false)]).to.deep.equal(['set'])
    expect([...limitSteps(measuredSteps(['set', 'get', 'mix', 'lookup']))]).to.have.members(['write', 'read'])
  })
})

describe('stores of a benchmark', () => {
  it('read unchecked where --checksum off is asked for, and nowhere else', async () => {
    const opened: UncheckedReads[] = []
    const context = { withCache: async <T>(use: (cache: HiCacheNixl) => Promise<T>, extra: UncheckedReads) => { opened.push(extra); return await use(null as never) } }
    const kinds = CHECKSUMS.flatMap(checksum => LAYOUTS.map(layout => ({ layout, engine: 'auto', workers: 1, checksum } as const)))
    const folders = await withStores(context as never, { threads: null } as never, kinds, { directory: '/bench', arenaBytes: 1, capacity: 1 }, async stores => await Promise.resolve(stores.map(({ kind }) => nameOf(kind))))
    expect(opened.map(options => options[UNCHECKED_READS])).to.deep.equal([undefined, undefined, true, true])
    expect(new Set(folders).size).to.equal(4)
  })
})

describe('stamped buffers', () => {
  it('tell whose page they hold, and count every wrong byte', () => {
    const bytes = new Uint8Array(4096)
    const stamped = new StampedBuffers([bytes], 4096)
    const mine = StampedBuffers.stamp(1, 0, 7)
    stamped.fill(() => 3)
    stamped.stamp(0, mine)
    expect(stamped.has(0, mine)).to.equal(true)
    expect(stamped.has(0, StampedBuffers.stamp(1, 0, 8))).to.equal(false)
    expect(stamped.wrongBytes(0, 3, mine)).to.equal(0)
    bytes[2000]! ^= 1
    bytes[2001]! ^= 1
    expect(stamped.wrongBytes(0, 3, mine)).to.equal(2)
    expect(stamped.wrongBytes(0, 4, mine)).to.be.greaterThan(1000)
    stamped.clear()
    expect(stamped.has(0, mine)).to.equal(false)
  })
})

describe('interleaved rounds', () => {
  class FakeArm implements BenchArm {
    readonly steps: ReadonlySet<BenchOp>

    constructor(
      readonly name: string, private readonly calls: string[], private readonly seconds: (round: number) => number = () => 1, steps: readonly BenchOp[] = ['read', 'write'],
    ) { this.steps = new Set(steps) }

    async discard(round: number): Promise<void> {
      this.calls.push(`discard ${this.name}${round}`)
      await Promise.resolve()
    }

    async run(op: BenchOp, round: number): Promise<ArmSample> {
      this.calls.push(`${op} ${this.name}${round}`)
      await Promise.resolve()
      return { bytes: 2 ** 20, seconds: this.seconds(round), cpuSeconds: 0.5, latencyUs: Float64Array.of(round) }
    }
  }

  it('run every arm once a round, writes before reads, each round with another one first', async () => {
    const calls: string[] = []
    const arms = ['a', 'b', 'c'].map(name => new FakeArm(name, calls))
    await new InterleavedRounds(arms).run({ rounds: 2, optional: new Set() })
    expect(calls.filter(call => !call.startsWith('discard')).map(call => call.split(' ')[1])).to.deep.equal([
      'a0', 'b0', 'c0', 'a0', 'b0', 'c0', 'b1', 'c1', 'a1', 'b1', 'c1', 'a1', 'c2', 'a2', 'b2', 'c2', 'a2', 'b2',
    ])
    expect(calls.filter(call => call.startsWith('discard'))).to.have.length(9)
  })

  it('count no warming up, and compare within each round', async () => {
    // The device halves its speed in round 2: within each round the ratio stays what it is.
    const slow = new FakeArm('slow', [], round => [100, 2, 4, 2.5][round]!, ['write'])
    const fast = new FakeArm('fast', [], round => [1, 1, 2, 1][round]!, ['write'])
    const rounds = new InterleavedRounds([slow, fast])
    await rounds.run({ rounds: 3, optional: new Set() })
    const summary = rounds.summary(slow, 'write')!
    expect(summary.rounds).to.equal(3)
    expect(summary.mibPerSecond).to.equal(0.4)
    expect(summary.ratioTo(rounds.summary(fast, 'write')!)).to.deep.equal({ median: 0.5, min: 0.4, max: 0.5 })
    expect(summary.cpuSecondsPerGib).to.equal(512)
    expect(summary.ratioTo(rounds.summary(fast, 'write')!, measures.p99).median).to.equal(1)
    expect(rounds.summary(slow, 'read')).to.equal(undefined)
  })

  it('leave out an optional arm that cannot run here, and no other', async () => {
    const broken = (name: string): BenchArm => new FakeArm(name, [], () => { throw new Error('not here') })
    const good = new FakeArm('good', [])
    const bad = broken('bad')
    const leftOut: string[] = []
    const rounds = new InterleavedRounds([bad, good])
    await rounds.run({ rounds: 1, optional: new Set([bad]), onLeftOut: arm => leftOut.push(arm.name) })
    expect(leftOut).to.deep.equal(['bad'])
    expect(rounds.summary(good, 'read')!.rounds).to.equal(1)
    const needed = broken('needed')
    let error: unknown
    await new InterleavedRounds([needed]).run({ rounds: 1, optional: new Set() }).catch((reason: unknown) => { error = reason })
    expect(error).to.have.property('message', 'not here')
  })

  it('take the middle', () => {
    expect(median([3, 1, 2])).to.equal(2)
    expect(median([4, 1, 2, 3])).to.equal(2.5)
    expect(median([])).to.be.NaN
    expect(new ArmSummary('none', 'read').longestCallbackMs).to.equal(undefined)
  })
})

describe('main thread watch', () => {
  it('sees a callback that keeps the thread', async () => {
    const watch = new MainThreadWatch()
    watch.start()
    await new Promise(resolve => { setImmediate(resolve) })
    const until = process.hrtime.bigint() + 60_000_000n
    while (process.hrtime.bigint() < until) { /* keep the thread */ }
    await new Promise(resolve => { setImmediate(resolve) })
    const { callbackMs, stallMs } = watch.stop()
    expect(stallMs).to.be.at.least(58)
    expect(callbackMs).to.be.greaterThan(0).and.at.most(stallMs + 0.001)
  })
})
