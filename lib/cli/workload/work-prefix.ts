import { createHash, randomBytes } from 'node:crypto'
import type { NixlBackendConfig } from '../../config/nixl-backend-config.js'
import { HiCacheError } from '../../error.js'
import { ObjectBucket } from '../../storage/object/object-bucket.js'
import { deleteBody, parseDeleteErrors, parseListing } from '../../storage/object/object-listing.js'
import type { NativeAddon } from '../../transfer/native-binding.js'
import type { WorkPlace } from './work-place.js'

/** Of one request and its retries. */
const TIMEOUT_MS = 30_000
/** Deletes at once, where the server does not take many in one request. */
const DELETES_AT_ONCE = 64

/** The objects of one run of replay, demo or bench: below a prefix that nobody else has, so that whatever is there is its own to remove. */
export class WorkPrefix implements WorkPlace {
  readonly fresh = true
  readonly paths: readonly string[]
  readonly open: { readonly objectPrefix: string }
  private deletesMany = true

  private constructor(readonly bucket: ObjectBucket, readonly prefix: string) {
    this.open = { objectPrefix: prefix }
    this.paths = [`s3://${bucket.endpoint.bucket}/${prefix}`]
  }

  /** `name`: what the prefix of this run begins with, below the configuration's. Close it. */
  static async make(config: NixlBackendConfig, addon: NativeAddon, name: string): Promise<WorkPrefix> {
    const bucket = await ObjectBucket.open(config, addon.objects)
    if ('reason' in bucket) throw new HiCacheError('ERR_PLUGIN_UNAVAILABLE', `plugin obj cannot be used: ${bucket.reason} (${bucket.remedy})`)
    return new WorkPrefix(bucket, `${config.options.objectPrefix}.${name}-${randomBytes(6).toString('hex')}/`)
  }

  /** Nobody says how much room an object store has. */
  requireSpace(): Promise<void> { return Promise.resolve() }

  async remove(): Promise<void> { await this.removeBelow('') }

  /** Removes every object of this run below `folder`, in the server's pages of at most 1,000. */
  async removeBelow(folder: string): Promise<void> {
    for (;;) {
      const query = { 'list-type': '2', 'encoding-type': 'url', prefix: this.prefix + folder }
      const { body } = await this.bucket.request({ method: 'GET', key: '', query, timeoutMs: TIMEOUT_MS }, 'Listing the objects of this run')
      const keys = parseListing(body).objects.map(({ key }) => key)
      if (keys.length === 0) return
      // Then from the beginning again: what was listed is gone.
      if (!await this.removeMany(keys)) await this.removeEach(keys)
    }
  }

  close(): void { this.bucket.close() }

  /** False: the server does not do it. */
  private async removeMany(keys: readonly string[]): Promise<boolean> {
    if (!this.deletesMany) return false
    const body = deleteBody(keys)
    const headers = { 'content-md5': createHash('md5').update(body).digest('base64'), 'content-type': 'application/xml' }
    try {
      const answer = await this.bucket.request({ method: 'POST', key: '', query: { delete: '' }, headers, body, timeoutMs: TIMEOUT_MS }, 'Deleting the objects of this run')
      if (parseDeleteErrors(answer.body).length === 0) return true
    } catch (error) {
      if (!HiCacheError.is(error) || error.code !== 'ERR_IO') throw error
    }
    // One by one, what stands in the way is said by name.
    this.deletesMany = false
    return false
  }

  private async removeEach(keys: readonly string[]): Promise<void> {
    let next = 0
    await Promise.all(Array.from({ length: DELETES_AT_ONCE }, async () => {
      while (next < keys.length) await this.bucket.request({ method: 'DELETE', key: keys[next++]!, timeoutMs: TIMEOUT_MS }, 'Deleting an object of this run')
    }))
  }
}
