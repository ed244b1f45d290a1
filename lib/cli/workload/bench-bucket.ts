import { createHash } from 'node:crypto'
import { HiCacheError } from '../../error.js'
import type { ObjectBucket } from '../../storage/object/object-bucket.js'
import { deleteBody, parseDeleteErrors, parseListing } from '../../storage/object/object-listing.js'

/** Of one request and its retries. */
const TIMEOUT_MS = 30_000
/** Deletes at once, where the server does not take many in one request. */
const DELETES_AT_ONCE = 64

/** What `bench` does with a bucket apart from what it measures: it removes its own objects, all below a prefix that nobody else has. */
export class BenchBucket {
  private deletesMany = true

  constructor(private readonly bucket: Pick<ObjectBucket, 'request'>) {}

  /** Removes every object below `prefix`, in the server's pages of at most 1,000. */
  async removeAll(prefix: string): Promise<void> {
    if (prefix === '') throw new HiCacheError('ERR_ARGUMENT', 'the prefix of a benchmark\'s objects is not empty')
    for (;;) {
      const query = { 'list-type': '2', 'encoding-type': 'url', prefix }
      const { body } = await this.bucket.request({ method: 'GET', key: '', query, timeoutMs: TIMEOUT_MS }, 'Listing the benchmark\'s objects')
      const keys = parseListing(body).objects.map(({ key }) => key)
      if (keys.length === 0) return
      // Then from the beginning again: what was listed is gone.
      if (!await this.removeMany(keys)) await this.removeEach(keys)
    }
  }

  /** False: the server does not do it. */
  private async removeMany(keys: readonly string[]): Promise<boolean> {
    if (!this.deletesMany) return false
    const body = deleteBody(keys)
    const headers = { 'content-md5': createHash('md5').update(body).digest('base64'), 'content-type': 'application/xml' }
    try {
      const answer = await this.bucket.request({ method: 'POST', key: '', query: { delete: '' }, headers, body, timeoutMs: TIMEOUT_MS }, 'Deleting the benchmark\'s objects')
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
      while (next < keys.length) await this.bucket.request({ method: 'DELETE', key: keys[next++]!, timeoutMs: TIMEOUT_MS }, 'Deleting an object of the benchmark')
    }))
  }
}
