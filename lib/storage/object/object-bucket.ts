import { inspect } from 'node:util'
import type { NixlBackendConfig } from '../../config/nixl-backend-config.js'
import { HiCacheError } from '../../error.js'
import { silentLogger, type Logger } from '../../observe/logger.js'
import type { NativeObjects, ObjectClient, ObjectEndpoint, ObjectRequest, ObjectResponse } from '../../transfer/native-binding.js'
import { ObjectCredentials, type CredentialOptions } from './object-credentials.js'
import { planEndpoint, type Unusable } from './object-endpoint.js'
import type { ObjectPlace } from './object-place.js'
import { isExpired, refusalError, refusalOf, type Refusal } from './object-refusal.js'

export interface BucketOptions {
  /** Agents that share the connections. Default 1. */
  readonly agents?: number
  readonly logger?: Logger
  /** See CredentialOptions. */
  readonly chain?: CredentialOptions['chain']
}

/** A bucket as this process talks to it: where it is, the credentials for it, and a client for what is not a page. Close it. */
export class ObjectBucket implements ObjectPlace {
  /** What agents get: an id for the credentials, never the credentials. */
  readonly endpoint: ObjectEndpoint
  /** For people: `s3://bucket/prefix at http://host:9000`. */
  readonly name: string
  readonly refusal = null
  readonly lengthsUnknown = false
  readonly client: ObjectClient
  readonly #credentials: ObjectCredentials

  private constructor(endpoint: ObjectEndpoint, name: string, client: ObjectClient, credentials: ObjectCredentials) {
    this.endpoint = endpoint
    this.name = name
    this.client = client
    this.#credentials = credentials
  }

  /** Looks for what is needed, the credentials too; asks the server nothing. */
  static async open(config: NixlBackendConfig, objects: NativeObjects, { agents = 1, logger = silentLogger, chain }: BucketOptions = {}): Promise<ObjectBucket | Unusable> {
    const plan = planEndpoint(config, agents)
    if ('reason' in plan) return plan
    const curl = objects.curl()
    if (!curl.usable) return { reason: curl.reason, remedy: curl.remedy }
    const credentials = await ObjectCredentials.find(config, objects, { logger, ...(chain === undefined ? {} : { chain }) })
    if ('reason' in credentials) return credentials
    try {
      const endpoint = { ...plan.endpoint, credentials: credentials.id }
      return new ObjectBucket(endpoint, plan.name, new objects.Client(endpoint), credentials)
    } catch (error) {
      credentials.close()
      throw error
    }
  }

  /**
   * One request. `action` says for messages what it is for; answers of `statuses` are taken, beside successes.
   *
   * @throws {HiCacheError} ERR_IO where the answer is no success, or none came; ERR_TIMEOUT; ERR_CLOSED.
   */
  async request(request: ObjectRequest, action: string, statuses: readonly number[] = []): Promise<ObjectResponse> {
    let response: ObjectResponse
    try {
      response = await this.client.request(request)
    } catch (error) {
      throw this.#unanswered(error, request.timeoutMs, action)
    }
    if ((response.status >= 200 && response.status < 300) || statuses.includes(response.status)) return response
    const refusal = refusalOf(response)
    this.hear(refusal)
    throw refusalError(refusal, action, this.name)
  }

  /** A refusal may mean that the credentials have expired. */
  hear(refusal: Refusal): void {
    if (isExpired(refusal)) this.#credentials.expired()
  }

  close(): void {
    this.client.close()
    this.#credentials.close()
  }

  [inspect.custom](): string { return `ObjectBucket { ${this.name} }` }

  #unanswered(error: unknown, timeoutMs: number, action: string): HiCacheError {
    const { code, message } = error as NodeJS.ErrnoException
    switch (code) {
      case 'ETIMEDOUT': return new HiCacheError('ERR_TIMEOUT', `${action} failed: ${this.name} did not answer within ${timeoutMs} ms.`, { errno: code })
      case 'ECANCELED': return new HiCacheError('ERR_CLOSED', `${action} ended: the cache was closed.`)
      default: return new HiCacheError('ERR_IO', `${action} failed: ${this.name} did not answer: ${message.replace(/\.$/, '')}.`, code === undefined ? {} : { errno: code })
    }
  }
}
