import { expect } from 'chai'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { captureCli } from '../support/captured-cli.js'
import { LAYOUTS } from '../support/layouts.js'

interface DemoJson {
  ok: boolean
  turns: { turn: number; user: string; pages: number; hits: number; misses: number; stored: number }[]
  totals: { promptTokens: number; reusedTokens: number; wrongBytes: number; bytesRead: number; bytesWritten: number }
  restart: { pages: number; found: number }
  corruption: { reason: string | null; healed: boolean }
  problems: string[]
}

describe('demo', () => {
  let folder: string
  beforeEach(async () => { folder = await mkdtemp(join(tmpdir(), 'demo-spec-')) })
  afterEach(async () => await rm(folder, { recursive: true, force: true }))

  for (const storageLayout of LAYOUTS) it(`shows hits that grow with the conversations, a restart and a refused page, and leaves nothing behind: ${storageLayout} layout`, async () => {
    const { code, stdout, stderr } = await captureCli(['demo', '--storage-dir', folder, '--storage-layout', storageLayout, '--json', '--quiet'])
    expect(code, stderr + stdout).to.equal(0)
    const demo = JSON.parse(stdout) as DemoJson
    expect(demo).to.deep.include({ ok: true, problems: [] })
    expect(demo.totals.wrongBytes).to.equal(0)
    expect(demo.restart.found).to.equal(demo.restart.pages)
    expect(demo.corruption).to.include({ reason: 'corrupt', healed: true })

    const [first, second] = demo.turns
    expect(first).to.include({ turn: 1, hits: 0 })
    // The second user shares the system prompt and nothing else.
    expect(second).to.include({ turn: 1, hits: 8 })
    for (const turn of demo.turns) expect(turn.hits + turn.misses).to.equal(turn.pages)
    for (const user of ['ada', 'grace', 'linus']) {
      const hits = demo.turns.filter(turn => turn.user === user).map(turn => turn.hits)
      expect(hits).to.have.length(4)
      for (let turn = 1; turn < hits.length; turn++) expect(hits[turn]).to.be.greaterThan(hits[turn - 1]!)
    }
    // Every page that is not a hit is stored once.
    expect(demo.turns.reduce((sum, turn) => sum + turn.stored, 0)).to.equal(demo.restart.pages)
    expect(await readdir(folder)).to.deep.equal([])
  })

  it('tells its story on stdout, on the defaults', async () => {
    const { code, stdout } = await captureCli(['demo', '--storage-dir', folder])
    expect(code).to.equal(0)
    expect(stdout).to.match(/plugin +posix/).and.match(/prompt tokens .* needed no prefill/).and.match(/miss \(corrupt\)/).and.match(/closed and opened again/)
  })
})
