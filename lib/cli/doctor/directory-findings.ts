import { lstat, stat, statfs } from 'node:fs/promises'
import { userInfo } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import type { DirectoryReport, NativeAddon } from '../../transfer/native-binding.js'
import { formatBytes } from '../format.js'
import type { Mark } from '../style.js'

export interface DirectoryProblem { readonly state: 'warn' | 'fail'; readonly message: string; readonly remedy: string }

export interface DirectoryFindings {
  readonly path: string
  readonly realPath: string
  readonly state: Mark
  /** False: the first cache will make it, and everything below is said of `probed`, the nearest folder above it that is there. */
  readonly exists: boolean
  readonly probed: string
  readonly fileSystem: string
  readonly direct: boolean
  readonly directReason: string
  /** The engine serves it; false: its thread pool does. */
  readonly engine: boolean
  readonly engineReason: string
  readonly tmpfile: boolean
  readonly freeBytes: number
  readonly totalBytes: number
  readonly ownerUid: number
  readonly mode: string
  readonly writable: boolean
  readonly problems: readonly DirectoryProblem[]
}

const SPACE_BYTES_MIN = 2 ** 30
/** A mount that hangs must not hang the doctor, whose report is what says so. */
const PROBE_MS_MAX = 5000

/** Looks at one storage directory as opening a cache would, and makes nothing. */
export async function directoryFindings(addon: NativeAddon | undefined, path: string): Promise<DirectoryFindings> {
  const absolute = resolve(path)
  let timer: NodeJS.Timeout | undefined
  const hung = new Promise<DirectoryFindings>((answer) => {
    timer = setTimeout(() => answer(failed(absolute, `does not answer within ${PROBE_MS_MAX / 1000} s: its mount hangs, or its device is very slow`,
      'look at the mount (dmesg, mount); take the directory out of storage_dir meanwhile')), PROBE_MS_MAX)
  })
  try {
    return await Promise.race([look(addon, absolute), hung])
  } finally {
    clearTimeout(timer)
  }
}

async function look(addon: NativeAddon | undefined, path: string): Promise<DirectoryFindings> {
  let probed = path
  for (;;) {
    try {
      const found = await stat(probed)
      if (!found.isDirectory()) return failed(path, `${probed} is not a directory`, 'give another storage directory, or move that file away')
      break
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code
      if (code !== 'ENOENT') return failed(path, `${probed} cannot be looked at: ${code ?? String(error)}`, remedyFor(code, probed))
      if (probed === dirname(probed)) return failed(path, 'no folder above it is there', 'give another storage directory')
      probed = dirname(probed)
    }
  }
  const exists = probed === path
  let report: DirectoryReport
  try {
    report = addon === undefined ? await withoutAddon(probed) : await addon.probeDirectory(probed)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    return failed(path, `${exists ? '' : `${probed}, in which it would be made: `}${error instanceof Error ? error.message : String(error)}`, remedyFor(code, probed))
  }
  const link = exists ? await lstat(path).catch(() => undefined) : undefined
  const problems = problemsOf(report, path, exists, addon !== undefined, link?.isSymbolicLink() === true ? link.uid : undefined)
  return {
    path, realPath: exists ? report.realPath : path, exists, probed,
    state: problems.some(({ state }) => state === 'fail') ? 'fail' : problems.length > 0 ? 'warn' : 'ok',
    fileSystem: report.fileSystem, direct: report.direct, directReason: report.directReason, engine: report.engine, engineReason: report.engineReason,
    tmpfile: report.tmpfile, freeBytes: report.freeBytes, totalBytes: report.totalBytes, ownerUid: report.ownerUid,
    mode: octal(report.mode), writable: report.writable, problems,
  }
}

