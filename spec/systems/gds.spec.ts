import { expect } from 'chai'
import { runGpu, type GpuRun } from '../support/gpu-run.js'
import { standInLibrary } from '../support/stand-in.js'

interface Selected {
  readonly error?: { readonly code: string; readonly message: string }
  readonly plugin: string; readonly engine: string; readonly agent: string; readonly source: string; readonly outcome: string
  readonly report: { readonly usable: boolean; readonly reason: string; readonly remedy: string; readonly details: Readonly<Record<string, unknown>> }
}
interface Probed { readonly report: { readonly usable: boolean; readonly reason: string; readonly remedy: string }; readonly took: number; readonly turns: number; readonly open: number }

/** Every run is a process of its own (gpu-run.ts), on stand-ins for CUDA and cuFile: what is shown here is our own logic. */
describe('GDS and GDS_MT (stand-ins)', function () {
  this.timeout(120_000)
  before(async () => { await Promise.all([standInLibrary('cuda'), standInLibrary('cufile')]) })

  describe('selection', () => {
    for (const plugin of ['gds', 'gds_mt']) {
      it(`${plugin} is selected where it is asked for; host memory goes by an engine of plugin posix; the mode is told`, async () => {
        const { result } = await runGpu<Selected>({ scenario: 'selection', plugin })
        expect(result).to.deep.include({ plugin, agent: 'embedded', source: 'configuration', outcome: 'hit' })
        expect(result.engine).to.be.oneOf(['aio', 'io_uring', 'posix_aio'])
        expect(result.report.usable).to.equal(true)
        expect(result.report.reason).to.include('cuFile 1.15 in mode compat').and.include('/dev/nvidia-fs0 is not there')
        expect(result.report.details).to.include({ mode: 'compat', version: '1.15', devices: 1, cuda: '12.4' })
      })
    }
    it('without the symbols that older libraries lack', async () => {
      const { result } = await runGpu<Selected>({ scenario: 'selection', plugin: 'gds', defines: ['NO_OPTIONAL'] })
      expect(result).to.include({ plugin: 'gds', outcome: 'hit' })
      expect(result.report.details).to.include({ version: '' })
    })

    const refused: readonly (readonly [string, Partial<GpuRun>, readonly string[]])[] = [
      ['a mandatory symbol is missing', { defines: ['NO_BATCH'] }, ['cuFileBatchIODestroy', 'HICACHE_NIXL_CUFILE_PATH']],
      ['no library', { env: { HICACHE_NIXL_CUFILE_PATH: '/nowhere/libcufile.so.0' } }, ['/nowhere/libcufile.so.0', 'install libcufile']],
      ['no /proc/modules', { env: { HICACHE_NIXL_PROC_MODULES: '/nowhere/modules' } }, ['/nowhere/modules is not there', 'would wait for it without end']],
      ['5001', { set: { 'cufile.fault.open': -1, 'cufile.param.code': 5001 } }, ['CU_FILE_DRIVER_NOT_INITIALIZED (5001', 'modprobe nvidia-fs', 'allow_compat_mode']],
      ['5007', { set: { 'cufile.fault.open': -1, 'cufile.param.code': 5007 } }, ['5007', 'use the plugin POSIX']],
      ['5011', { set: { 'cufile.fault.open': -1, 'cufile.param.code': 5011 } }, ['5011', 'see what the CUDA error says']],
      ['5027', { set: { 'cufile.fault.open': -1, 'cufile.param.code': 5027 } }, ['CU_FILE_HANDLE_NOT_REGISTERED (5027', '/run/udev/data/b', 'ID_FS_TYPE']],
      ['5033', { set: { 'cufile.fault.open': -1, 'cufile.param.code': 5033 } }, ['5033', 'libcuda.so.1']],
      ['a code that nobody knows', { set: { 'cufile.fault.open': -1, 'cufile.param.code': 5999 } }, ['5999', 'cufile.log']]
    ]
    for (const [name, how, texts] of refused) {
      it(`${name}: unusable, with the name and the remedy, and the service lives`, async () => {
        const { result } = await runGpu<Selected>({ scenario: 'selection', plugin: 'gds_mt', ...how })
        expect(result.error?.code).to.equal('ERR_PLUGIN_UNAVAILABLE')
        for (const text of texts) expect(result.error!.message).to.include(text)
      })
    }
    it('a file that cuFile does not register (5027): its page fails with the name and the remedy', async () => {
      const { result } = await runGpu<Selected>({ scenario: 'selection', plugin: 'gds_mt', set: { 'cufile.fault.handle_register': -1 } })
      expect(result.plugin).to.equal('gds_mt')
      expect(result.outcome).to.match(/^failed: .*EOPNOTSUPP/).and.include('CU_FILE_HANDLE_NOT_REGISTERED (5027').and.include('/run/udev/data/b')
    })
    it('memory that cuFile does not register (5036) is read into by way of its own', async () => {
      const { result } = await runGpu<Selected>({ scenario: 'selection', plugin: 'gds', set: { 'cufile.fault.buffer_register': -1 } })
      expect(result.outcome).to.equal('hit')
    })
    it('a driver that closes descriptor 0 leaves it open', async () => {
      const { result } = await runGpu<Selected>({ scenario: 'selection', plugin: 'gds_mt', set: { 'cufile.fault.open_closes': -1 } })
      expect(result.outcome).to.equal('hit')
    })
    it('a driver that hangs when it is opened: the child process that tries it is ended in time, and the service lives', async () => {
      for (const plugin of ['gds', 'gds_mt']) {
        const { result, counted } = await runGpu<Probed>({ scenario: 'probe', plugin, set: { 'cufile.fault.open_hang': -1 }, parameters: { limitMs: 2000 } })
        expect(counted('cufile.count.hanging')).to.equal(1)
        expect(result.report.usable).to.equal(false)
        expect(result.report.reason).to.include('did not open within 2 s')
        expect(result.report.remedy).to.include('/proc/modules')
        // It went on meanwhile.
        expect(result.turns).to.be.above(20)
      }
    })
    it('a child process that dies is a reason, too', async () => {
      const { result } = await runGpu<Probed>({ scenario: 'probe', set: { 'cufile.nothing_is_called_so': 1 }, parameters: { limitMs: 20_000 } })
      expect(result.report.usable).to.equal(false)
      expect(result.report.reason).to.include('the child process that tried cuFile ended with SIGABRT')
    })
  })

  describe('what is under way', () => {
    for (const threads of [1, 6, 24]) {
      it(`gds_mt keeps exactly ${threads} requests in flight (thread_count)`, async () => {
        const { result } = await runGpu({ scenario: 'inFlight', plugin: 'gds_mt', config: { plugin: { gds_mt: { active: true, thread_count: threads } } }, parameters: { wanted: threads } })
        expect(result).to.include({ held: threads, max: threads })
      })
    }
    it('gds has at most batch_pool_size batches under way, none above batch_limit, and the rest waits', async () => {
      const { result, counted } = await runGpu<{ held: number; entries: number; inUse: number }>({
        scenario: 'inFlight', plugin: 'gds', config: { plugin: { gds: { active: true, batch_pool_size: 2, batch_limit: 3 } } }, set: { 'cufile.param.batch_max': 3 }, parameters: { wanted: 2, atLeast: true }
      })
      expect(result.inUse).to.equal(2)
      expect(result.entries).to.be.within(2, 6)
      expect(counted('cufile.count.batches_in_use_max')).to.equal(2)
      expect(counted('cufile.count.batch_entries')).to.equal(40)
      expect(counted('cufile.count.batches_made')).to.equal(2)
    })
    it('gds: a library that takes fewer than batch_limit', async () => {
      const { result } = await runGpu<Selected>({ scenario: 'selection', plugin: 'gds', config: { plugin: { gds: { active: true, batch_limit: 4096 } } } })
      expect(result.outcome).to.equal('hit')
    })
    it('gds: pages above max_request_size go in pieces', async () => {
      const { counted } = await runGpu({ scenario: 'transfers', plugin: 'gds', config: { plugin: { gds: { active: true, max_request_size: 65536 } } } })
      expect(counted('cufile.count.requests')).to.be.above(100)
    })
  })

  describe('faults: never wrong bytes', () => {
    const always = -1
    type Faults = Readonly<Record<string, Readonly<Record<string, number>>>>
    /** What all of the five pages end as. */
    const check = (answers: Readonly<Record<string, readonly string[]>>, name: string, texts: readonly RegExp[]): void => {
      const outcomes = answers[name]!
      expect(outcomes, name).to.have.length(5)
      for (const outcome of outcomes) expect(texts.some(text => text.test(outcome)), `${name}: ${outcome}`).to.equal(true)
      // All the ways are there.
      for (const text of texts) expect(outcomes.some(outcome => text.test(outcome)), `${name}: ${String(text)} in ${outcomes.join('; ')}`).to.equal(true)
    }
    it('gds_mt', async () => {
      const faults: Faults = {
        'an errno': { 'cufile.param.errno': 5, 'cufile.fault.read_errno': 2 },
        'another errno': { 'cufile.param.errno': 12, 'cufile.fault.read_errno': 2 },
        'EINTR': { 'cufile.param.errno': 4, 'cufile.fault.read_errno': 3 },
        'a code': { 'cufile.param.code': 5030, 'cufile.fault.read_code': 2 },
        'a CUDA error': { 'cufile.param.code': 5011, 'cufile.fault.read_code': always },
        'not registered': { 'cufile.fault.handle_register': 3 },
        'already registered': { 'cufile.param.code': 5023, 'cufile.fault.handle_register': 3 },
        'short counts': { 'cufile.param.short': 1000, 'cufile.fault.short': 12 },
        'counts of a byte': { 'cufile.param.short': 1, 'cufile.fault.short': 6 },
        'more than was asked for': { 'cufile.fault.too_many': 2 },
        'nothing': { 'cufile.fault.nothing': 1 }
      }
      const { result } = await runGpu<Record<string, string[]>>({ scenario: 'faults', plugin: 'gds_mt', parameters: { faults } })
      check(result, 'an errno', [/^hit$/, /^failed: .*EIO.*cuFileRead of \d+ bytes at \d+/])
      check(result, 'another errno', [/^hit$/, /^failed: .*ENOMEM/])
      check(result, 'EINTR', [/^hit$/])
      check(result, 'a code', [/^hit$/, /^failed: .*CU_FILE_INTERNAL_ERROR \(5030/])
      check(result, 'a CUDA error', [/^failed: .*5011/])
      check(result, 'not registered', [/^hit$/, /^failed: .*EOPNOTSUPP.*CU_FILE_HANDLE_NOT_REGISTERED \(5027.*\/run\/udev/])
      check(result, 'already registered', [/^hit$/, /^failed: .*CU_FILE_ALREADY_REGISTERED \(5023/])
      check(result, 'short counts', [/^hit$/])
      check(result, 'counts of a byte', [/^hit$/])
      check(result, 'more than was asked for', [/^hit$/, /^failed: .*more bytes moved than asked for/])
      check(result, 'nothing', [/^hit$/, /^miss: corrupt$/])
    })
    it('gds: what fails in a batch is tried once more by the plain call', async () => {
      const failing = { 'cufile.fault.event_failed': always }
      const faults: Faults = {
        'FAILED events': { 'cufile.fault.event_failed': 2 }, 'all events FAILED': failing,
        'INVALID events': { 'cufile.param.status': 4, 'cufile.fault.event_failed': 2 }, 'TIMEOUT events': { 'cufile.param.status': 0x20, 'cufile.fault.event_failed': 2 },
        'CANCELED events': { 'cufile.param.status': 8, 'cufile.fault.event_failed': 2 },
        'COMPLETE, and negative': { 'cufile.fault.event_negative': 3 }, 'short counts': { 'cufile.param.short': 1000, 'cufile.fault.short': 4 }, 'more than was asked for': { 'cufile.fault.too_many': 1 },
        'an event at a time': { 'cufile.fault.partial_status': always }, 'PENDING first': { 'cufile.fault.event_waiting': always }, 'events twice': { 'cufile.fault.event_twice': 3 },
        'events that nobody asked for': { 'cufile.fault.event_unknown': 2 }, 'no status': { 'cufile.fault.batch_status': always },
        'a batch that is full': { 'cufile.param.code': 5037, 'cufile.fault.batch_submit': 2 }, 'a handle that is none': { 'cufile.param.code': 5027, 'cufile.fault.batch_submit': always },
        'no batch': { 'cufile.fault.batch_setup': always },
        'the plain call fails, too': { ...failing, 'cufile.param.code': 5030, 'cufile.fault.read_code': always },
        'not registered': { 'cufile.fault.handle_register': always }
      }
      const { result } = await runGpu<Record<string, string[]>>({ scenario: 'faults', plugin: 'gds', parameters: { faults } })
      for (const name of Object.keys(faults)) {
        if (name === 'the plain call fails, too') check(result, name, [/^failed: .*EIO.*CU_FILE_INTERNAL_ERROR \(5030/])
        else if (name === 'not registered') check(result, name, [/^failed: .*EOPNOTSUPP.*CU_FILE_HANDLE_NOT_REGISTERED \(5027/])
        else check(result, name, [/^hit$/])
      }
    })
    it('gds: a read that moves nothing is a miss', async () => {
      const { result } = await runGpu<Record<string, string[]>>({ scenario: 'faults', plugin: 'gds', parameters: { faults: { nothing: { 'cufile.fault.nothing': 1 } } } })
      check(result, 'nothing', [/^hit$/, /^miss: corrupt$/])
    })
  })
})
