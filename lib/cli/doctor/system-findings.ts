import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { EngineReport } from '../../transfer/native-binding.js'
import { formatBytes } from '../format.js'
import type { Finding } from './finding.js'

/** What the store will ask of the system, to compare with what the system grants. */
export interface SystemNeeds {
  readonly engines: readonly EngineReport[]
  /** Kernel AIO events: operations per worker and directory. */
  readonly aioEvents: number
  readonly arenaBytes: number
  readonly kernelRelease: string
  /** Where /proc and /sys are; `/` but in specs. */
  readonly root?: string
}

/** Kernel features and limits, from /proc and /sys. What cannot be read is left out: absence there is no fault. */
export function systemFindings(needs: SystemNeeds): Finding[] {
  const root = needs.root ?? '/'
  const read = (path: string): string | undefined => {
    try {
      return readFileSync(join(root, path), 'utf8').trim()
    } catch {
      return undefined
    }
  }
  const findings: (Finding | undefined)[] = [
    { name: 'kernel', state: 'ok', value: `Linux ${needs.kernelRelease}`, remedy: '' },
    ioUring(needs, read),
    kernelAio(needs, read),
    hugePages(read),
    memlock(needs, read),
    openFiles(read),
    memory(needs, read, root),
  ]
  return findings.filter((finding) => finding !== undefined)
}

type Read = (path: string) => string | undefined

function ioUring({ engines }: SystemNeeds, read: Read): Finding {
  const engine = engines.find(({ name }) => name === 'io_uring')
  const sysctl = read('proc/sys/kernel/io_uring_disabled')
  const seccomp = /^Seccomp:\s*(\d)/m.exec(read('proc/self/status') ?? '')?.[1] ?? '0'
  if (engine?.usable === true) {
    const partly = sysctl === '1' ? ' (kernel.io_uring_disabled = 1: for this user it works)' : ''
    return { name: 'io_uring', state: 'ok', value: `allowed${partly}`, remedy: '' }
  }
  if (sysctl === '1' || sysctl === '2') {
    return {
      name: 'io_uring', state: 'warn', value: `forbidden by kernel.io_uring_disabled = ${sysctl}`,
      remedy: 'sysctl kernel.io_uring_disabled=0, if your security rules allow it; Linux AIO serves without it',
    }
  }
  if (seccomp === '2') {
    return {
      name: 'io_uring', state: 'warn', value: 'forbidden, most likely by the seccomp filter of this container',
      remedy: 'allow io_uring_setup, io_uring_enter and io_uring_register in the container\'s seccomp profile; Linux AIO serves without it',
    }
  }
  if (engine === undefined) return { name: 'io_uring', state: 'info', value: 'not tried: the native addon does not load', remedy: '' }
  return { name: 'io_uring', state: 'warn', value: engine.reason, remedy: engine.remedy }
}

function kernelAio({ aioEvents }: SystemNeeds, read: Read): Finding | undefined {
  const max = Number(read('proc/sys/fs/aio-max-nr') ?? NaN)
  const used = Number(read('proc/sys/fs/aio-nr') ?? NaN)
  if (Number.isNaN(max) || Number.isNaN(used)) return undefined
  const value = `fs.aio-nr ${used} of fs.aio-max-nr ${max}; one cache here takes about ${aioEvents}`
  if (max - used >= aioEvents) return { name: 'Linux AIO', state: 'ok', value, remedy: '' }
  return { name: 'Linux AIO', state: 'warn', value, remedy: `sysctl fs.aio-max-nr=${Math.max(1048576, 2 * (used + aioEvents))}` }
}

function hugePages(read: Read): Finding | undefined {
  const text = read('sys/kernel/mm/transparent_hugepage/enabled')
  if (text === undefined) return { name: 'huge pages', state: 'warn', value: 'this kernel has no transparent huge pages', remedy: 'the arena works on 4 KiB pages; it costs some CPU time' }
  const mode = /\[(\w+)\]/.exec(text)?.[1] ?? text
  if (mode !== 'never') return { name: 'huge pages', state: 'ok', value: `transparent huge pages: ${mode}`, remedy: '' }
  return {
    name: 'huge pages', state: 'warn', value: 'transparent huge pages: never; the arena works on 4 KiB pages, which costs some CPU time',
    remedy: 'echo madvise > /sys/kernel/mm/transparent_hugepage/enabled',
  }
}

