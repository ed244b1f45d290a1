import { DeleteObjectsCommand, ListObjectsV2Command, type S3Client } from '@aws-sdk/client-s3'
import type { OpenOptions } from '../../lib/index.js'
import { describeRadosgw, type Radosgw } from './ceph.js'

/** The real object store of the suite that runs, and its bucket. */
let current: { readonly gateway: Radosgw; readonly bucket: string } | undefined

/** describe() of a suite on the real radosgw, with a bucket of its own that goes with it. */
export function describeObjects(title: string, suite: () => void): void {
  describeRadosgw(title, gateway => {
    before(async () => { current = { gateway: gateway(), bucket: await gateway().bucket('suite') } })
    suite()
    after(async () => {
      const place = current
      current = undefined
      // What lies there takes memory.
      if (place !== undefined) await empty(place.gateway.client(), place.bucket)
    })
  })
}

/** By the SDK: the bucket itself costs nothing, and what removes it with all that is in it takes far longer. */
async function empty(client: S3Client, Bucket: string): Promise<void> {
  let token: string | undefined
  do {
    const page = await client.send(new ListObjectsV2Command({ Bucket, EncodingType: 'url', ...(token === undefined ? {} : { ContinuationToken: token }) }))
    token = page.NextContinuationToken
    const keys = (page.Contents ?? []).map(({ Key }) => ({ Key: decodeURIComponent(Key!.replaceAll('+', ' ')) }))
    if (keys.length > 0) await client.send(new DeleteObjectsCommand({ Bucket, Delete: { Quiet: true, Objects: keys } }))
  } while (token !== undefined)
}

/** The radosgw and the bucket of the suite that runs. */
export function objectPlace(): { readonly gateway: Radosgw; readonly bucket: string } {
  if (current === undefined) throw new Error('There is a bucket in the hooks and specs of describeObjects() only.')
  return current
}

/** What stands before the keys of pages that would lie in this directory. */
export function prefixOf(storageDir: string | readonly string[]): string {
  const first = typeof storageDir === 'string' ? storageDir : storageDir[0]!
  return `${first.replace(/^\/+/, '')}/`
}

/** The configuration of plugin obj for the suite's bucket. `endpoint`: where it is to be asked, when not at the radosgw itself. */
export function objectConfig(endpoint?: string, keys: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  const { gateway, bucket } = objectPlace()
  return {
    plugin: {
      obj: {
        active: true, endpoint_override: endpoint ?? gateway.endpoint, bucket, region: gateway.region, access_key: gateway.accessKey, secret_key: gateway.secretKey, ...keys
      }
    }
  }
}

/** Options of a cache whose pages are objects where, in another layout, they would be files of that directory. */
export function objectOptions(storageDir: string | readonly string[], endpoint?: string): OpenOptions {
  return { plugin: 'obj', config: objectConfig(endpoint), objectPrefix: prefixOf(storageDir) }
}
