import { constants } from 'node:os'
import { expect } from 'chai'
import { bounded, plan, until } from '../support/planned-faults.js'
import { workbench } from '../support/workbench.js'
import { PLACES, rigOn } from './places.js'
import { addon } from './rig.js'

const LENGTH = 65_536
const reads = (count: number, name = 'page') => Array.from({ length: count }, (_, i) => ({ op: 'pageRead', name, at: (i + 1) * LENGTH, length: LENGTH } as const))

for (const place of PLACES) {
  describe(`cancellation and hangs of the native agent: ${place.name}`, () => {
    const bench = workbench()

    it('answers for what the system does not let go of, and frees its memory only when it does', async function () {
      const rig = await rigOn(place, bench, this)
      rig.fill(0, LENGTH, 1)
      await rig.one({ op: 'pageWrite', name: 'page', length: LENGTH })
      const release = plan(bench, { point: place.reading, hang: true })
      const { words, answers } = rig.start(reads(8))
      await until(() => rig.agent.inFlight === 1, 'all but one are done')
      const hung = words.findIndex(word => rig.state(word) === 'started')
      expect(rig.change(words[hung]!, 'started', 'cancelling')).to.equal(true)
      addon.cancel()
      const all = await bounded(answers, 'the batch with a hung operation')
      expect(all[hung]).to.include({ status: 'error', errno: constants.errno.ECANCELED })
      expect(all.filter((_, i) => i !== hung).every(({ status }) => status === 'ok')).to.equal(true)
      expect(rig.state(words[hung]!)).to.equal('cancelling')
      expect(rig.agent.inFlight).to.equal(1)
      // Meanwhile others go on.
      expect(await bounded(rig.one(reads(1)[0]!), 'another read')).to.include({ status: 'ok' })
      release()
      await until(() => rig.state(words[hung]!) === 'done', 'the word of the hung operation')
      await until(() => rig.agent.inFlight === 0, 'the hung operation')
    })

    it('ends what waits behind a hang at once, when it is called off', async function () {
      const rig = await rigOn(place, bench, this, { threads: 1 })
      rig.fill(0, LENGTH, 1)
      await rig.run({ op: 'pageWrite', name: 'page', length: LENGTH }, { op: 'pageWrite', name: 'stuck', length: LENGTH })
      const release = plan(bench, { point: 'open', match: 'stuck', hang: true })
      const stuck = rig.start(reads(1, 'stuck'))
      await until(() => rig.state(stuck.words[0]!) === 'started', 'the hang')
      const { words, answers } = rig.start(reads(8))
      const before = rig.copy(0, LENGTH * 9)
      for (const word of words) expect(rig.change(word, 'queued', 'cancelled')).to.equal(true)
      addon.cancel()
      expect((await bounded(answers, 'the cancelled batch')).every(({ status, errno }) => status === 'cancelled' && errno === 0)).to.equal(true)
      expect(words.every(word => rig.state(word) === 'cancelled')).to.equal(true)
      expect(Buffer.compare(rig.copy(0, LENGTH * 9), before)).to.equal(0)
      release()
      expect(await stuck.answers).to.have.nested.property('[0].status', 'ok')
    })

    it('destroys itself in bounded time, and says what it leaves behind', async function () {
      const rig = await rigOn(place, bench, this, { threads: 1, drainMs: 50 })
      rig.fill(0, LENGTH, 1)
      await rig.one({ op: 'pageWrite', name: 'page', length: LENGTH })
      const release = plan(bench, { point: 'open', match: 'page', hang: true })
      const { words, answers } = rig.start(reads(4))
      const listed = rig.agent.list(0, '', { records: false })
      const refused = listed.then(() => 'listed', (error: unknown) => (error as { code: string }).code)
      await until(() => rig.state(words[0]!) === 'started', 'the hang')
      expect(await bounded(rig.agent.destroy(), 'destroy')).to.equal(1)
      const all = await bounded(answers, 'the batch')
      expect(all.map(({ status }) => status)).to.deep.equal(['error', 'cancelled', 'cancelled', 'cancelled'])
      expect(await bounded(refused, 'the listing')).to.equal('ECANCELED')
      expect(words.map(word => rig.state(word))).to.deep.equal(['started', 'done', 'done', 'done'])
      release()
      // A reaper thread sees it to its end.
      await until(() => rig.state(words[0]!) === 'done', 'the word that was left behind')
    })
  })
}
