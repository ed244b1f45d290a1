import { HiCacheError } from '../error.js'
import type { DirectoryReport, NativeAddon } from '../transfer/native-binding.js'

/** A directory that does not answer within this time is given up at open. */
const PROBE_MS_MAX = 15_000

/**
 * Makes a storage directory ready: makes it (0700) if need be, refuses one that somebody else owns (also through a link that somebody else made: pages would
 * go where they read and write), and tries it with real I/O.
 *
 * @throws {HiCacheError} ERR_CONFIG for a path that is no directory or is not ours; ERR_IO when the system refuses or does not answer.
 */
export async function openStorageDirectory(path: string, addon: NativeAddon, signal?: AbortSignal): Promise<DirectoryReport> {
  return await withDeadline(path, prepare(path, addon), signal)
}

async function prepare(path: string, addon: NativeAddon): Promise<DirectoryReport> {
  try {
    // Not by node:fs: a thread of libuv's that hangs keeps the whole process from its end.
    const { realPath, directory, ownerUid, linkUid } = await addon.makeDirectory(path)
    const uid = process.geteuid?.() ?? 0
    if (!directory) throw new HiCacheError('ERR_CONFIG', `The storage directory ${path} is not a directory.`)
    for (const [what, owner] of [['link', linkUid], ['directory', ownerUid]] as const) {
      if (owner !== uid) {
        throw new HiCacheError('ERR_CONFIG',
          `The storage ${linkUid === ownerUid ? 'directory' : what} ${path} belongs to user ${owner}, and this process runs as user ${uid}: ` +
          'whoever owns it can change pages. Take a directory of your own, or change its owner.')
      }
    }
    return await addon.probeDirectory(realPath)
  } catch (cause) {
    if (HiCacheError.is(cause)) throw cause
    const { code, message } = cause as NodeJS.ErrnoException
    const what = code === 'EEXIST' || code === 'ENOTDIR' ? 'ERR_CONFIG' : 'ERR_IO'
    throw new HiCacheError(what, `The storage directory ${path} cannot be used: ${message}.`, { cause, ...(code === undefined ? {} : { errno: code }) })
  }
}

async function withDeadline<T>(path: string, work: Promise<T>, signal?: AbortSignal): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  let onAbort: (() => void) | undefined
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new HiCacheError('ERR_IO',
      `The storage directory ${path} did not answer within ${PROBE_MS_MAX / 1000} s: its file system hangs. Check the mount.`, { errno: 'ETIMEDOUT' })), PROBE_MS_MAX)
    onAbort = () => reject(new HiCacheError('ERR_CANCELLED', 'Opening was cancelled by its signal.', { cause: signal?.reason }))
    if (signal?.aborted === true) onAbort()
    else signal?.addEventListener('abort', onAbort, { once: true })
  })
  try {
    return await Promise.race([work, limit])
  } finally {
    clearTimeout(timer)
    if (onAbort) signal?.removeEventListener('abort', onAbort)
    // The loser of the race must not become an unhandled rejection.
    work.catch(() => {})
  }
}
