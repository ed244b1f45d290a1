import { constants } from 'node:os'

const NAMES = new Map(Object.entries(constants.errno).map(([name, number]) => [number, name]))

/** `ENOSPC` for 28; `errno 530` for what the platform has no name for. */
export function errnoName(errno: number): string { return NAMES.get(errno) ?? `errno ${errno}` }
