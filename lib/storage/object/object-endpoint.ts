import { isIP } from 'node:net'
import type { NixlBackendConfig } from '../../config/nixl-backend-config.js'
import { HiCacheError, describe } from '../../error.js'
import type { ObjectEndpoint } from '../../transfer/native-binding.js'

/** Why object storage cannot be used, and what to do about it. */
export interface Unusable { readonly reason: string; readonly remedy: string }

export interface EndpointPlan {
  /** Where the objects are; all but the credentials. */
  readonly endpoint: Omit<ObjectEndpoint, 'credentials'>
  /** For people: `s3://bucket/prefix at http://host:9000`. */
  readonly name: string
}

const REGION_DEFAULT = 'us-east-1'
/** Without throughput_target_gbps. */
const CONNECTIONS_DEFAULT = 64
const CONNECTIONS_MIN = 4
const CONNECTIONS_MAX = 512
/** MB a second that one connection to S3 carries, by AWS's own guidance. */
const CONNECTION_MB_PER_SECOND = 85
/** A host name of TLS and DNS; other bucket names, of old or of other servers, stand in the path. */
const DNS_NAME = /^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$/

/** Connections that a throughput asks for, of the whole cache. */
export function connectionsFor(gigabitsPerSecond: number | undefined): number {
  if (gigabitsPerSecond === undefined) return CONNECTIONS_DEFAULT
  return Math.min(CONNECTIONS_MAX, Math.max(CONNECTIONS_MIN, Math.ceil(gigabitsPerSecond * 125 / CONNECTION_MB_PER_SECOND)))
}

/** What a configuration says about where objects are. `agents`: those of the cache share its connections. Touches no network. */
export function planEndpoint(config: NixlBackendConfig, agents: number): EndpointPlan | Unusable {
  const {
    bucket = '', region: regionGiven = '', endpoint_override = '', scheme = 'http', ca_bundle = '', use_virtual_addressing = true, num_threads = 4, req_checksum, resp_checksum, crtMinLimit,
    throughput_target_gbps
  } = config.section('obj')
  const region = regionGiven.trim() === '' ? REGION_DEFAULT : regionGiven.trim()
  if (bucket === '') return { reason: 'no bucket is configured', remedy: 'set plugin.obj.bucket or AWS_DEFAULT_BUCKET' }
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$/.test(bucket)) {
    return { reason: `plugin.obj.bucket is ${describe(bucket)}, which is no name of a bucket`, remedy: 'give the name alone: letters, digits, ".", "_" and "-"' }
  }
  if (!/^[A-Za-z0-9-]+$/.test(region)) return { reason: `plugin.obj.region is ${describe(region)}, which is no name of a region`, remedy: 'give a name like us-east-1' }
  const url = urlOf(endpoint_override.trim(), scheme, config.sections.get('obj')?.keys.includes('scheme') === true, region)
  if (!(url instanceof URL)) return url
  let proxy: string
  try {
    proxy = config.proxyFor(url)
  } catch (error) {
    if (!HiCacheError.is(error)) throw error
    return { reason: error.message, remedy: 'correct the variable, or object_proxy' }
  }
  const connections = Math.max(1, Math.ceil(connectionsFor(throughput_target_gbps) / agents))
  const endpoint = `${url.protocol}//${url.host}`
  return {
    endpoint: {
      endpoint, region, bucket, proxy, connections,
      virtualAddressing: use_virtual_addressing && canBeHost(bucket, url),
      threads: Math.min(num_threads, connections),
      signPayload: config.options.objectSignPayload,
      sendChecksum: req_checksum === 'supported',
      askChecksum: resp_checksum === 'supported',
      ...(ca_bundle === '' ? {} : { caBundle: ca_bundle }),
      ...(crtMinLimit === undefined ? {} : { multipartBytes: crtMinLimit === 0 ? Number.MAX_SAFE_INTEGER : crtMinLimit }),
    },
    name: `s3://${bucket}/${config.options.objectPrefix} at ${endpoint}`
  }
}

/** @param chosen somebody set the scheme: it is not the default. */
function urlOf(override: string, scheme: 'http' | 'https', chosen: boolean, region: string): URL | Unusable {
  // Nobody means to send pages and signatures to AWS in the clear by leaving a key out.
  if (override === '') return new URL(`${chosen ? scheme : 'https'}://s3.${region}.amazonaws.com${region.startsWith('cn-') ? '.cn' : ''}`)
  const remedy = 'give host, host:port, or http:// or https:// before it'
  const text = override.includes('://') ? override : `${scheme}://${override}`
  const url = URL.canParse(text) ? new URL(text) : null
  // What an @ hides is refused when the configuration is read; here it would only show.
  if (url === null || !/^https?:$/.test(url.protocol) || url.hostname === '' || url.username !== '' || url.password !== '') {
    return { reason: `plugin.obj.endpoint_override is ${override.includes('@') ? 'a text with an @ (which is not shown)' : describe(override)}, which is no address of a server`, remedy }
  }
  if (url.pathname !== '/' || url.search !== '' || url.hash !== '') return { reason: `plugin.obj.endpoint_override is ${describe(override)}, which has more than a host and a port`, remedy }
  return url
}

function canBeHost(bucket: string, url: URL): boolean {
  const host = url.hostname.replace(/^\[|\]$/g, '')
  if (isIP(host) !== 0 || !host.includes('.')) return false
  if (!DNS_NAME.test(bucket) || bucket.length > 63 || bucket.includes('..')) return false
  // A certificate's wildcard stands for one label only.
  return url.protocol === 'http:' || !bucket.includes('.')
}
