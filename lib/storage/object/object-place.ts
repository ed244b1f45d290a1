import type { ObjectRequest, ObjectResponse } from '../../transfer/native-binding.js'
import type { Refusal } from './object-refusal.js'

/** Where objects are, as far as they can be talked about beside moving pages: listed, deleted, asked for their dates. */
export interface ObjectPlace {
  /** For people. */
  readonly name: string
  /** Can it do none of that? Why not, and what to do. */
  readonly refusal: string | null
  /** Whoever moves the pages cannot tell an object's length: what is looked up is there, and no more is known of it. */
  readonly lengthsUnknown: boolean
  /**
   * One request. `action` says for messages what it is for; answers of `statuses` are taken, beside successes.
   *
   * @throws {HiCacheError}
   */
  request(request: ObjectRequest, action: string, statuses?: readonly number[]): Promise<ObjectResponse>
  hear(refusal: Refusal): void
  close(): void
}
