/** Numbers for people. Machines get the plain ones with --json. */

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']

/** `65536` -> `64.0 KiB`; below 1024 without decimals. */
export function formatBytes(bytes: number): string {
  if (!Number.isFinite(bytes)) return '-'
  let value = Math.abs(bytes)
  let unit = 0
  while (value >= 1024 && unit < UNITS.length - 1) { value /= 1024; unit++ }
  // 1023.97 would round to "1024.0".
  if (value >= 1023.95 && unit > 0 && unit < UNITS.length - 1) { value /= 1024; unit++ }
  const sign = bytes < 0 ? '-' : ''
  return unit === 0 ? `${sign}${Math.round(value)} B` : `${sign}${value.toFixed(1)} ${UNITS[unit]!}`
}

/** `1234567` -> `1,234,567`; a rate below 100 keeps one decimal. */
export function formatCount(value: number): string {
  if (!Number.isFinite(value)) return '-'
  return Number.isInteger(value) || value >= 100
    ? Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, ',')
    : value.toFixed(1)
}

/** Seconds -> `0.35 s`, `12 s`, `3 m 07 s`, `2 h 05 m`. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return '-'
  if (seconds < 10) return `${seconds.toFixed(seconds < 1 ? 2 : 1)} s`
  const whole = Math.round(seconds)
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${String(whole % 60).padStart(2, '0')} s`
  return `${Math.floor(whole / 3600)} h ${String(Math.floor(whole % 3600 / 60)).padStart(2, '0')} m`
}

/** Microseconds -> `85 us`, `1.25 ms`, `2.10 s`. */
export function formatMicroseconds(microseconds: number): string {
  if (!Number.isFinite(microseconds)) return '-'
  if (microseconds < 1000) return `${Math.round(microseconds)} us`
  if (microseconds < 1e6) return `${(microseconds / 1000).toFixed(microseconds < 1e4 ? 2 : 1)} ms`
  return `${(microseconds / 1e6).toFixed(2)} s`
}

/** Local time to the second, sortable: `2025-06-01 14:03:07`. */
export function formatTime(time: Date | null): string {
  if (time === null || Number.isNaN(time.getTime())) return '-'
  const two = (value: number): string => String(value).padStart(2, '0')
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ` +
    `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`
}

const BYTE_UNITS: Readonly<Record<string, number>> = { '': 1, b: 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 }

/** `65536`, `64k`, `64KiB`, `1.5GiB` (all binary) -> bytes; undefined when it is none of these or not a whole number of bytes. */
export function parseBytes(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$/i.exec(text.trim())
  if (match === null) return undefined
  const bytes = Number(match[1]) * BYTE_UNITS[match[2]!.toLowerCase()]!
  return Number.isSafeInteger(bytes) ? bytes : undefined
}
