import { expect } from 'chai'
import { runGpu, type GpuRun } from '../support/gpu-run.js'
import { SYSTEMS } from '../support/systems.js'
import { standInLibrary } from '../support/stand-in.js'

interface Told { readonly code: string; readonly message: string }

/** Every run is a process of its own (gpu-run.ts), on stand-ins for CUDA and cuFile: what is shown here is our own logic. */
describe('memory of GPUs (stand-ins)', function () {
  this.timeout(120_000)
  before(async () => { await Promise.all([standInLibrary('cuda'), standInLibrary('cufile')]) })

  describe('pages', () => {
    for (const plugin of ['posix', 'gds', 'gds_mt']) {
      for (const storageLayout of ['file', 'segment'] as const) {
        it(`${plugin}, ${storageLayout} layout: every call, odd lengths and places, with host memory in one call`, async () => {
          const { result, counted } = await runGpu<{ others: string[] }>({ scenario: 'transfers', plugin, storageLayout })
          expect(result).to.include({ plugin, layout: storageLayout })
          expect(result.others).to.deep.equal(['miss: length', 'miss: length'])
          if (plugin === 'posix') return expect(counted('cufile.count.open')).to.equal(0)
          // Read directly, and never host memory; at the address itself.
          expect(counted('cufile.count.requests')).to.be.above(30)
          expect(counted('cufile.count.host_requests') + counted('cufile.count.buffer_offsets')).to.equal(0)
        })
      }
      if (plugin !== 'posix') {
        it(`${plugin} with verifyVram: checked by way of host memory`, async () => {
          const { counted } = await runGpu({ scenario: 'transfers', plugin, verifyVram: true })
          expect(counted('cufile.count.requests')).to.equal(0)
        })
      }
    }
    for (const system of SYSTEMS.filter(({ title, layouts }) => title !== '3FS (dram)' && layouts === undefined)) {
      it(system.title, async () => {
        const env: Record<string, string> = {}
        for (const { variable, library } of system.libraries) env[variable] = await standInLibrary(library)
        const { result } = await runGpu({ scenario: 'transfersOn', plugin: system.plugin, env, parameters: { system: system.title } })
        expect(result).to.include({ plugin: system.plugin, agent: system.agent })
      })
    }
    for (const plugin of ['posix', 'gds_mt']) {
      it(`${plugin}: more than the arena holds goes in steps, and a page above half of it is refused with the remedy`, async () => {
        const { result } = await runGpu<Record<string, string>>({ scenario: 'arena', plugin, storageLayout: 'segment', parameters: { small: plugin === 'posix' ? 4200 : 1500 } })
        expect(result['write']).to.match(/^rejected: .*at most half of the arena's 16777216 bytes: raise arenaBytes/)
        expect(result['beside']).to.equal('stored')
        // A direct read takes no staging memory.
        if (plugin === 'posix') expect(result['read']).to.match(/^rejected: .*raise arenaBytes/)
        else expect(result['read']).to.equal('hit')
        expect(result['late']).to.match(/^timeout: The arena had no room/)
        expect(result['aborted']).to.match(/^cancelled/)
      })
    }
    it('an arena that cannot be pinned is copied from all the same', async () => {
      expect((await runGpu({ scenario: 'unpinned' })).result).to.equal(0)
    })
  })

  it('what is no live device memory of the cache is ERR_ARGUMENT; what the driver refuses is ERR_IO, with its words and a remedy', async () => {
    const { result } = await runGpu<{
      codes: Record<string, string[]>; parts: string[]; uncovered: Told; released: Told[]; ordinal: Told; lengths: string[]; devices: string[]; tooMuch: Told; garbage: Told; handles: string[]; host: Told
      addresses: string[]; closed: string
    }>({ scenario: 'refusals', plugin: 'gds_mt' })
    const argument = (codes: readonly string[]) => { for (const code of codes) expect(code).to.equal('ERR_ARGUMENT') }
    for (const codes of Object.values(result.codes)) argument(codes)
    for (const codes of [result.parts, result.lengths, result.devices, result.handles, result.addresses]) argument(codes)
    argument([result.uncovered, ...result.released].map(({ code }) => code))
    expect(result.uncovered.message).to.include('at 0x1000 of GPU 0').and.include('registerDeviceBuffer()')
    expect(result.ordinal.code).to.equal('ERR_IO')
    expect(result.ordinal.message).to.include('there is no device 97: this process sees 1').and.include('name a device from 0')
    expect(result.tooMuch.code).to.equal('ERR_IO')
    expect(result.tooMuch.message).to.include('CUDA_ERROR_OUT_OF_MEMORY').and.include('nvidia-smi')
    expect(result.garbage.code).to.equal('ERR_IO')
    expect(result.garbage.message).to.include('CUDA_ERROR_INVALID_VALUE').and.include('must be alive')
    expect(result.host.code).to.equal('ERR_IO')
    expect(result.host.message).to.include('0x1000 is no address that the CUDA driver of this process knows')
    expect(result.closed).to.equal('ERR_CLOSED')
  })
  it('memory that somebody else has allocated is checked against the driver, and stays theirs', async () => {
    const { result } = await runGpu<{ beyond: Told; device: Told; released: string }>({ scenario: 'registered', plugin: 'gds_mt' })
    expect(result.beyond).to.deep.include({ code: 'ERR_IO' })
    expect(result.beyond.message).to.include('go beyond the end of their allocation: it has 1048576 bytes from there')
    expect(result.device.message).to.include('memory of device 0, and not of device 3')
    expect(result.released).to.equal('ERR_ARGUMENT')
  })

  describe('ends', () => {
    for (const plugin of ['posix', 'gds', 'gds_mt']) {
      for (const storageLayout of ['file', 'segment'] as const) {
        it(`release() during a transfer is deferred (${plugin}, ${storageLayout} layout)`, async () => { await runGpu({ scenario: 'release', plugin, storageLayout }) })
      }
    }
    for (const plugin of ['gds', 'gds_mt']) {
      it(`${plugin}: the deadline settles a read whose call of cuFile hangs, and its memory stays until that ends`, async () => {
        const { result } = await runGpu<{ outcome: string; cancelled: string; alive: number }>({ scenario: 'deadline', plugin })
        expect(result.outcome).to.match(/^timeout: .*deadline of 500 ms/)
        expect(result.cancelled).to.match(/^(cancelled: |miss: unavailable)/)
        expect(result.alive).to.equal(1)
      })
      it(`${plugin}: close() does not wait for it, and the memory goes when it ends`, async () => {
        const { result } = await runGpu<{ outcome: string; took: number; alive: number }>({ scenario: 'closing', plugin })
        expect(result.outcome).to.match(/^cancelled: The cache was closed/)
        expect(result.alive).to.equal(1)
      })
    }
    for (const [graceMs, statuses] of [[0, [['failed'], ['cancelled'], ['stored', 'failed'], ['stored', 'cancelled'], ['cancelled', 'failed'], ['stored', 'cancelled', 'failed'], ['stored']]], [20_000, [['stored']]]] as const) {
      it(`close() with ${graceMs} ms of grace while pages are staged settles every page`, async () => {
        const { result } = await runGpu<{ late: string; statuses: string[]; errors: string[] }>({ scenario: 'closingStaged', parameters: { graceMs } })
        expect(statuses.map(one => [...one].sort().join())).to.include([...result.statuses].sort().join())
        for (const code of result.errors) expect(code).to.equal('ERR_CLOSED')
        expect(result.late).to.equal('ERR_CLOSED')
      })
    }
    it('the process may end with transfers under way', async () => {
      for (const ms of [0, 5]) for (const plugin of ['gds', 'gds_mt']) await runGpu({ scenario: 'exits', plugin, parameters: { ms }, leaves: true })
    })
  })

  describe('another process (CUDA IPC)', () => {
    for (const plugin of ['posix', 'gds_mt']) {
      it(`${plugin}: pages go into its memory and come from it, by handle and offset`, async () => {
        const { result } = await runGpu<{ beyond: Told; gone: Told; exit: number }>({ scenario: 'ipc', plugin })
        expect(result.exit).to.equal(0)
        expect(result.beyond).to.deep.include({ code: 'ERR_IO' })
        expect(result.beyond.message).to.include('of an allocation of 4194304')
        expect(result.gone).to.deep.include({ code: 'ERR_IO' })
        expect(result.gone.message).to.include('CUDA_ERROR_MAP_FAILED').and.include('must be alive')
      })
    }
    it('memory of virtual mappings cannot be shared, which is said with the remedy; in this process it serves', async () => {
      const { result } = await runGpu<Told>({ scenario: 'unshared', plugin: 'gds_mt' })
      expect(result.code).to.equal('ERR_IO')
      expect(result.message).to.include('cannot be exported by CUDA IPC').and.include('expandable_segments')
    })
  })

  it('what the driver refuses on the way fails its page alone, by name', async () => {
    const { result } = await runGpu<{ write: string; read: string; alloc: Told; full: Told; ipc: Told }>({ scenario: 'driver' })
    expect(result.write).to.match(/^failed: Copying "other" from the GPU failed: .*CUDA_ERROR_UNKNOWN/)
    expect(result.read).to.match(/^failed: Copying "page" to the GPU failed: .*CUDA_ERROR_UNKNOWN/)
    expect(result.full.message).to.include('CUDA_ERROR_OUT_OF_MEMORY')
    for (const { code } of [result.alloc, result.full, result.ipc]) expect(code).to.equal('ERR_IO')
  })
  it('several devices: each by its number, and no page goes to another', async () => {
    await runGpu({ scenario: 'devices', plugin: 'gds_mt', set: { 'cuda.param.devices': 2 } })
  })

  describe('without CUDA', () => {
    const none: readonly (readonly [string, Partial<GpuRun>, RegExp])[] = [
      ['no library', { env: { HICACHE_NIXL_CUDA_PATH: '/nowhere/libcuda.so.1' } }, /\/nowhere\/libcuda\.so\.1.*HICACHE_NIXL_CUDA_PATH/],
      ['no device', { set: { 'cuda.fault.no_device': -1 } }, /CUDA_ERROR_NO_DEVICE.*CUDA_VISIBLE_DEVICES/]
    ]
    for (const [name, how, text] of none) {
      it(`${name}: device memory is ERR_IO with the remedy, the plugins of cuFile are unavailable, and everything else works`, async () => {
        const { result } = await runGpu<{ alloc: Told; opened: Told; registered: Told; address: string; plugins: Told[] }>({ scenario: 'without', ...how })
        for (const { code, message } of [result.alloc, result.opened, result.registered]) {
          expect(code).to.equal('ERR_IO')
          expect(message).to.match(text)
        }
        expect(result.address).to.equal('ERR_ARGUMENT')
        for (const { code, message } of result.plugins) {
          expect(code).to.equal('ERR_PLUGIN_UNAVAILABLE')
          expect(message).to.match(text)
        }
      })
    }
  })
})
