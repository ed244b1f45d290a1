import { createHash } from 'node:crypto'
import { HiCacheError } from '../../error.js'
import type { ObjectClient, ObjectRequest, ObjectResponse } from '../../transfer/native-binding.js'

/** Of one request and its retries. */
const TIMEOUT_MS = 30_000
/** Deletes at once, where the server does not take many in one request. */
const DELETES_AT_ONCE = 64

/** What `bench` does with a bucket apart from what it measures: it removes its own objects, all below a prefix that nobody else has. */
export class BenchBucket {
  private deletesMany = true

  constructor(private readonly client: ObjectClient) {}

  /** Removes every object below `prefix`, in the server's pages of at most 1,000. */
  async removeAll(prefix: string): Promise<void> {
    if (prefix === '') throw new HiCacheError('ERR_ARGUMENT', 'the prefix of a benchmark\'s objects is not empty')
    for (;;) {
      const { body } = await this.request({ method: 'GET', key: '', query: { 'list-type': '2', prefix }, timeoutMs: TIMEOUT_MS }, 'list')
      // Names of the bench are plain ASCII, and a user's prefix with one of these five characters is all that is escaped.
      const keys = [...Buffer.from(body).toString().matchAll(/<Key>([^<]*)<\/Key>/g)].map(([, key]) => unescapeXml(key!))
      if (keys.length === 0) return
      // From the beginning again: what was listed is gone.
      await this.remove(keys)
    }
  }

  private async remove(keys: readonly string[]): Promise<void> {
    if (this.deletesMany) {
      const body = Buffer.from(`<Delete><Quiet>true</Quiet>${keys.map(key => `<Object><Key>${escapeXml(key)}</Key></Object>`).join('')}</Delete>`)
      const headers = { 'content-md5': createHash('md5').update(body).digest('base64'), 'content-type': 'application/xml' }
      const answer = await this.client.request({ method: 'POST', key: '', query: { delete: '' }, headers, body, timeoutMs: TIMEOUT_MS })
      if (answer.status === 200 && !Buffer.from(answer.body).includes('<Error>')) return
      this.deletesMany = false
    }
    let next = 0
    await Promise.all(Array.from({ length: DELETES_AT_ONCE }, async () => {
      while (next < keys.length) await this.request({ method: 'DELETE', key: keys[next++]!, timeoutMs: TIMEOUT_MS }, 'delete')
    }))
  }

  private async request(request: ObjectRequest, what: string): Promise<ObjectResponse> {
    const answer = await this.client.request(request)
    if (answer.status < 300) return answer
    const code = /<Code>([^<]*)<\/Code>/.exec(Buffer.from(answer.body).toString())?.[1] ?? 'no code'
    throw new HiCacheError('ERR_IO', `the benchmark could not ${what} its objects: ${answer.status} (${code})`)
  }
}

const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', '\'': '&apos;' }

export function escapeXml(text: string): string { return text.replace(/[&<>"']/g, character => ENTITIES[character]!) }

function unescapeXml(text: string): string { return text.replace(/&(?:amp|lt|gt|quot|apos);/g, entity => Object.keys(ENTITIES).find(character => ENTITIES[character] === entity)!) }
