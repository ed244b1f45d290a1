import { createHash, randomBytes } from 'node:crypto'
import type { NixlBackendConfig } from '../../config/nixl-backend-config.js'
import { OBJ_VARIABLES } from '../../config/environment.js'
import { silentLogger } from '../../observe/logger.js'
import { ObjectCredentials } from '../../storage/object/object-credentials.js'
import { planEndpoint } from '../../storage/object/object-endpoint.js'
import { deleteBody, parseDeleteErrors, parseListing } from '../../storage/object/object-listing.js'
import { refusalOf, remedyOf, sayRefusal, type Refusal } from '../../storage/object/object-refusal.js'
import type { NativeAddon, ObjectClient, ObjectEndpoint, ObjectRequest, ObjectResponse } from '../../transfer/native-binding.js'
import { formatBytes } from '../format.js'
import type { Finding } from './finding.js'
import { networkFindings, notTried, STEP_MS_MAX } from './network-findings.js'

export interface ObjectFindings {
  readonly endpoint: string | null
  readonly bucket: string | null
  /** In the order in which they were tried: what a failure leaves untried says so. */
  readonly findings: readonly Finding[]
}

const PROBE_BYTES = 65536
/** Servers may lose metadata that they do not know; a page without its own is not verified. */
const PROBE_HEADER = 'x-amz-meta-hicache-nixl-probe'
const SKEW_MS_WARN = 5000
/** What S3 refuses. */
const SKEW_MS_FAIL = 15 * 60_000
const NTP = 'synchronise this machine\'s clock by NTP (timedatectl set-ntp true)'
/** CURLcodes of TLS: what the library itself does not trust. */
const TLS_ERRORS: ReadonlySet<number> = new Set([35, 51, 53, 54, 58, 59, 60, 64, 66, 77, 80, 82, 83, 90, 91])

/** S3's words for what is wrong, by what it is wrong with. Any other refusal is the bucket's. */
const REFUSED_KEYS: ReadonlySet<string> = new Set(['InvalidAccessKeyId', 'SignatureDoesNotMatch', 'InvalidToken', 'ExpiredToken', 'TokenRefreshRequired', 'InvalidSecurity', 'NotSignedUp'])
const WRONG_REGION: ReadonlySet<string> = new Set(['AuthorizationHeaderMalformed', 'PermanentRedirect', 'TemporaryRedirect', 'IllegalLocationConstraintException'])

/** Tries the object store of a configuration from its name to a delete, and leaves nothing there. */
export async function objectFindings(config: NixlBackendConfig, addon: NativeAddon): Promise<ObjectFindings> {
  const curl = addon.objects.curl()
  const findings: Finding[] = [curl.usable
    ? { name: 'libcurl', state: 'ok', value: `${curl.version.split(' ')[0] ?? curl.version} (${curl.path})`, remedy: '' }
    : { name: 'libcurl', state: 'fail', value: curl.reason, remedy: curl.remedy }]
  const plan = planEndpoint(config, 1)
  if ('reason' in plan) {
    const { bucket = '' } = config.section('obj')
    return { endpoint: null, bucket: bucket === '' ? null : bucket, findings: [...findings, { name: bucket === '' ? 'bucket' : 'endpoint', state: 'fail', value: plan.reason, remedy: plan.remedy }] }
  }
  const answer = (more: readonly Finding[]): ObjectFindings => ({ endpoint: plan.endpoint.endpoint, bucket: plan.endpoint.bucket, findings: [...findings, ...more] })
  const url = new URL(plan.endpoint.endpoint)
  const host = url.hostname.replace(/^\[|\]$/g, '')
  const tls = url.protocol === 'https:'
  const network = await networkFindings({
    host: plan.endpoint.virtualAddressing ? `${plan.endpoint.bucket}.${host}` : host, port: Number(url.port === '' ? tls ? 443 : 80 : url.port), tls,
    proxy: plan.endpoint.proxy ?? '', caBundle: plan.endpoint.caBundle,
  })
  const broken = network.find(({ state }) => state === 'fail')
  const credentials = await ObjectCredentials.find(config, addon.objects, { logger: silentLogger })
  try {
    const found = 'reason' in credentials ? undefined : credentials
    const from = found === undefined ? '' : found.source === 'chain' ? 'the AWS credential chain' : sourceOfKeys(config)
    const keys: Finding = 'reason' in credentials ? { name: 'credentials', state: 'fail', value: credentials.reason, remedy: credentials.remedy }
      : { name: 'credentials', state: 'info', value: `from ${from}`, remedy: '' }
    const stop = !curl.usable ? 'libcurl' : broken?.name
    if (stop !== undefined) return answer([...network, ...SERVER_STEPS.map(name => name === 'credentials' && found === undefined ? keys : notTried(name, stop))])
    const endpoint = { ...plan.endpoint, credentials: found?.id ?? 0 }
    const client = new addon.objects.Client(endpoint)
    try {
      return answer(await new ServerProbe(client, endpoint, `${config.options.objectPrefix}.hicache-nixl-probe-${randomBytes(8).toString('hex')}`).run(network, keys))
    } finally {
      client.close()
    }
  } finally {
    if (!('reason' in credentials)) credentials.close()
  }
}

