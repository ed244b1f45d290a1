import { readFileSync } from 'node:fs'
import { totalmem } from 'node:os'
import { ARENA_BYTES_MIN } from './arena.js'

const MIB = 1024 * 1024
const ARENA_BYTES_DEFAULT = 256 * MIB

/** Bytes this process may use: the cgroup's limit (v2, then v1) where there is one below the machine's memory, else the machine's memory. */
export function memoryLimitBytes(): number {
  const machine = totalmem()
  for (const file of ['/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes']) {
    try {
      const limit = Number(readFileSync(file, 'utf8').trim())
      if (Number.isFinite(limit) && limit > 0) return Math.min(limit, machine)
    } catch { /* not this version of cgroups, or none: ask the next */ }
  }
  return machine
}

/** 256 MiB, or an eighth of the memory where that is less, never under 16 MiB. */
export function defaultArenaBytes(): number {
  const eighth = Math.floor(memoryLimitBytes() / 8 / MIB) * MIB
  return Math.max(ARENA_BYTES_MIN, Math.min(ARENA_BYTES_DEFAULT, eighth))
}
