import { expect } from 'chai'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ArmSummary, median } from '../../lib/cli/workload/arm-summary.js'
import type { ArmSample, BenchArm } from '../../lib/cli/workload/bench-arm.js'
import { InterleavedRounds } from '../../lib/cli/workload/interleaved-rounds.js'
import { MainThreadWatch } from '../../lib/cli/workload/main-thread-watch.js'
import { captureCli } from '../support/captured-cli.js'

interface BenchJson { machine: Record<string, unknown>; runs: Record<string, unknown>[]; peers: Record<string, unknown>[] }

const RUN_KEYS = ['storageLayout', 'engine', 'op', 'pageBytes', 'batch', 'workers', 'zeroCopy', 'inFlight', 'checksum', 'mibPerSecond', 'limitMibPerSecond',
  'ratioToLimit', 'ratioMin', 'ratioMax', 'cpuSecondsPerGib', 'p50Us', 'p99Us']
const PEER_KEYS = ['name', 'op', 'pageBytes', 'mibPerSecond', 'cpuSecondsPerGib', 'p50Us', 'p99Us']

describe('bench', () => {
  let folder: string
  beforeEach(async () => { folder = await mkdtemp(join(tmpdir(), 'bench-spec-')) })
  afterEach(async () => await rm(folder, { recursive: true, force: true }))

  it('--quick answers runs and peers in the form that others rely on, and leaves nothing behind', async () => {
    const { code, stdout, stderr } = await captureCli(['bench', '--quick', '--bytes', '2MiB', '--batch', '8', '--workers', '1', '--storage-dir', folder, '--json', '--quiet'])
    expect(code, stderr + stdout).to.equal(0)
    const { machine, runs, peers } = JSON.parse(stdout) as BenchJson
    expect(machine).to.include.keys('cpu', 'cores', 'node', 'kernel', 'fileSystem', 'direct')
    expect(runs.map(({ op, zeroCopy }) => `${String(op)} ${String(zeroCopy)}`)).to.have.members(['read true', 'read false', 'write true', 'write false'])
    for (const run of runs) {
      expect(run).to.include.keys(RUN_KEYS)
      expect(run).to.include({ storageLayout: 'file', pageBytes: 65536, batch: 8, workers: 1, inFlight: 3, checksum: true })
      expect(run.mibPerSecond).to.be.a('number').greaterThan(0)
      expect(run.p99Us).to.be.at.least(run.p50Us as number)
    }
    for (const peer of peers) {
      expect(peer).to.include.keys(PEER_KEYS)
      expect(peer.mibPerSecond).to.be.a('number').greaterThan(0)
    }
    for (const op of ['read', 'write']) expect(peers.filter(peer => peer.op === op).map(({ name }) => name)).to.include.members(['cpp-loop', 'fs-promises'])
    expect(await readdir(folder)).to.deep.equal([])
  })

  it('measures what it is asked for, and shows it as a table', async () => {
    const { code, stdout, stderr } = await captureCli(['bench', '--quick', '--bytes', '1MiB', '--batch', '4', '--ops', 'read', '--only', 'hicache,fs', '--zero-copy', '--workers', '1',
      '--rounds', '1', '--storage-dir', folder])
    expect(code, stderr).to.equal(0)
    expect(stdout).to.match(/Read 64\.0 KiB pages/).and.match(/hicache-nixl, zero copy, 4 pages/).and.match(/fs\.promises/)
    expect(stdout).not.to.match(/Write 64|copying|C\+\+ loop, same/)
  })

  for (const [option, value] of [['--page-bytes', '1000'], ['--batch', '0'], ['--ops', 'erase'], ['--only', 'disk'], ['--rounds', '0'], ['--checksum', 'off']] as const) {
    it(`refuses ${option} ${value}`, async () => {
      expect(await captureCli(['bench', option, value, '--storage-dir', folder])).to.include({ code: 2 }).and.have.property('stderr').that.includes(option)
    })
  }
})

describe('interleaved rounds', () => {
  class FakeArm implements BenchArm {
    constructor(readonly name: string, private readonly calls: string[], private readonly seconds: (round: number) => number = () => 1) {}

    async write(round: number): Promise<ArmSample> { return await this.call('write', round) }
    async read(round: number): Promise<ArmSample> { return await this.call('read', round) }
    async discard(round: number): Promise<void> {
      this.calls.push(`discard ${this.name}${round}`)
      await Promise.resolve()
    }

    private async call(op: string, round: number): Promise<ArmSample> {
      this.calls.push(`${op} ${this.name}${round}`)
      await Promise.resolve()
      return { bytes: 2 ** 20, seconds: this.seconds(round), cpuSeconds: 0.5, latencyUs: Float64Array.of(round) }
    }
  }

  it('run every arm once a round, writes before reads, each round with another one first', async () => {
    const calls: string[] = []
    const arms = ['a', 'b', 'c'].map(name => new FakeArm(name, calls))
    await new InterleavedRounds(arms).run({ rounds: 2, ops: ['read', 'write'], optional: new Set() })
    expect(calls.filter(call => !call.startsWith('discard')).map(call => call.split(' ')[1])).to.deep.equal([
      'a0', 'b0', 'c0', 'a0', 'b0', 'c0', 'b1', 'c1', 'a1', 'b1', 'c1', 'a1', 'c2', 'a2', 'b2', 'c2', 'a2', 'b2',
    ])
    expect(calls.filter(call => call.startsWith('discard'))).to.have.length(9)
  })

  it('count no warming up, and compare within each round', async () => {
    // The device halves its speed in round 2: within each round the ratio stays what it is.
    const slow = new FakeArm('slow', [], round => [100, 2, 4, 2.5][round]!)
    const fast = new FakeArm('fast', [], round => [1, 1, 2, 1][round]!)
    const rounds = new InterleavedRounds([slow, fast])
    await rounds.run({ rounds: 3, ops: ['write'], optional: new Set() })
    const summary = rounds.summary(slow, 'write')!
    expect(summary.rounds).to.equal(3)
    expect(summary.mibPerSecond).to.equal(0.4)
    expect(summary.ratioTo(rounds.summary(fast, 'write')!)).to.deep.equal({ median: 0.5, min: 0.4, max: 0.5 })
    expect(summary.cpuSecondsPerGib).to.equal(512)
    expect(rounds.summary(slow, 'read')).to.equal(undefined)
  })

  it('leave out an optional arm that cannot run here, and no other', async () => {
    const broken = (name: string): BenchArm => new FakeArm(name, [], () => { throw new Error('not here') })
    const good = new FakeArm('good', [])
    const bad = broken('bad')
    const leftOut: string[] = []
    const rounds = new InterleavedRounds([bad, good])
    await rounds.run({ rounds: 1, ops: ['read', 'write'], optional: new Set([bad]), onLeftOut: arm => leftOut.push(arm.name) })
    expect(leftOut).to.deep.equal(['bad'])
    expect(rounds.summary(good, 'read')!.rounds).to.equal(1)
    const needed = broken('needed')
    let error: unknown
    await new InterleavedRounds([needed]).run({ rounds: 1, ops: ['write'], optional: new Set() }).catch((reason: unknown) => { error = reason })
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
