import { expect } from 'chai'
import { DirectoryWatch } from '../../lib/connector/directory-watch.js'
import { HiCacheError } from '../../lib/error.js'
import { Health } from '../../lib/observe/health.js'
import { ObjectLayout } from '../../lib/storage/object/object-layout.js'
import { Op, Status } from '../../lib/transfer/protocol.js'
import { BatcherRig, settled } from '../support/batcher-rig.js'

/** A batcher whose pages are behind an endpoint, and what is known of that endpoint. */
function remote(): { rig: BatcherRig; health: Health; watch: DirectoryWatch; events: string[] } {
  const health = new Health()
  const watch = new DirectoryWatch(['s3://b/ at http://h'], health, 'endpoint')
  const events: string[] = []
  const rig = new BatcherRig({
    layout: new ObjectLayout({ suffix: '_m', fingerprint: '' }, 'dir/ü/'),
    onDirectory: (...heard) => {
      events.push(heard[1])
      watch.hear(...heard)
    }
  })
  return { rig, health, watch, events }
}

describe('pages behind an endpoint', () => {
  it('are named with the prefix, and say how long native code may try', async () => {
    const { rig } = remote()
    const scope = rig.scope({ timeoutMs: 5000 })
    rig.submit(Op.pageCheck, 'key_m', { scope })
    scope.watch(rig.batcher.cancel)
    await settled()
    const batch = rig.batches[0]!
    const at = batch.field(0, 'nameOffset')
    expect(Buffer.from(batch.blob.subarray(at, at + batch.field(0, 'nameLength'))).toString()).to.equal('dir/ü/key_m')
    expect(Buffer.from(batch.blob.subarray(batch.field(0, 'recordOffset') + 16, batch.field(0, 'recordOffset') + batch.field(0, 'identityLength'))).toString()).to.equal('key_m')
    expect(batch.field(0, 'fileOffset')).to.be.within(1, 4950).and.satisfy(Number.isInteger)
    await batch.end()
  })
  it('go in small batches, so that one which is tried again keeps few others waiting', async () => {
    const { rig } = remote()
    for (let i = 0; i < 100; i++) rig.submit(Op.pageCheck, `key${i}`)
    await settled()
    expect(rig.batches.map(({ count }) => count)).to.deep.equal([32, 32, 32, 4])
    for (const batch of rig.batches) await batch.end()
  })
  it('that are unavailable all together mean that the endpoint is down, and why; one answer means that it is back', async () => {
    const { rig, health, watch, events } = remote()
    const ask = async (end: (i: number) => readonly [number, { errno?: number; text?: string }?]): Promise<void> => {
      rig.submit(Op.pageCheck, 'a')
      rig.submit(Op.pageCheck, 'b')
      await settled()
      const batch = rig.batches.at(-1)!
      for (let i = 0; i < batch.count; i++) batch.done(i, ...end(i))
      await batch.answer()
    }
    await ask(i => i === 0 ? [Status.unavailable] : [Status.absent])
    expect(events).to.deep.equal(['answered'])
    expect(health.report().status).to.equal('ok')
    await ask(() => [Status.unavailable, { errno: 503, text: 'SlowDown: Reduce your request rate.' }])
    expect(health.report().reasons).to.deep.equal(['The endpoint s3://b/ at http://h does not answer: it says 503 SlowDown: Reduce your request rate. Its pages are unavailable until it does.'])
    expect(watch.unavailable(0)).to.equal(true)
    expect(watch.reason(0)).to.equal('The endpoint s3://b/ at http://h does not answer: it says 503 SlowDown: Reduce your request rate.')
    await ask(() => [Status.unavailable, { text: 'Couldn\'t connect to server' }])
    expect(health.report().reasons.join()).to.include('does not answer: Couldn\'t connect to server. Its pages')
    // A refusal is an answer too.
    await ask(() => [Status.refused, { errno: 403 }])
    expect(events).to.deep.equal(['answered', 'unavailable', 'unavailable', 'answered'])
    expect(health.report().reasons).to.deep.equal([])
    expect(watch.unavailable(0)).to.equal(false)
  })
  it('that native code lets go of because their time is up have not been answered', async () => {
    const { rig, events } = remote()
    const { request } = rig.submit(Op.pageCheck, 'a')
    await settled()
    const batch = rig.batches[0]!
    batch.start()
    rig.batcher.cancel([request], new HiCacheError('ERR_TIMEOUT', 'late'))
    expect(events).to.deep.equal(['deadline'])
    await batch.end(Status.cancelled)
    expect(events).to.deep.equal(['deadline'])
  })
})
