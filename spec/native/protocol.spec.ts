import { expect } from 'chai'
import * as protocol from '../../lib/transfer/protocol.js'
import { addon } from './rig.js'

describe('the protocol between TypeScript and C++', () => {
  it('has the same names and numbers on both sides', () => {
    expect(addon.protocol).to.deep.equal({ ...protocol })
  })
})
