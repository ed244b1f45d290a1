import { expect } from 'chai'
import { Health } from '../../lib/observe/health.js'

describe('health', () => {
  it('is ok until a cause is raised, and again when the last is cleared', () => {
    const health = new Health()
    expect(health.report()).to.deep.equal({ status: 'ok', reasons: [] })
    health.raise('directory:/a', 'The directory /a does not answer.')
    health.raise('workers', 'No worker runs.')
    expect(health.report()).to.deep.equal({ status: 'degraded', reasons: ['The directory /a does not answer.', 'No worker runs.'] })
    health.clear('directory:/a')
    expect(health.report()).to.deep.equal({ status: 'degraded', reasons: ['No worker runs.'] })
    health.clear('workers')
    health.clear('never raised')
    expect(health.report()).to.deep.equal({ status: 'ok', reasons: [] })
  })

  it('keeps one reason a cause, the last', () => {
    const health = new Health()
    health.raise('space', 'The disk is 91 % full.')
    health.raise('space', 'The disk is 99 % full.')
    expect(health.report().reasons).to.deep.equal(['The disk is 99 % full.'])
  })

  it('ends as closing and closed, whatever stands', () => {
    const health = new Health()
    health.raise('workers', 'No worker runs.')
    health.closing()
    expect(health.report()).to.deep.equal({ status: 'closing', reasons: ['No worker runs.'] })
    health.closed()
    health.closing()
    expect(health.report().status).to.equal('closed')
  })

  it('answers copies', () => {
    const health = new Health()
    const before = health.report()
    health.raise('a', 'A reason.')
    before.reasons.push('mine')
    expect(before.status).to.equal('ok')
    expect(health.report().reasons).to.deep.equal(['A reason.'])
  })
})