const SERVER_STEPS = ['clock', 'credentials', 'region', 'bucket', 'put', 'get', 'If-None-Match', 'delete', 'multi-delete'] as const
type ServerStep = typeof SERVER_STEPS[number]

function sourceOfKeys(config: NixlBackendConfig): string {
  if (config.sections.get('obj')?.keys.some(key => key === 'access_key' || key === 'secret_key') === true) return 'the configuration'
  return `the environment (${[...OBJ_VARIABLES.access_key!, ...OBJ_VARIABLES.secret_key!].join(', ')})`
}

/** What the server answers to signed requests. */
class ServerProbe {
  private readonly findings = new Map<ServerStep, Finding>()
  /** What is to be said of the credentials if the put is refused as the listing was. */
  private denied: Finding | null = null

  constructor(private readonly client: ObjectClient, private readonly endpoint: ObjectEndpoint, private readonly key: string) {}

  async run(network: readonly Finding[], keys: Finding): Promise<Finding[]> {
    const { listed, network: found } = await this.list(network)
    if (listed === undefined) {
      const stop = found.find(({ state }) => state === 'fail')!.name
      return [...found, ...SERVER_STEPS.map(name => name === 'credentials' && keys.state === 'fail' ? keys : notTried(name, stop))]
    }
    if (this.hear(listed.answer, listed.sentAt, listed.answeredAt, keys)) await this.tryObject()
    const stop = SERVER_STEPS.find(name => this.findings.get(name)?.state === 'fail')
    return [...found, ...SERVER_STEPS.map(name => this.findings.get(name) ?? notTried(name, stop ?? 'what comes before'))]
  }

  /** The first request: what it fails by is a matter of the connection still. */
  private async list(network: readonly Finding[]): Promise<{ listed?: { answer: ObjectResponse; sentAt: number; answeredAt: number }; network: readonly Finding[] }> {
    const sentAt = Date.now()
    try {
      const answer = await this.request({ method: 'GET', key: '', query: { 'list-type': '2', 'max-keys': '1', 'encoding-type': 'url' } })
      return { listed: { answer, sentAt, answeredAt: Date.now() }, network }
    } catch (error) {
      const { code, curl, message } = error as NodeJS.ErrnoException & { curl?: number }
      const ofTls = curl !== undefined && TLS_ERRORS.has(curl)
      const name = ofTls ? 'TLS' : 'connection'
      const failed: Finding = {
        name, state: 'fail', value: code === 'ETIMEDOUT' ? `no answer to a request within ${STEP_MS_MAX / 1000} s` : `the first request failed: ${oneLine(message)}`,
        remedy: ofTls ? 'give the server\'s authority to plugin.obj.ca_bundle as a PEM file, or the name that its certificate is for' : 'is it an S3 endpoint? Look at the server, and at what is on the way',
      }
      return { network: network.map(finding => finding.name === name ? failed : finding) }
    }
  }