function limit(read: Read, name: string): number | undefined {
  const text = new RegExp(`^${name}\\s+(\\S+)`, 'm').exec(read('proc/self/limits') ?? '')?.[1]
  return text === undefined ? undefined : text === 'unlimited' ? Infinity : Number(text)
}

/** Rings of Linux before 5.12 are charged to RLIMIT_MEMLOCK, a few hundred KiB each; later ones, and everything else here, are not. */
const MEMLOCK_BYTES_MIN = 2 ** 20

function memlock({ kernelRelease }: SystemNeeds, read: Read): Finding | undefined {
  const bytes = limit(read, 'Max locked memory')
  if (bytes === undefined) return undefined
  const value = `RLIMIT_MEMLOCK ${bytes === Infinity ? 'unlimited' : formatBytes(bytes)}`
  const [major = 0, minor = 0] = kernelRelease.split('.').map(Number)
  const charged = major < 5 || (major === 5 && minor < 12)
  if (!charged || bytes >= MEMLOCK_BYTES_MIN) return { name: 'memlock', state: 'ok', value: charged ? value : `${value}; nothing here needs it`, remedy: '' }
  return { name: 'memlock', state: 'warn', value: `${value}; rings of this kernel are charged to it`, remedy: `raise it to ${formatBytes(MEMLOCK_BYTES_MIN)} or more (ulimit -l, LimitMEMLOCK=)` }
}

const OPEN_FILES_MIN = 1024

function openFiles(read: Read): Finding | undefined {
  const files = limit(read, 'Max open files')
  if (files === undefined) return undefined
  const value = `RLIMIT_NOFILE ${files === Infinity ? 'unlimited' : files}`
  if (files >= OPEN_FILES_MIN) return { name: 'open files', state: 'ok', value, remedy: '' }
  return { name: 'open files', state: 'warn', value, remedy: `every page in flight is an open file: raise it to ${OPEN_FILES_MIN} or more (ulimit -n, LimitNOFILE=)` }
}

function memory({ arenaBytes }: SystemNeeds, read: Read, root: string): Finding | undefined {
  const total = Number(/^MemTotal:\s+(\d+) kB/m.exec(read('proc/meminfo') ?? '')?.[1] ?? NaN) * 1024
  const limited = cgroupLimit(read, root)
  const bytes = Math.min(limited ?? Infinity, Number.isNaN(total) ? Infinity : total)
  if (!Number.isFinite(bytes)) return undefined
  const isLimited = limited !== undefined && limited < total
  const value = `${formatBytes(bytes)}${isLimited ? ' by the cgroup\'s limit' : ', no lower cgroup limit'}; the arena takes ${formatBytes(arenaBytes)}`
  if (arenaBytes <= bytes / 2) return { name: 'memory', state: 'ok', value, remedy: '' }
  return { name: 'memory', state: 'warn', value, remedy: 'lower arena_bytes, or raise the memory limit: the arena would take more than half of it' }
}

/** The lowest limit on the way from this process's cgroup to the root; undefined when there is none. */
function cgroupLimit(read: Read, root: string): number | undefined {
  let lowest: number | undefined
  for (const line of (read('proc/self/cgroup') ?? '').split('\n')) {
    const [, controllers = '', path = '/'] = /^\d+:([^:]*):(.*)$/.exec(line) ?? []
    const v2 = controllers === ''
    if (!v2 && !controllers.split(',').includes('memory')) continue
    const base = v2 ? 'sys/fs/cgroup' : 'sys/fs/cgroup/memory'
    const file = v2 ? 'memory.max' : 'memory.limit_in_bytes'
    if (!existsSync(join(root, base))) continue
    const parts = path.split('/').filter((part) => part !== '' && part !== '..')
    for (let depth = parts.length; depth >= 0; depth--) {
      const text = read(join(base, ...parts.slice(0, depth), file))
      const bytes = text === undefined || text === 'max' ? NaN : Number(text)
      // Version 1 writes "no limit" as a number near 2^63.
      if (bytes < 2 ** 60 && (lowest === undefined || bytes < lowest)) lowest = bytes
    }
  }
  return lowest
}
