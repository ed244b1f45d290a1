import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { describeLayouts, placeOptions } from '../support/layouts.js'
import { objectPlace } from '../support/object-place.js'
import { filesBelow } from '../support/page-files.js'
import { STORAGE_PATHS, bounded, keys } from '../support/planned-faults.js'
import { s3Front } from '../support/s3-front.js'
import type { HostReport, HostTask } from '../support/thread-host.js'
import { workbench } from '../support/workbench.js'

const THREAD_HOST = fileURLToPath(new URL('../support/thread-host.js', import.meta.url))

describeLayouts('the thread that opened a cache is ended with transfers in flight', storageLayout => {
  const bench = workbench(storageLayout)

  // What ends a thread does not depend on the layout much: of the second one, the engine whose rings outlive their thread is enough.
  for (const { name, engine, parent, complete } of { file: STORAGE_PATHS, segment: STORAGE_PATHS.slice(0, 1), object: [{ ...STORAGE_PATHS[0]!, name: 'libcurl' }] }[storageLayout]) {
    it(`${name}: terminated, by process.exit() and by an exception, again and again`, async function () {
      this.timeout(60_000)
      const storageDir = await bench.directory(parent)
      const names = keys('page', 12)
      // Of objects one page's writes never get an answer, so that something is under way whenever a thread ends.
      const front = storageLayout === 'object' ? await s3Front(bench, objectPlace().gateway.endpoint) : null
      front?.hold(names.at(-1)!, 'PUT')
      const task: HostTask = {
        options: { ...placeOptions(storageLayout, storageDir, front?.endpoint), engine, ...(front ? { timeoutMs: 150 } : {}) }, rounds: 9, keys: names, pageBytes: 100_000,
        hang: front ? [] : [{ point: complete ?? 'preadv', hang: true, times: 0 }, { point: 'pwritev', hang: true, times: 0, after: 4 }]
      }
      const child = spawn(process.execPath, [THREAD_HOST, JSON.stringify(task)], { stdio: ['ignore', 'pipe', 'pipe'] })
      bench.atEnd(() => { child.kill('SIGKILL') })
      const [stdout, stderr, ended] = await bounded(Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]), 'the process of the threads', 50_000)
      expect(ended, stderr).to.deep.equal([0, null])
      const report = JSON.parse(stdout) as HostReport
      expect(report.other, 'pages that are neither whole nor absent').to.equal(0)
      expect(report.whole).to.be.greaterThan(0)
      expect(report.descriptors, 'open descriptors').to.be.at.most(report.descriptorsBefore)
      expect(new Set(report.exitCodes)).to.deep.equal(new Set([1, 3]))
      if (storageLayout === 'file') expect((await filesBelow(storageDir)).filter(file => !file.endsWith('__0_1')), 'temporaries left behind').to.deep.equal([])
    })
  }
}, { systems: false })
