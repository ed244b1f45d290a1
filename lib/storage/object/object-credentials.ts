import type { NixlBackendConfig } from '../../config/nixl-backend-config.js'
import type { Logger } from '../../observe/logger.js'
import { TIMEOUT_MS_MAX } from '../store-parts.js'
import type { NativeObjects } from '../../transfer/native-binding.js'
import type { Unusable } from './object-endpoint.js'

/** As AWS's SDK has them. */
export interface ChainCredentials { readonly accessKeyId: string; readonly secretAccessKey: string; readonly sessionToken?: string; readonly expiration?: Date }
export type CredentialChain = (options?: { forceRefresh?: boolean }) => Promise<ChainCredentials>

export interface CredentialOptions {
  readonly logger: Logger
  /** AWS's chain for a region; null where its package is not installed. Default: the optional peer dependency, loaded when it is needed. */
  readonly chain?: (region: string) => Promise<CredentialChain | null>
}

type Registry = Pick<NativeObjects, 'setCredentials' | 'releaseCredentials'>

const CHAIN_PACKAGE = '@aws-sdk/credential-provider-node'
/** How long the chain may look: of metadata services that are not there the answer never comes. */
const CHAIN_MS_MAX = 10_000
/** So long before they expire new ones are fetched. */
const AHEAD_MS = 5 * 60_000
const RETRY_MS_MIN = 1000
const RETRY_MS_MAX = 60_000

/**
 * The credentials of one object store. They are kept by native code; JavaScript has the id. Those of AWS's chain are fetched anew before they expire, and replace the
 * former under the same id, so whoever signs needs to know nothing of it.
 */
export class ObjectCredentials {
  readonly id: number
  /** `keys`: of the configuration or the environment. */
  readonly source: 'keys' | 'chain'
  readonly #registry: Registry
  readonly #logger: Logger
  readonly #chain: CredentialChain | null
  #timer: NodeJS.Timeout | null = null
  #refreshing = false
  #failures = 0
  #refreshedAt = 0
  #closed = false

  private constructor(registry: Registry, logger: Logger, id: number, chain: CredentialChain | null) {
    this.#registry = registry
    this.#logger = logger
    this.id = id
    this.#chain = chain
    this.source = chain === null ? 'keys' : 'chain'
  }

  /** Those of the configuration, else of the AWS variables (the configuration has merged them), else of AWS's chain where it is installed. Close them. */
  static async find(config: NixlBackendConfig, registry: Registry, { logger, chain: loadChain = installedChain }: CredentialOptions): Promise<ObjectCredentials | Unusable> {
    const { access_key: accessKey = '', secret_key: secretKey = '', session_token: sessionToken = '', region = '' } = config.section('obj')
    if (accessKey !== '' && secretKey !== '') return new ObjectCredentials(registry, logger, registry.setCredentials({ accessKey, secretKey, sessionToken }), null)
    if (accessKey !== '' || secretKey !== '') {
      const [has, lacks] = accessKey === '' ? ['secret_key', 'access_key'] : ['access_key', 'secret_key']
      return { reason: `there is ${has} but no ${lacks}`, remedy: `set plugin.obj.${lacks} too, or its AWS variable` }
    }
    const configure = 'set plugin.obj.access_key and plugin.obj.secret_key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY'
    const chain = await loadChain(region === '' ? 'us-east-1' : region)
    if (chain === null) {
      return { reason: 'there are no credentials: no keys in the configuration or the environment', remedy: `${configure}, or install ${CHAIN_PACKAGE}, which looks for them as AWS's tools do` }
    }
    let found: ChainCredentials
    try {
      found = await withinMs(chain(), CHAIN_MS_MAX)
    } catch (error) {
      // By its name only: the text of a failed credential_process is the command and what it printed.
      return { reason: `there are no credentials: no keys in the configuration or the environment, and the AWS credential chain has none (${nameOf(error)})`, remedy: `${configure}, or sign in (aws sso login, AWS_PROFILE)` }
    }
    const credentials = new ObjectCredentials(registry, logger, registry.setCredentials(keysOf(found)), chain)
    credentials.#schedule(found.expiration)
    return credentials
  }

  /** The server says that they have expired: others are fetched now, where they come from a chain; at most once a second. */
  expired(): void {
    if (this.#chain === null || this.#refreshing || performance.now() - this.#refreshedAt < RETRY_MS_MIN) return
    void this.#refresh()
  }

  /** Takes them out of native memory: nothing that still uses them can sign any more. Idempotent. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#registry.releaseCredentials(this.id)
  }

  async #refresh(): Promise<void> {
    this.#refreshing = true
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    try {
      const found = await withinMs(this.#chain!({ forceRefresh: true }), CHAIN_MS_MAX)
      if (this.#closed) return
      this.#registry.setCredentials(keysOf(found), this.id)
      this.#failures = 0
      this.#schedule(found.expiration)
      this.#logger.debug('The credentials of the object store were fetched anew.', found.expiration ? { expiration: found.expiration.toISOString() } : {})
    } catch (error) {
      if (this.#closed) return
      const wait = Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** this.#failures++)
      this.#logger.warn('New credentials of the object store could not be fetched; the old ones serve until they expire.', { error: nameOf(error), againInMs: wait })
      this.#arm(wait)
    } finally {
      this.#refreshing = false
      this.#refreshedAt = performance.now()
    }
  }

  #schedule(expiration: Date | undefined): void {
    if (expiration === undefined) return
    const left = expiration.getTime() - Date.now()
    // Of those that live for less than ten minutes half the time is used.
    this.#arm(Math.max(RETRY_MS_MIN, left > 2 * AHEAD_MS ? left - AHEAD_MS : left / 2))
  }

  #arm(ms: number): void {
    this.#timer = setTimeout(() => { void this.#refresh() }, Math.min(ms, TIMEOUT_MS_MAX)).unref()
  }
}

function keysOf({ accessKeyId, secretAccessKey, sessionToken = '' }: ChainCredentials): { accessKey: string; secretKey: string; sessionToken: string } {
  return { accessKey: accessKeyId, secretKey: secretAccessKey, sessionToken }
}

function nameOf(error: unknown): string { return error instanceof Error ? error.name : 'no error' }

async function installedChain(region: string): Promise<CredentialChain | null> {
  let module: typeof import('@aws-sdk/credential-provider-node')
  try {
    module = await import('@aws-sdk/credential-provider-node')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND') return null
    throw error
  }
  return module.defaultProvider({ clientConfig: { region } })
}

async function withinMs<T>(work: Promise<T>, ms: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  try {
    return await Promise.race([work, new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        const error = new Error('it took too long')
        error.name = 'TimeoutError'
        reject(error)
      }, ms)
    })])
  } finally {
    clearTimeout(timer)
    work.catch(() => {})
  }
}