  /** What the first answer says of clock, credentials, region and bucket. True: objects can be tried. */
  private hear(answer: ObjectResponse, sentAt: number, answeredAt: number, keys: Finding): boolean {
    const refusal = answer.status === 200 ? undefined : refusalOf(answer)
    const code = refusal?.code ?? ''
    const skewed = code === 'RequestTimeTooSkewed'
    this.clock(answer, (sentAt + answeredAt) / 2, skewed)
    if (keys.state === 'fail') {
      this.findings.set('credentials', keys)
      return false
    }
    if (skewed) return false
    const fail = (name: ServerStep, value: string, remedy: string): false => {
      this.findings.set(name, { name, state: 'fail', value, remedy })
      return false
    }
    const refused = refusal !== undefined && (REFUSED_KEYS.has(code) || refusal.status === 401)
    if (refused) return fail('credentials', `${keys.value}, refused: ${sayRefusal(refusal)}`, remedyOf(refusal))
    const { region, bucket } = this.endpoint
    const itsRegion = answer.headers['x-amz-bucket-region']
    if (refusal !== undefined && WRONG_REGION.has(code)) {
      this.findings.set('credentials', { ...keys, state: 'info' })
      return fail('region', `${region}: ${sayRefusal(refusal)}`, itsRegion === undefined ? remedyOf(refusal) : `set plugin.obj.region = "${oneLine(itsRegion)}" (or AWS_REGION), and endpoint_override to that region's endpoint`)
    }
    this.findings.set('credentials', { ...keys, state: 'ok', value: `${keys.value}, accepted` })
    this.findings.set('region', itsRegion === undefined || itsRegion === region ? { name: 'region', state: 'ok', value: region, remedy: '' }
      : { name: 'region', state: 'warn', value: `${region}, and the bucket is in ${oneLine(itsRegion)}`, remedy: `set plugin.obj.region = "${oneLine(itsRegion)}" (or AWS_REGION)` })
    if (refusal !== undefined && code === 'AccessDenied') {
      // Keys that may store and read, and not list, serve for all but ls, verify and clear. Whether they are that, or wrong keys (which some servers answer alike), a put will tell.
      this.findings.set('bucket', { name: 'bucket', state: 'warn', value: `${bucket}: listing it is refused: ${sayRefusal(refusal)}`, remedy: remedyOf(refusal) })
      this.denied = { ...keys, state: 'fail', value: `${keys.value}, refused: ${sayRefusal(refusal)}`, remedy: `correct access_key and secret_key, and session_token where they have one; if they are right, ${remedyOf(refusal)}` }
      return true
    }
    if (refusal !== undefined) return fail('bucket', `${bucket}: ${sayRefusal(refusal)}`, remedyOf(refusal))
    try {
      parseListing(answer.body)
    } catch (error) {
      return fail('bucket', (error as Error).message, 'correct plugin.obj.endpoint_override: another service answers there')
    }
    this.findings.set('bucket', { name: 'bucket', state: 'ok', value: `${bucket} is there, and these credentials may list it`, remedy: '' })
    return true
  }

  private clock({ headers }: ObjectResponse, here: number, refused: boolean): void {
    const there = Date.parse(headers.date ?? '')
    const name = 'clock'
    if (Number.isNaN(there)) {
      this.findings.set(name, refused ? { name, state: 'fail', value: 'the server refuses requests of this time', remedy: NTP } : { name, state: 'info', value: 'the server does not tell its time', remedy: '' })
      return
    }
    // The header has whole seconds: half of one on average.
    const skewMs = here - (there + 500)
    const apart = Math.abs(skewMs)
    const value = refused && apart < SKEW_MS_WARN ? 'the server refuses requests of this time, although its own answers have the same' : apart < 1500 ? 'this machine\'s and the server\'s are the same to a second' : `this machine's is ${apart < 120_000 ? `${Math.round(apart / 1000)} s` : `${Math.round(apart / 60_000)} minutes`} ${skewMs > 0 ? 'ahead of' : 'behind'} the server's`
    const state = refused || apart > SKEW_MS_FAIL ? 'fail' : apart > SKEW_MS_WARN ? 'warn' : 'ok'
    this.findings.set(name, { name, state, value, remedy: state === 'ok' ? '' : `${NTP}, or the server's` })
  }

  /** An object of our own: put, read back, put again under a condition, deleted. */
  private async tryObject(): Promise<void> {
    const { key } = this
    const body = randomBytes(PROBE_BYTES)
    const mark = randomBytes(24).toString('base64')
    let there = false
    try {
      const put = await this.step('put', { method: 'PUT', key, body, headers: { [PROBE_HEADER]: mark } })
      if (put === undefined) return
      there = true
      this.done('put', `${formatBytes(PROBE_BYTES)} in ${put.ms}`)
      const got = await this.step('get', { method: 'GET', key })
      if (got !== undefined) this.compare(got, body, mark)
      await this.condition(body)
      const deleted = await this.step('delete', { method: 'DELETE', key })
      if (deleted === undefined) return
      there = false
      this.done('delete', `in ${deleted.ms}`)
      there = !await this.multiDelete()
    } finally {
      if (there) await this.request({ method: 'DELETE', key }).catch(() => { /* Its own step has said so. */ })
    }
  }

