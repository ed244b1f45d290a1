import { expect } from 'chai'
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { StandInControl, standInLibrary } from '../support/stand-in.js'

describe('device memory of a cache (stand-in)', () => {
  let library: string
  let folder: string
  before(async function () {
    // The stand-in is compiled.
    this.timeout(120_000)
    library = await standInLibrary('cuda')
  })
  beforeEach(() => { folder = mkdtempSync(join(tmpdir(), 'hicache-device-')) })
  afterEach(() => { rmSync(folder, { recursive: true, force: true }) })

  const run = async (scenario: string): Promise<unknown> => {
    const { path } = new StandInControl(join(folder, 'control'))
    const { stdout } = await promisify(execFile)(process.execPath, [fileURLToPath(new URL('./device-memory-child.js', import.meta.url)), scenario], {
      env: { ...process.env, HICACHE_NIXL_CUDA_PATH: library, HICACHE_STAND_IN_CONTROL: path }
    })
    return JSON.parse(stdout)
  }

  it('a source that is refused for its shape is not held for ever', async () => { expect(await run('refusedSource')).to.equal(0) })
  it('of calls that are not waited for, those of device memory keep their place', async () => { expect(await run('order')).to.deep.equal([[7, 1, 7], [true, false]]) })
  it('the driver lets go of the arena of a worker that ends without closing its cache', async () => { expect(await run('endedWorker')).to.deep.equal([1, 0]) })
})
