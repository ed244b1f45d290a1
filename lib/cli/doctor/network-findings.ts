import { lookup } from 'node:dns/promises'
import { readFile } from 'node:fs/promises'
import { connect as connectTcp, isIP, type Socket } from 'node:net'
import { connect as connectTls, type PeerCertificate, type TLSSocket } from 'node:tls'
import { formatTime } from '../format.js'
import type { Finding } from './finding.js'

/** Of one step: a server that does not answer must not hang the doctor. */
export const STEP_MS_MAX = 5000

/** Where libcurl looks for the system's authorities. Node has a list of its own, which says nothing about what libcurl will trust. */
const SYSTEM_BUNDLES = ['/etc/ssl/certs/ca-certificates.crt', '/etc/pki/tls/certs/ca-bundle.crt', '/etc/ssl/ca-bundle.pem', '/etc/ssl/cert.pem'] as const

export interface NetworkPlan {
  /** Without brackets. */
  readonly host: string
  readonly port: number
  readonly tls: boolean
  /** The requests go through this proxy, which is then what is looked up and connected to: `http://host:port`. */
  readonly proxy: string
  readonly caBundle: string | undefined
}

/** Name resolution, the connection and TLS, as far as one gets without a request. What could not be tried says why. */
export async function networkFindings(plan: NetworkPlan): Promise<Finding[]> {
  const proxy = plan.proxy === '' ? undefined : new URL(plan.proxy)
  const host = (proxy?.hostname ?? plan.host).replace(/^\[|\]$/g, '')
  const port = proxy === undefined ? plan.port : Number(proxy.port === '' ? proxy.protocol === 'https:' ? 443 : proxy.protocol === 'http:' ? 80 : 1080 : proxy.port)
  const { finding: name, addresses } = await resolved(host, proxy === undefined ? '' : `the proxy ${host}: `)
  if (addresses.length === 0) return [name, notTried('connection', name.name), ...plan.tls ? [notTried('TLS', name.name)] : []]
  const { finding: connection, socket } = await connected(addresses, port)
  if (socket === undefined) return [name, connection, ...plan.tls ? [notTried('TLS', connection.name)] : []]
  if (!plan.tls || proxy !== undefined) {
    socket.destroy()
    return [name, connection, ...plan.tls ? [{ name: 'TLS', state: 'info' as const, value: 'through the proxy: tried with the first request', remedy: '' }] : []]
  }
  return [name, connection, await secured(socket, plan)]
}

export function notTried(name: string, because: string): Finding { return { name, state: 'info', value: `not tried: ${because} failed`, remedy: '' } }

async function resolved(host: string, prefix: string): Promise<{ finding: Finding; addresses: readonly string[] }> {
  const name = 'name resolution'
  if (isIP(host) !== 0) return { finding: { name, state: 'ok', value: `${prefix}${host} is an address`, remedy: '' }, addresses: [host] }
  // libcurl never asks for these names, whatever DNS says.
  if (host === 'localhost' || host.endsWith('.localhost')) {
    return { finding: { name, state: 'ok', value: `${prefix}${host} is this machine: names below localhost are not looked up`, remedy: '' }, addresses: ['127.0.0.1', '::1'] }
  }
  try {
    const found = (await within(lookup(host, { all: true }))).map(({ address }) => address)
    return { finding: { name, state: 'ok', value: `${prefix}${host} is ${found.slice(0, 4).join(', ')}${found.length > 4 ? ', ...' : ''}`, remedy: '' }, addresses: found }
  } catch (error) {
    const remedy = prefix === '' ? 'correct plugin.obj.endpoint_override, or the DNS; where only the bucket\'s own name is not known, set use_virtual_addressing = false' : 'correct object_proxy, or the DNS'
    return { finding: { name, state: 'fail', value: `${prefix}${host} is not known: ${reasonOf(error)}`, remedy }, addresses: [] }
  }
}

