import type { OpenOptions } from '../index.js'
import type { Options } from './command.js'

const MIB = 2 ** 20
const ARENA_BYTES_MIN = 16 * MIB
const ARENA_BYTES_MAX = 4096 * MIB

/**
 * What a command needs that moves one page or none: the default arena of a service (256 MiB, touched at open) and its workers would take most of such a
 * command's time. `pageBytes` is the largest page that it will move.
 */
export function smallCache(options: Options, pageBytes = 0): Partial<OpenOptions> {
  // Twice the page: the limit on bytes in flight is less than the arena, and a page's slot has room for its record.
  const arenaBytes = Math.min(ARENA_BYTES_MAX, Math.max(ARENA_BYTES_MIN, Math.ceil(2 * pageBytes / MIB) * MIB))
  return { arenaBytes, inFlightBytesMax: Math.floor(arenaBytes / 4) * 3, ...(options.string('workers') === undefined ? { workers: 1 } : {}) }
}
