import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'chai'
import { bounded, keys, skipLoudly } from '../support/planned-faults.js'
import { RemoteCache, ext4At, tmpfsAt, type Through } from '../support/remote-cache.js'
import { workbench, type Workbench } from '../support/workbench.js'

const PAGE = 200_001
const SUFFIX = '__0_1'

interface Disk { readonly name: string; readonly pages: number; readonly mount: (bench: Workbench) => Promise<{ directory: string; mounted: Through }> }

const below = async (bench: Workbench): Promise<string> => {
  const directory = join(await bench.directory(), 'disk')
  await mkdir(directory)
  return directory
}

const DISKS: readonly Disk[] = [
  { name: 'tmpfs of 12 MiB', pages: 100, mount: async bench => { const directory = await below(bench); return { directory, mounted: tmpfsAt(directory, 'size=12m') } } },
  { name: 'tmpfs of 40 inodes', pages: 60, mount: async bench => { const directory = await below(bench); return { directory, mounted: tmpfsAt(directory, 'size=64m,nr_inodes=40') } } },
  {
    name: 'ext4 of 24 MiB, with O_DIRECT', pages: 200,
    mount: async bench => { const directory = await below(bench); return { directory, mounted: ext4At(directory, `${directory}.image`, '24M') } }
  }
]

for (const { name, pages, mount } of DISKS) {
  describe(`a full disk: ${name}`, () => {
    const bench = workbench('file')
    let directory: string
    let cache: RemoteCache
    beforeEach(async function () {
      const { directory: at, mounted } = await mount(bench)
      directory = at
      if ('refusal' in mounted) return skipLoudly(this, `a full disk (${name}): it cannot be mounted here: ${mounted.refusal}`)
      cache = new RemoteCache(bench, mounted.through)
    })

    it('every page that did not fit says so, none that fitted is lost, nothing else fails, and deleting makes room', async () => {
      const [report] = await cache.open({ storageDir: directory, storageLayout: 'file', directoryScheme: 'flat' })
      expect(report!.direct).to.equal(name.includes('O_DIRECT'))
      const names = keys('page', pages)
      // Half of them one after the other, half of them at once.
      const early = names.slice(0, pages / 4)
      const stored = await cache.write({ keys: early, bytes: PAGE })
      stored.push(...await cache.write({ keys: names.slice(pages / 4), bytes: PAGE }))
      expect(new Set(stored)).to.deep.equal(new Set(['stored', 'failed ENOSPC']))
      expect(stored.slice(0, 10)).to.deep.equal(Array(10).fill('stored'))
      const fitted = names.filter((_, i) => stored[i] === 'stored')
      const refused = names.filter((_, i) => stored[i] !== 'stored')

      const expectState = async (): Promise<void> => {
        expect(await cache.read({ keys: fitted, bytes: PAGE })).to.deep.equal(fitted.map(() => 'hit'))
        expect(new Set(await cache.read({ keys: refused, bytes: PAGE }))).to.deep.equal(new Set(['absent']))
        expect((await cache.files(directory)).filter(file => file.endsWith(SUFFIX)).sort()).to.deep.equal(fitted.map(key => key + SUFFIX).sort())
        expect((await cache.files(directory)).filter(file => file.includes('tmp')), 'temporaries').to.deep.equal([])
        expect((await cache.health()).status).to.equal('ok')
      }
      await expectState()
      const stats = await cache.stats()
      expect(stats).to.include({ pages_write_stored: fitted.length, pages_write_failed: refused.length, arena_used_bytes: 0, worker_restarts: 0 })

      // A page that cannot be replaced for want of room stays as it is; where a little is left, it may have been.
      const again = await cache.write({ keys: fitted, bytes: PAGE, version: 1 })
      expect([...new Set(again)].filter(status => status !== 'stored' && status !== 'failed ENOSPC')).to.deep.equal([])
      expect(again).to.include('failed ENOSPC')
      for (const [version, status] of [[1, 'stored'], [0, 'failed ENOSPC']] as const) {
        const of = fitted.filter((_, i) => again[i] === status)
        expect(await cache.read({ keys: of, bytes: PAGE, version }), `replaced: ${status}`).to.deep.equal(of.map(() => 'hit'))
      }

      const gone = fitted.splice(0, 12)
      expect(await cache.delete(gone)).to.deep.equal(gone.map(() => true))
      const late = refused.splice(0, 8)
      expect(await cache.write({ keys: late, bytes: PAGE })).to.deep.equal(late.map(() => 'stored'))
      expect(await cache.read({ keys: late, bytes: PAGE })).to.deep.equal(late.map(() => 'hit'))
      await bounded(cache.close(1000), 'close()')
      cache.exit(0)
      expect(await bounded(cache.ended, 'the end of the process')).to.deep.equal({ code: 0, signal: null })
    })
  })
}