async function connected(addresses: readonly string[], port: number): Promise<{ finding: Finding; socket?: Socket }> {
  const name = 'connection'
  const started = performance.now()
  let failure = ''
  // One after the other, all within the time of the step.
  for (const host of addresses.slice(0, 4)) {
    const left = STEP_MS_MAX - (performance.now() - started)
    if (left <= 0) break
    const socket = connectTcp({ host, port })
    try {
      await within(new Promise<void>((resolve, reject) => { socket.once('connect', resolve).once('error', reject) }), left)
      const shown = isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`
      return { finding: { name, state: 'ok', value: `${shown} in ${(performance.now() - started).toFixed(1)} ms`, remedy: '' }, socket }
    } catch (error) {
      socket.destroy()
      // What comes after is of no interest.
      socket.on('error', () => { /* see above */ })
      failure ||= `${host} port ${port}: ${reasonOf(error)}`
    }
  }
  return { finding: { name, state: 'fail', value: failure, remedy: 'is the server up? Correct host and port of plugin.obj.endpoint_override, or the firewall on the way' } }
}

async function secured(socket: Socket, { host, caBundle }: NetworkPlan): Promise<Finding> {
  const name = 'TLS'
  let trusted: { readonly ca: Buffer | undefined; readonly from: string }
  try {
    trusted = await authorities(caBundle)
  } catch (error) {
    socket.destroy()
    return { name, state: 'fail', value: `ca_bundle ${caBundle!} cannot be read: ${reasonOf(error)}`, remedy: 'correct plugin.obj.ca_bundle or AWS_CA_BUNDLE' }
  }
  let secure: TLSSocket | undefined
  try {
    // Let in whatever it is, so that its certificate can be told about.
    secure = connectTls({ socket, host, rejectUnauthorized: false, ...(isIP(host) === 0 ? { servername: host } : {}), ...(trusted.ca === undefined ? {} : { ca: trusted.ca }) })
    const handshake = secure
    await within(new Promise<void>((resolve, reject) => { handshake.once('secureConnect', resolve).once('error', reject) }))
    const certificate = secure.getPeerCertificate()
    if (secure.authorized) {
      const until = new Date(certificate.valid_to)
      return { name, state: 'ok', value: `${secure.getProtocol() ?? 'TLS'}, certificate of ${oneLine(certificate.issuer?.CN) || 'an unnamed authority'} until ${formatTime(until)}, trusted by ${trusted.from}`, remedy: '' }
    }
    return refusedCertificate(errorCode(secure.authorizationError), certificate, host, trusted.from)
  } catch (error) {
    return { name, state: 'fail', value: `the handshake failed: ${reasonOf(error)}`, remedy: 'does the server speak TLS on this port? Else set plugin.obj.scheme = "http"' }
  } finally {
    secure?.on('error', () => { /* It is over. */ }).destroy()
    socket.destroy()
  }
}

function refusedCertificate(code: string, certificate: PeerCertificate, host: string, from: string): Finding {
  const fail = (value: string, remedy: string): Finding => ({ name: 'TLS', state: 'fail', value, remedy })
  const issuer = oneLine(certificate.issuer?.CN) || 'an unnamed authority'
  switch (code) {
    case 'ERR_TLS_CERT_ALTNAME_INVALID': case 'HOSTNAME_MISMATCH':
      return fail(`the certificate is not for ${host}: it is for ${oneLine(certificate.subjectaltname) || oneLine(certificate.subject?.CN) || 'no name'}`,
        'use a name that it is for in plugin.obj.endpoint_override; where only the bucket\'s own name is missing, set use_virtual_addressing = false')
    case 'CERT_HAS_EXPIRED': return fail(`the certificate expired on ${formatTime(new Date(certificate.valid_to))}`, 'renew the server\'s certificate; or is this machine\'s clock wrong?')
    case 'CERT_NOT_YET_VALID': return fail(`the certificate is valid from ${formatTime(new Date(certificate.valid_from))} only`, 'is this machine\'s clock wrong? Synchronise it (NTP)')
    case 'DEPTH_ZERO_SELF_SIGNED_CERT':
      return fail('the certificate is self-signed', 'give it to plugin.obj.ca_bundle as a PEM file, or have an authority sign it')
    case 'SELF_SIGNED_CERT_IN_CHAIN': case 'UNABLE_TO_GET_ISSUER_CERT': case 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY': case 'UNABLE_TO_VERIFY_LEAF_SIGNATURE':
      return fail(`the certificate is signed by ${issuer}, which ${from} does not trust`, 'give that authority\'s certificate to plugin.obj.ca_bundle as a PEM file')
    default: return fail(`the certificate is refused: ${code}`, 'look at the server\'s certificate (openssl s_client -connect), or give another plugin.obj.ca_bundle')
  }
}

async function authorities(caBundle: string | undefined): Promise<{ ca: Buffer | undefined; from: string }> {
  if (caBundle !== undefined) return { ca: await readFile(caBundle), from: `ca_bundle ${caBundle}` }
  for (const path of SYSTEM_BUNDLES) {
    const ca = await readFile(path).catch(() => undefined)
    if (ca !== undefined) return { ca, from: `the system (${path})` }
  }
  return { ca: undefined, from: 'Node (the system has no list of authorities where libcurl looks)' }
}

/** Rejects when it takes longer than a step may. */
export async function within<T>(work: Promise<T>, milliseconds: number = STEP_MS_MAX): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  try {
    return await Promise.race([work, new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer within ${(milliseconds / 1000).toFixed(1)} s`)), milliseconds)
    })])
  } finally {
    clearTimeout(timer)
    // The loser of the race must not become an unhandled rejection.
    work.catch(() => { /* It lost. */ })
  }
}

function errorCode(error: unknown): string { return typeof error === 'string' ? error : (error as NodeJS.ErrnoException | undefined)?.code ?? String(error) }

function reasonOf(error: unknown): string {
  // OpenSSL's messages are for its authors; `reason` is the part in words.
  const { code, message, reason } = error as NodeJS.ErrnoException & { reason?: string }
  if (typeof reason === 'string') return oneLine(reason)
  return oneLine(code === undefined || message.includes(code) ? message : `${code}: ${message}`)
}

/** Names in a certificate are a stranger's text. */
function oneLine(text: string | string[] | undefined): string { return [text ?? ''].flat().join(', ').replace(/[\p{Cc}\p{Cf}\s]+/gu, ' ').trim().slice(0, 200) }
