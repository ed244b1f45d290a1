/** The checks of the connector's arguments: each throws ERR_ARGUMENT before anything has started. */
import { HiCacheError, describe } from '../error.js'
import type { Target } from '../memory/tensor.js'
import { TIMEOUT_MS_MAX } from '../storage/store-parts.js'
import type { CallOptions } from '../transfer/call-scope.js'

/** Tells a target from options: both are objects, but options are neither memory nor have any. */
export function isTarget(value: unknown): value is Target {
  return ArrayBuffer.isView(value) || (typeof value === 'object' && value !== null && ('data' in value || 'dtype' in value || (value as { type?: unknown }).type === 'VRAM'))
}

export function checkPage(page: unknown): readonly [string, Target | undefined] {
  if (!Array.isArray(page) || page.length < 1) throw new HiCacheError('ERR_ARGUMENT', `A page to read is a key or [key, target]; got ${describe(page)}.`)
  return page as unknown as readonly [string, Target | undefined]
}

export function checkObject(value: unknown, what: string): void {
  if (typeof value !== 'object' || value === null) throw new HiCacheError('ERR_ARGUMENT', `${what}; got ${describe(value)}.`)
}

/** A string is iterable too, but its characters are not what anybody means by pages. */
export function checkPages(pages: unknown): void {
  if (typeof pages !== 'object' || pages === null || typeof (pages as Partial<Iterable<unknown>>)[Symbol.iterator] !== 'function') {
    throw new HiCacheError('ERR_ARGUMENT', `Pages are an iterable of pages; got ${describe(pages)}.`)
  }
}

export function checkKeys(keys: unknown): asserts keys is readonly string[] {
  if (!Array.isArray(keys)) throw new HiCacheError('ERR_ARGUMENT', `keys is an array of strings; got ${describe(keys)}.`)
}

export function checkPairs(keys: unknown, others: unknown, name: string): void {
  checkKeys(keys)
  if (!Array.isArray(others)) throw new HiCacheError('ERR_ARGUMENT', `${name} is an array; got ${describe(others)}.`)
  if (keys.length !== others.length) throw new HiCacheError('ERR_ARGUMENT', `${name} has ${others.length} entries for ${keys.length} keys: one each.`)
}

export function checkBytes(bytes: number): void {
  if (!Number.isFinite(bytes) || bytes < 0) throw new HiCacheError('ERR_ARGUMENT', `bytes is a number from 0; got ${describe(bytes)}.`)
}

export function checkCallOptions(options: CallOptions | undefined): void {
  if (options === undefined) return
  if (typeof options !== 'object' || options === null) throw new HiCacheError('ERR_ARGUMENT', `Options are an object; got ${describe(options)}.`)
  const { timeoutMs, priority, signal } = options
  if (timeoutMs !== undefined && !(Number.isFinite(timeoutMs) && timeoutMs >= 1 && timeoutMs <= TIMEOUT_MS_MAX)) {
    throw new HiCacheError('ERR_ARGUMENT', `timeoutMs is a number of milliseconds from 1 to ${TIMEOUT_MS_MAX}; got ${describe(timeoutMs)}.`)
  }
  if (priority !== undefined && priority !== 'foreground' && priority !== 'background') {
    throw new HiCacheError('ERR_ARGUMENT', `priority is foreground or background; got ${describe(priority)}.`)
  }
  checkSignal(signal)
}

export function checkSignal(signal: unknown): void {
  if (signal === undefined) return
  const { addEventListener, aborted } = (signal ?? {}) as Partial<AbortSignal>
  if (typeof addEventListener !== 'function' || typeof aborted !== 'boolean') {
    throw new HiCacheError('ERR_ARGUMENT', `signal is an AbortSignal; got ${describe(signal)}.`)
  }
}
