import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { expect } from 'chai'
import { bounded, plan, until } from '../support/planned-faults.js'
import { workbench } from '../support/workbench.js'
import { PLACES, rigOn } from './places.js'
import { addon } from './rig.js'

const CHILD = fileURLToPath(new URL('./child.js', import.meta.url))

for (const place of PLACES) {
  describe(`the end of processes and workers with native work in flight: ${place.name}`, () => {
    const bench = workbench()

    async function child(context: Mocha.Context, scenario: string, point = ''): Promise<{ code: number | null; signal: string | null; said: string }> {
      const rig = await rigOn(place, bench, context)
      const { directory, engine } = rig.shared
      const process_ = spawn(process.execPath, [CHILD, scenario, directory, engine, place.direct ? 'yes' : 'no', point], { stdio: ['ignore', 'pipe', 'inherit'] })
      bench.atEnd(() => { process_.kill('SIGKILL') })
      let said = ''
      process_.stdout.on('data', (text: Buffer) => { said += text.toString() })
      const [code, signal] = await bounded(once(process_, 'close'), scenario) as [number | null, string | null]
      return { code, signal, said: said.trim() }
    }

    it('keeps no process alive without work', async function () {
      expect(await child(this, 'idle')).to.deep.equal({ code: 0, signal: null, said: '' })
    })

    it('keeps the process alive until a batch is answered', async function () {
      expect(await child(this, 'unawaited')).to.deep.equal({ code: 0, signal: null, said: '32' })
    })

    for (const point of ['', place.reading, 'open', 'pwritev']) {
      const how = point ? `hanging at ${point}` : 'under way'
      it(`process.exit() on the main thread, its work ${how}`, async function () {
        expect(await child(this, 'exit-main', point)).to.deep.equal({ code: 7, signal: null, said: '' })
      })

      it(`process.exit() with workers, their work ${how}`, async function () {
        expect(await child(this, 'exit-workers', point)).to.deep.equal({ code: 7, signal: null, said: '' })
      })
    }

    it('an error thrown in workers with work in flight', async function () {
      const { code, signal, said } = await child(this, 'throw-in-worker')
      expect({ code, signal }).to.deep.equal({ code: 8, signal: null })
      expect(said.split('\n')).to.deep.equal(['thrown with work in flight', 'thrown with work in flight'])
    })

    it('a terminated worker gives back every word, what hangs when it lets go', async function () {
      const rig = await rigOn(place, bench, this)
      // Whatever has begun hangs there, so something does.
      const release = plan(bench, { point: 'open', hang: true, times: 0 })
      const { directory, engine, words } = rig.shared
      const worker = new Worker(CHILD, { workerData: { directory, engine, direct: place.direct ? 'yes' : 'no', shared: rig.shared } })
      await bounded(once(worker, 'message'), 'the start')
      await bounded(worker.terminate(), 'termination')
      expect([...words.keys()].some(word => rig.state(word) === 'queued'), 'words that nobody will ever start').to.equal(false)
      expect([...words.keys()].some(word => rig.state(word) === 'started'), 'words of what hangs').to.equal(true)
      release()
      await until(() => ![...words.keys()].some(word => rig.state(word) === 'started'), 'the reaper')
    })

    it('workers that are terminated at any moment', async function () {
      this.timeout(120_000)
      const rig = await rigOn(place, bench, this)
      const { directory, engine } = rig.shared
      const descriptors = readdirSync('/proc/self/fd').length
      for (let round = 0; round < 12; round++) {
        const worker = new Worker(CHILD, { workerData: { directory, engine, direct: place.direct ? 'yes' : 'no', forever: true } })
        await once(worker, 'message')
        // As many turns of this loop as it happens to be: another moment every time.
        for (let turn = 0; turn < round * 40; turn++) await new Promise(resolve => { setImmediate(resolve) })
        await bounded(worker.terminate(), 'termination')
      }
      await until(() => readdirSync('/proc/self/fd').length <= descriptors, 'as many descriptors as before')
      rig.fill(0, 100, 1)
      expect(await rig.one({ op: 'pageWrite', name: 'after', length: 100 })).to.include({ status: 'ok' })
      expect(addon.clearFaults()).to.deep.equal([])
    })
  })
}
