import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { BusyChild, inTurns } from '../support/busy-children.js'
import { fakeS3, type FakeS3 } from '../support/fake-s3.js'
import { fakeOptions, openOnFake } from '../support/fake-s3-cache.js'
import { bounded, keys, until } from '../support/planned-faults.js'
import type { HostReport, HostTask } from '../support/thread-host.js'
import { isWhole } from '../support/versioned-pages.js'
import { MIB, workbench } from '../support/workbench.js'

const THREAD_HOST = fileURLToPath(new URL('../support/thread-host.js', import.meta.url))
const PAGE = 100_000
const LARGE = 6 * MIB
const AT_ONCE = 2
const names = keys('page', 20)

describe('requests to an object store are under way', () => {
  const bench = workbench()
  let fake: FakeS3
  beforeEach(async () => { fake = await fakeS3(bench) })

  const expectWhole = async (pageBytes: number): Promise<void> => {
    const cache = await openOnFake(bench, fake, { arenaBytes: 64 * MIB })
    for (const outcome of await cache.read(names)) {
      if (outcome.ok) expect(outcome.verified && isWhole(outcome.key, outcome.value, pageBytes), outcome.key).to.equal(true)
      else expect(outcome, outcome.key).to.include({ status: 'miss', reason: 'absent' })
    }
  }

  for (const { name, end, expected } of [
    { name: 'process.exit()', end: 'exit', expected: { code: 7, signal: null } },
    { name: 'an exception that nobody catches', end: 'throw', expected: { code: 1, signal: null } },
    { name: 'the end of the main module', end: 'return', expected: { code: 0, signal: null } },
    { name: 'SIGKILL', end: 'never', expected: { code: null, signal: 'SIGKILL' } }
  ] as const) {
    it(`${name}: the process ends as it should, and every page is whole or absent`, async function () {
      this.timeout(60_000)
      await inTurns(end === 'exit' ? 4 : 2, AT_ONCE, async i => {
        const child = new BusyChild(bench, { options: fakeOptions(fake), keys: names, pageBytes: PAGE, end, batches: 2 * i, turns: i * 3 % 7, seed: i + 1 })
        if (end === 'never') {
          await child.says('busy', i + 1)
          child.process.kill('SIGKILL')
        }
        const { code, signal, said, stderr } = await bounded(child.ended, 'the end of the process', 30_000)
        expect({ code, signal }, stderr).to.deep.equal(expected)
        expect(said.filter(line => line.startsWith('WRONG'))).to.deep.equal([])
        expect(said).to.include('ready')
      })
      await until(() => fake.requests.every(({ outcome }) => outcome !== 'open'), 'their connections are closed')
      await expectWhole(PAGE)
    })
  }

  it('they hang, or wait for their next try: no process is kept from its end', async function () {
    this.timeout(60_000)
    await inTurns(4, AT_ONCE, async i => {
      fake.endFaults()
      fake.plan(i % 2 === 0 ? { kind: 'hold', when: 'answer', after: 10, times: 0 } : { kind: 'answer', status: 503, retryAfter: '20', after: 10, times: 0 })
      const child = new BusyChild(bench, { options: { ...fakeOptions(fake), timeoutMs: 300 }, keys: names, pageBytes: PAGE, end: i < 2 ? 'exit' : 'throw', batches: 4, turns: i, seed: i + 1 })
      const { code, signal, stderr } = await bounded(child.ended, 'the end of the process', 30_000)
      expect({ code, signal }, stderr).to.deep.equal({ code: i < 2 ? 7 : 1, signal: null })
    })
    fake.endFaults()
    await expectWhole(PAGE)
  })

  it('pages in parts: the process ends in the midst of them', async function () {
    this.timeout(60_000)
    await inTurns(2, AT_ONCE, async i => {
      const options = fakeOptions(fake, { arenaBytes: 128 * MIB, obj: { crtMinLimit: 1 } })
      const child = new BusyChild(bench, { options, keys: names, pageBytes: LARGE, end: i === 0 ? 'exit' : 'throw', batches: 1, turns: 0, seed: i + 1 })
      const { code, signal, stderr } = await bounded(child.ended, 'the end of the process', 30_000)
      expect({ code, signal }, stderr).to.deep.equal({ code: i === 0 ? 7 : 1, signal: null })
    })
    await expectWhole(LARGE)
  })

  it('the thread that opened the cache is terminated, ended by process.exit() and by an exception, again and again', async function () {
    this.timeout(60_000)
    const held = fake.plan({ kind: 'hold', when: 'answer', method: 'GET', match: 'page-07', times: 0 })
    const task: HostTask = { options: { ...fakeOptions(fake), timeoutMs: 2000 }, rounds: 3, keys: names.slice(0, 12), pageBytes: PAGE, hang: [] }
    const child = spawn(process.execPath, [THREAD_HOST, JSON.stringify(task)], { stdio: ['ignore', 'pipe', 'pipe'] })
    bench.atEnd(() => { child.kill('SIGKILL') })
    const [stdout, stderr, ended] = await bounded(Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]), 'the process of the threads', 50_000)
    expect(ended, stderr).to.deep.equal([0, null])
    const report = JSON.parse(stdout) as HostReport
    expect(held.struck, 'requests that hung').to.be.greaterThan(0)
    expect(report.other, 'pages that are neither whole nor absent, but the one that hangs').to.be.at.most(1)
    expect(report.whole).to.be.greaterThan(0)
    expect(report.descriptors, 'open descriptors').to.be.at.most(report.descriptorsBefore)
    expect(new Set(report.exitCodes)).to.deep.equal(new Set([1, 3]))
    await until(() => fake.requests.every(({ outcome }) => outcome !== 'open'), 'their connections are closed')
  })
})
