import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { expect } from 'chai'
import type { Finding } from '../../lib/cli/doctor/finding.js'
import { systemFindings, type SystemNeeds } from '../../lib/cli/doctor/system-findings.js'
import type { EngineReport } from '../../lib/transfer/native-binding.js'
import { inDirectory } from './cli-process.js'

const GIB = 2 ** 30
const ring = (usable: boolean): EngineReport => ({ name: 'io_uring', usable, reason: usable ? '' : 'io_uring_setup: EPERM', remedy: '' })
const LIMITS = 'Limit                     Soft Limit           Hard Limit           Units     \n' +
  'Max open files            20000                20000                files     \nMax locked memory         8388608              8388608              bytes     \n'

/** A machine as its /proc and /sys show it; what differs from a healthy one is given. */
async function machine(files: Record<string, string | null>, needs: Partial<SystemNeeds> = {}): Promise<Record<string, Finding>> {
  const healthy: Record<string, string | null> = {
    'proc/sys/kernel/io_uring_disabled': '0\n', 'proc/self/status': 'Name:\tnode\nSeccomp:\t0\n', 'proc/sys/fs/aio-max-nr': '65536\n', 'proc/sys/fs/aio-nr': '0\n',
    'sys/kernel/mm/transparent_hugepage/enabled': 'always [madvise] never\n', 'proc/self/limits': LIMITS, 'proc/meminfo': `MemTotal:       ${16 * GIB / 1024} kB\n`,
    'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/memory.max': 'max\n',
  }
  return await inDirectory(root => {
    for (const [path, text] of Object.entries({ ...healthy, ...files })) {
      if (text === null) continue
      mkdirSync(dirname(join(root, path)), { recursive: true })
      writeFileSync(join(root, path), text)
    }
    const findings = systemFindings({ engines: [ring(true)], aioEvents: 128, arenaBytes: GIB / 2, kernelRelease: '6.1.0-18-amd64', root, ...needs })
    return Promise.resolve(Object.fromEntries(findings.map(finding => [finding.name, finding])))
  })
}

describe('doctor: the system', () => {
  it('finds nothing wrong with a healthy machine', async () => {
    const findings = await machine({})
    expect(Object.keys(findings)).to.deep.equal(['kernel', 'io_uring', 'Linux AIO', 'huge pages', 'memlock', 'open files', 'memory'])
    for (const finding of Object.values(findings)) expect(finding).to.include({ state: 'ok', remedy: '' })
  })

  it('tells io_uring forbidden by sysctl from forbidden by a seccomp filter', async () => {
    const bySysctl = await machine({ 'proc/sys/kernel/io_uring_disabled': '2\n' }, { engines: [ring(false)] })
    expect(bySysctl.io_uring).to.include({ state: 'warn', value: 'forbidden by kernel.io_uring_disabled = 2' })
    expect(bySysctl.io_uring!.remedy).to.include('sysctl kernel.io_uring_disabled=0')
    const byFilter = await machine({ 'proc/self/status': 'Seccomp:\t2\n' }, { engines: [ring(false)] })
    expect(byFilter.io_uring!.value).to.include('seccomp')
    expect(byFilter.io_uring!.remedy).to.include('seccomp profile')
    const neither = await machine({ 'proc/sys/kernel/io_uring_disabled': null }, { engines: [ring(false)] })
    expect(neither.io_uring!.value).to.equal('io_uring_setup: EPERM')
  })

  it('warns when the system\'s AIO events are about used up', async () => {
    const findings = await machine({ 'proc/sys/fs/aio-nr': '65500\n' })
    expect(findings['Linux AIO']).to.include({ state: 'warn', remedy: 'sysctl fs.aio-max-nr=1048576' })
  })

  it('warns without huge pages', async () => {
    expect((await machine({ 'sys/kernel/mm/transparent_hugepage/enabled': 'always madvise [never]\n' }))['huge pages'])
      .to.include({ state: 'warn', remedy: 'echo madvise > /sys/kernel/mm/transparent_hugepage/enabled' })
    expect((await machine({ 'sys/kernel/mm/transparent_hugepage/enabled': null }))['huge pages']).to.include({ state: 'warn' })
  })

  it('minds RLIMIT_MEMLOCK only where the kernel charges rings to it', async () => {
    const small = { 'proc/self/limits': LIMITS.replace('8388608 ', '65536   ') }
    expect((await machine(small)).memlock).to.include({ state: 'ok' })
    expect((await machine(small, { kernelRelease: '5.10.0-28-amd64' })).memlock).to.include({ state: 'warn' })
    expect((await machine({}, { kernelRelease: '5.10.0-28-amd64' })).memlock).to.include({ state: 'ok' })
  })

  it('warns about few open files', async () => {
    expect((await machine({ 'proc/self/limits': LIMITS.replace('20000 ', '256   ') }))['open files']).to.include({ state: 'warn' })
  })

  it('finds the lowest memory limit on the way to the root, of both versions of cgroups', async () => {
    const v2 = await machine({ 'proc/self/cgroup': '0::/a/b\n', 'sys/fs/cgroup/a/memory.max': `${GIB}\n`, 'sys/fs/cgroup/a/b/memory.max': `${2 * GIB}\n` }, { arenaBytes: GIB })
    expect(v2.memory).to.include({ state: 'warn' })
    expect(v2.memory!.value).to.equal('1.0 GiB by the cgroup\'s limit; the arena takes 1.0 GiB')
    const v1 = await machine({ 'proc/self/cgroup': '4:cpu,memory:/x\n0::/\n', 'sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712\n',
      'sys/fs/cgroup/memory/x/memory.limit_in_bytes': `${4 * GIB}\n` })
    expect(v1.memory).to.include({ state: 'ok', value: '4.0 GiB by the cgroup\'s limit; the arena takes 512.0 MiB' })
  })

  it('leaves out what it cannot read', async () => {
    const findings = await inDirectory(root => Promise.resolve(systemFindings({ engines: [ring(true)], aioEvents: 1, arenaBytes: 1, kernelRelease: '6.1', root })))
    expect(findings.map(({ name }) => name)).to.deep.equal(['kernel', 'io_uring', 'huge pages'])
  })
})
