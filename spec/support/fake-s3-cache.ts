import type { HiCacheNixl, OpenOptions } from '../../lib/index.js'
import type { FakeS3 } from './fake-s3.js'
import type { Workbench } from './workbench.js'

export interface FakeCacheOptions extends Omit<OpenOptions, 'config' | 'plugin'> {
  /** Of the configuration's section for objects, beside where the fake is and its keys. */
  readonly obj?: Readonly<Record<string, unknown>>
}

/** Options of a cache whose pages are objects of a fake server. */
export function fakeOptions(fake: FakeS3, { obj = {}, ...options }: FakeCacheOptions = {}): OpenOptions {
  const section = { bucket: fake.bucket.name, endpoint_override: fake.endpoint, region: fake.region, access_key: fake.accessKey, secret_key: fake.secretKey, ...obj }
  return { env: {}, arenaBytes: 16 * 1024 * 1024, ...options, config: { plugin: { obj: { active: true, ...section } } } }
}

/** A cache of this spec on a fake server. The requests that opening takes are not counted. */
export async function openOnFake(bench: Workbench, fake: FakeS3, options: FakeCacheOptions = {}): Promise<HiCacheNixl> {
  const cache = await bench.open(fakeOptions(fake, options))
  fake.requests.length = 0
  return cache
}
