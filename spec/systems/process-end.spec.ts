import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { BusyChild, inTurns } from '../support/busy-children.js'
import { LAYOUTS, placeOptions } from '../support/layouts.js'
import { bounded, keys } from '../support/planned-faults.js'
import { describeOn, systemsInUse } from '../support/systems.js'
import type { HostReport, HostTask } from '../support/thread-host.js'
import { isWhole } from '../support/versioned-pages.js'
import { workbench } from '../support/workbench.js'

const THREAD_HOST = fileURLToPath(new URL('../support/thread-host.js', import.meta.url))
const PAGE = 100_000
const names = keys('page', 40)

// Which of a system's modes is used makes no difference to its end.
for (const system of systemsInUse().filter(({ suites }) => suites === 'all')) {
  for (const storageLayout of LAYOUTS) {
    describeOn(`an end with transfers in flight, ${storageLayout} layout`, system, () => {
      const bench = workbench(storageLayout)

      it('of the process, by SIGKILL and by itself: it does not crash, and what it leaves is whole pages', async function () {
        this.timeout(60_000)
        const storageDir = await bench.directory()
        await inTurns(4, 2, async i => {
          const child = new BusyChild(bench, {
            options: placeOptions(storageLayout, storageDir), keys: names, pageBytes: PAGE, end: i === 0 ? 'exit' : i === 1 ? 'throw' : 'never', batches: i + 2, turns: i, seed: i + 1
          })
          await child.says('busy', i + 2)
          if (i >= 2) child.process.kill('SIGKILL')
          const { code, signal, said, stderr } = await bounded(child.ended, 'the end of the process', 30_000)
          expect({ code, signal }, stderr).to.deep.equal(i === 0 ? { code: 7, signal: null } : i === 1 ? { code: 1, signal: null } : { code: null, signal: 'SIGKILL' })
          expect(said.filter(line => line.startsWith('WRONG'))).to.deep.equal([])
        })
        // By the kernel, which asks nobody.
        const cache = await bench.open({ storageDir, directoryScheme: 'flat', config: {} })
        await cache.gc()
        let hits = 0
        for (const outcome of await cache.read(names)) {
          if (outcome.ok) expect(isWhole(outcome.key, outcome.value, PAGE), outcome.key).to.equal(true)
          else expect(outcome, outcome.key).to.include({ status: 'miss', reason: 'absent' })
          hits += Number(outcome.ok)
        }
        expect(hits).to.be.greaterThan(0)
        expect(await cache.verify()).to.include({ corrupt: 0, unverified: 0, missing: 0 })
      })
      // What ends a thread knows nothing of layouts.
      if (storageLayout === 'file') it('of the thread that opened the cache, again and again: nothing is left of it, also of what is withheld', async function () {
        this.timeout(60_000)
        const storageDir = await bench.directory()
        const task: HostTask = {
          options: placeOptions(storageLayout, storageDir), rounds: 6, keys: names.slice(0, 12), pageBytes: PAGE,
          hang: ['usrbio.complete', 'nixl.complete'].map(point => ({ point, hang: true, times: 0 }))
        }
        const child = spawn(process.execPath, [THREAD_HOST, JSON.stringify(task)], { stdio: ['ignore', 'pipe', 'pipe'] })
        bench.atEnd(() => { child.kill('SIGKILL') })
        const [stdout, stderr, ended] = await bounded(Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]), 'the process of the threads', 50_000)
        expect(ended, stderr).to.deep.equal([0, null])
        const report = JSON.parse(stdout) as HostReport
        expect(report.other, 'pages that are neither whole nor absent').to.equal(0)
        expect(report.whole).to.be.greaterThan(0)
        expect(report.descriptors, 'open descriptors').to.be.at.most(report.descriptorsBefore)
      })
    })
  }
}
