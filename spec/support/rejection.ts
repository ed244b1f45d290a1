import { HiCacheError, type ErrorCode } from '../../lib/index.js'

/** The error of ours that `work` ends with, of the given code; anything else fails the spec. */
export async function rejection(work: Promise<unknown>, code: ErrorCode): Promise<HiCacheError> {
  let value: unknown
  try {
    value = await work
  } catch (error) {
    if (HiCacheError.is(error) && error.code === code) return error
    throw error
  }
  throw new Error(`It resolved to ${String(value)}; expected ${code}.`)
}

/** The same for a call that throws at once. */
export function thrown(call: () => unknown, code: ErrorCode): HiCacheError {
  try {
    call()
  } catch (error) {
    if (HiCacheError.is(error) && error.code === code) return error
    throw error
  }
  throw new Error(`It returned; expected ${code}.`)
}
