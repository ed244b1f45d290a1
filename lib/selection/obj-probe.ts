import type { NixlBackendConfig } from '../config/nixl-backend-config.js'
import { HiCacheError } from '../error.js'
import { ObjectBucket, type BucketOptions } from '../storage/object/object-bucket.js'
import { planEndpoint } from '../storage/object/object-endpoint.js'
import { refusalOf, remedyOf, sayRefusal } from '../storage/object/object-refusal.js'
import type { NativeAddon, ObjectResponse } from '../transfer/native-binding.js'
import type { PluginProbe, ProbeResult } from './plugin-probe.js'

/** How long the server may take: whoever opens a cache waits for it. */
const ANSWER_MS_MAX = 3000
const ENGINE = 'libcurl'

/** What of libcurl's codes is no matter of patience: wrong addresses and protocols, files and certificates that are not trusted. */
const HOPELESS: Readonly<Record<number, string>> = {
  1: 'correct scheme or endpoint_override: this libcurl does not speak the protocol',
  3: 'correct plugin.obj.endpoint_override',
  35: 'the server does not speak TLS here as this libcurl does: is scheme right for the port?',
  58: 'correct the certificate that the endpoint asks for',
  60: 'name the authority that signed the server\'s certificate by plugin.obj.ca_bundle or AWS_CA_BUNDLE, and see that the certificate is of that host',
  77: 'plugin.obj.ca_bundle (or AWS_CA_BUNDLE) names no readable file of authorities in PEM form'
}
const PATIENCE: Readonly<Record<number, string>> = {
  5: 'see that object_proxy names a proxy that resolves',
  6: 'see that the name resolves; where only the endpoint itself does, and not the bucket\'s name before it, set plugin.obj.use_virtual_addressing = false',
  7: 'see that the server runs, and that nothing on the way forbids the connection',
  28: 'see that the server runs, and that nothing on the way forbids the connection'
}

/** Asks for the bucket, where there is one to ask for. */
export class ObjProbe implements PluginProbe {
  readonly name = 'obj'
  readonly #addon: Partial<Pick<NativeAddon, 'objects'>>
  readonly #options: BucketOptions

  constructor(addon: Partial<Pick<NativeAddon, 'objects'>>, options: BucketOptions = {}) {
    this.#addon = addon
    this.#options = options
  }

  async probe(config: NixlBackendConfig): Promise<ProbeResult> {
    const { objects } = this.#addon
    const asked = config.active('obj') === true || config.selector.plugin === 'obj'
    // Variables of AWS are there for many reasons. They alone send nobody into the network, and make no cache wait for it.
    if (!asked && !config.sections.has('obj')) return { usable: false, reason: 'nobody asks for it: there is no section plugin.obj', remedy: 'set plugin.obj.bucket and plugin.obj.active = true' }
    if (config.active('obj') === false) return { usable: false, reason: 'plugin.obj.active = false switches it off', remedy: 'remove plugin.obj.active = false' }
    if (objects === undefined) return { usable: false, reason: 'the native addon does not have it', remedy: 'build the native addon again' }
    const plan = planEndpoint(config, 1)
    if ('reason' in plan) return { usable: false, ...plan }
    const bucket = await ObjectBucket.open(config, objects, this.#options)
    if ('reason' in bucket) return { usable: false, ...bucket }
    const details = { endpoint: plan.endpoint.endpoint, bucket: plan.endpoint.bucket, region: plan.endpoint.region, virtualAddressing: plan.endpoint.virtualAddressing }
    try {
      return { ...await answerOf(bucket, asked), details }
    } finally {
      bucket.close()
    }
  }
}

async function answerOf(bucket: ObjectBucket, asked: boolean): Promise<ProbeResult> {
  const silent = (what: string, remedy: string): ProbeResult => {
    const reason = `${bucket.name} does not answer: ${what}`
    // A cache that is down is a miss: no reason not to start, where there is no other plugin to take.
    return asked ? { usable: true, engine: ENGINE, reason, remedy: '', warnings: [`${reason} (${remedy}). Its pages are misses until it does.`] } : { usable: false, reason, remedy }
  }
  let response: ObjectResponse
  try {
    response = await bucket.client.request({ method: 'HEAD', key: '', timeoutMs: ANSWER_MS_MAX, retries: 1 })
    // HEAD has no body to say why.
    if (response.status >= 300 && response.status < 500) {
      const said = await bucket.client.request({ method: 'GET', key: '', query: { 'list-type': '2', 'max-keys': '1' }, timeoutMs: ANSWER_MS_MAX, retries: 1 })
      // It may be no refusal any more: of a clock that is wrong only an answer with a body tells, and then it is mended.
      response = { ...said, headers: { ...response.headers, ...said.headers } }
    }
  } catch (error) {
    if (HiCacheError.is(error)) throw error
    const { message, curl } = error as Error & { curl?: number }
    const text = message.replace(/\.$/, '')
    const hopeless = curl === undefined ? undefined : HOPELESS[curl]
    if (hopeless !== undefined) return { usable: false, reason: `${bucket.name} cannot be talked to: ${text}`, remedy: hopeless }
    return silent(text, (curl === undefined ? undefined : PATIENCE[curl]) ?? PATIENCE[7]!)
  }
  const { status } = response
  if (status >= 200 && status < 300) return { usable: true, engine: ENGINE, reason: `${bucket.name} answers`, remedy: '' }
  const refusal = refusalOf(response)
  if (status >= 500 || status === 429) return silent(`it says ${sayRefusal(refusal)}`, 'ask its operator, or wait')
  const remedy = remedyOf(status === 404 ? { ...refusal, code: 'NoSuchBucket' } : refusal)
  return { usable: false, reason: `${bucket.name} refuses: ${sayRefusal(refusal)}`, remedy: remedy === '' ? 'run hicache-nixl doctor' : remedy }
}