function problemsOf(report: DirectoryReport, path: string, exists: boolean, tried: boolean, linkUid: number | undefined): DirectoryProblem[] {
  const problems: DirectoryProblem[] = []
  const add = (state: 'warn' | 'fail', message: string, remedy: string): void => { problems.push({ state, message, remedy }) }
  const me = process.geteuid?.() ?? report.ownerUid
  const where = exists ? path : report.path
  if (!report.writable) {
    add('fail', exists ? 'this user cannot write to it' : `it is not there, and this user cannot make it in ${where}`,
      exists ? `chown ${me} ${where}, or run as its owner` : `make it as root: install -d -m 0700 -o ${me} ${path}`)
  }
  if (exists && report.ownerUid !== me) {
    add('fail', `it belongs to user ${report.ownerUid}, and this is user ${me} (${userName()}): whoever owns it could change pages`,
      `chown ${me} ${where}, or give a directory of your own`)
  }
  if (linkUid !== undefined && linkUid !== me) {
    add('fail', `it is a link of user ${linkUid}, and this is user ${me} (${userName()}): whoever owns the link decides where pages go`,
      `give the directory it leads to, ${report.realPath}`)
  }
  // /tmp and its like are shared on purpose.
  if (exists && (report.mode & 0o1000) !== 0) add('warn', `it is a folder that users share (mode ${octal(report.mode)})`, `give a folder of its own in it: ${join(where, 'hicache')}`)
  else if (exists && (report.mode & 0o022) !== 0) add('warn', `others may write to it (mode ${octal(report.mode)})`, `chmod 0700 ${where}`)
  else if (exists && (report.mode & 0o055) !== 0) add('warn', `others may read it (mode ${octal(report.mode)}): pages hold what users wrote`, `chmod 0700 ${where}`)
  if (report.totalBytes > 0 && report.freeBytes < Math.min(SPACE_BYTES_MIN, report.totalBytes / 20)) {
    add('warn', `only ${formatBytes(report.freeBytes)} of ${formatBytes(report.totalBytes)} are free`, 'free some, give another directory, or set l3_cleaner_enabled')
  }
  if (tried && report.writable && inMemory(report.fileSystem)) {
    add('warn', `it is memory (${report.fileSystem}): pages compete with programs for it, and are gone after a restart`, 'nothing, if that is what you want; else a directory on a disk')
  } else if (tried && report.writable && !report.direct) {
    add('warn', `no O_DIRECT: ${report.directReason}; every byte goes through the page cache`, 'a local file system (ext4, xfs) serves faster')
  }
  if (tried && report.direct && !report.tmpfile) add('warn', 'no O_TMPFILE: temporary files have names until they are whole', 'nothing has to be done; gc removes what a crash leaves')
  return problems
}

function inMemory(fileSystem: string): boolean { return fileSystem === 'tmpfs' || fileSystem === 'ramfs' }

/** What Node alone can tell, where the addon does not load. */
async function withoutAddon(path: string): Promise<DirectoryReport> {
  const [{ uid, mode }, { bavail, blocks, bsize }] = await Promise.all([stat(path), statfs(path)])
  return {
    path, realPath: path, fileSystem: 'unknown', direct: false, directReason: 'not tried', engine: false, engineReason: 'not tried', tmpfile: false,
    freeBytes: bavail * bsize, totalBytes: blocks * bsize, ownerUid: uid, mode: mode & 0o7777, pageFiles: false, writable: uid === process.geteuid?.() && (mode & 0o200) !== 0,
  }
}

function failed(path: string, message: string, remedy: string): DirectoryFindings {
  return {
    path, realPath: path, state: 'fail', exists: false, probed: path, fileSystem: 'unknown', direct: false, directReason: 'not tried', engine: false, engineReason: 'not tried',
    tmpfile: false, freeBytes: 0, totalBytes: 0, ownerUid: -1, mode: '', writable: false, problems: [{ state: 'fail', message, remedy }],
  }
}

function remedyFor(code: string | undefined, path: string): string {
  switch (code) {
    case 'EACCES': case 'EPERM': return `let this user write there (chown, chmod ${path}), or give a directory of your own`
    case 'EROFS': return 'its file system is read-only: mount it read-write, or give another directory'
    case 'ENOSPC': case 'EDQUOT': return 'its file system or quota is full: free some space'
    case 'EIO': return 'its device fails (see dmesg): take the directory out of storage_dir'
    case 'ESTALE': case 'ENOTCONN': return 'its server has gone: mount it again'
    default: return 'give another storage directory'
  }
}

function octal(mode: number): string { return (mode & 0o7777).toString(8).padStart(4, '0') }

function userName(): string {
  try {
    return userInfo().username
  } catch {
    return 'without a name'
  }
}