  private compare({ answer, ms }: Timed, body: Buffer, mark: string): void {
    const name = 'get'
    if (!body.equals(answer.body)) {
      this.findings.set(name, { name, state: 'fail', value: `other bytes came back than were stored (${answer.body.length} of ${body.length})`, remedy: 'look at the server, and at proxies between here and there' })
    } else if (answer.headers[PROBE_HEADER] !== mark) {
      this.findings.set(name, { name, state: 'fail', value: 'the metadata of the object did not come back, where the cache keeps a page\'s checksum', remedy: 'let the server, or a proxy before it, keep x-amz-meta-* headers' })
    } else this.done(name, `the same bytes and metadata in ${ms}`)
  }

  private async condition(body: Buffer): Promise<void> {
    const name = 'If-None-Match'
    const without = 'not supported: a page that is there already may be sent once more'
    try {
      const { status, headers, body: said } = await this.request({ method: 'PUT', key: this.key, body, headers: { 'if-none-match': '*' } })
      this.findings.set(name, status === 412 ? { name, state: 'ok', value: 'supported: a page that is there already is not sent again', remedy: '' }
        : { name, state: 'info', value: status < 300 ? without : `${without} (${sayRefusal(refusalOf({ status, headers, body: said }))})`, remedy: '' })
    } catch (error) {
      this.findings.set(name, unanswered(name, error))
    }
  }

  /** True: nothing is left of what it stored. */
  private async multiDelete(): Promise<boolean> {
    const name = 'multi-delete'
    const stored = await this.step(name, { method: 'PUT', key: this.key, body: Buffer.alloc(1) })
    if (stored === undefined) return false
    const without = 'not supported: clear deletes objects one by one'
    try {
      const body = deleteBody([this.key])
      const headers = { 'content-md5': createHash('md5').update(body).digest('base64'), 'content-type': 'application/xml' }
      const answer = await this.request({ method: 'POST', key: '', query: { delete: '' }, headers, body })
      if (answer.status >= 300) {
        this.findings.set(name, { name, state: 'info', value: `${without} (${sayRefusal(refusalOf(answer))})`, remedy: '' })
        return false
      }
      const gone = parseDeleteErrors(answer.body).length === 0 && (await this.request({ method: 'HEAD', key: this.key })).status === 404
      this.findings.set(name, { name, state: gone ? 'ok' : 'info', value: gone ? 'supported: clear deletes up to 1,000 objects a request' : without, remedy: '' })
      return gone
    } catch (error) {
      this.findings.set(name, unanswered(name, error))
      return false
    }
  }

  private done(name: ServerStep, value: string): void { this.findings.set(name, { name, state: 'ok', value, remedy: '' }) }

  /** A request that has to succeed: else the finding says why, and undefined is the answer. */
  private async step(name: ServerStep, request: Omit<ObjectRequest, 'timeoutMs'>): Promise<Timed | undefined> {
    const started = performance.now()
    try {
      const answer = await this.request(request)
      if (answer.status < 300) return { answer, ms: `${(performance.now() - started).toFixed(1)} ms` }
      const refusal: Refusal = refusalOf(answer)
      if (this.denied !== null && name === 'put' && refusal.status === 403) {
        this.findings.set('credentials', this.denied)
        this.findings.delete('region')
        this.findings.delete('bucket')
      } else this.findings.set(name, { name, state: 'fail', value: sayRefusal(refusal), remedy: remedyOf(refusal) })
    } catch (error) {
      this.findings.set(name, unanswered(name, error))
    }
    return undefined
  }

  private async request(request: Omit<ObjectRequest, 'timeoutMs'>): Promise<ObjectResponse> {
    return await this.client.request({ ...request, timeoutMs: STEP_MS_MAX, retries: 1 })
  }
}

interface Timed { readonly answer: ObjectResponse; readonly ms: string }

function unanswered(name: string, error: unknown): Finding {
  const { code, message } = error as NodeJS.ErrnoException
  return { name, state: 'fail', value: code === 'ETIMEDOUT' ? `no answer within ${STEP_MS_MAX / 1000} s` : `no answer: ${oneLine(message)}`, remedy: 'look at the server, and at what is on the way' }
}

function oneLine(text: string): string { return text.replace(/[\p{Cc}\p{Cf}\s]+/gu, ' ').trim().slice(0, 300) }
