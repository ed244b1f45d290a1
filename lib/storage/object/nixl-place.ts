import { inspect } from 'node:util'
import { HiCacheError } from '../../error.js'
import type { ObjectRequest, ObjectResponse } from '../../transfer/native-binding.js'
import type { ObjectBucket } from './object-bucket.js'
import type { ObjectPlace } from './object-place.js'
import type { Refusal } from './object-refusal.js'

/** Objects that NIXL moves. It neither lists nor deletes: for plugin obj our own client does, where it can be had. */
export class NixlPlace implements ObjectPlace {
  readonly name: string
  readonly refusal: string | null
  readonly lengthsUnknown = true
  readonly bucket: ObjectBucket | null

  /** `why`: why there is no bucket of our own client, and what to do. */
  constructor(plugin: string, bucket: ObjectBucket | null, why: string) {
    this.name = bucket?.name ?? `the objects of NIXL's plugin ${plugin}`
    this.bucket = bucket
    this.refusal = bucket ? null : `NIXL can neither list nor delete objects, and ${why}`
  }

  async request(request: ObjectRequest, action: string, statuses?: readonly number[]): Promise<ObjectResponse> {
    if (!this.bucket) throw new HiCacheError('ERR_PLUGIN_UNAVAILABLE', `${action} is not possible in ${this.name}: ${this.refusal}.`)
    return await this.bucket.request(request, action, statuses)
  }

  hear(refusal: Refusal): void { this.bucket?.hear(refusal) }
  close(): void { this.bucket?.close() }
  [inspect.custom](): string { return `NixlPlace { ${this.name} }` }
}
