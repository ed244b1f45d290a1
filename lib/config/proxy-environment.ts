import { isIP } from 'node:net'

/** The variables that name proxies, in the order in which they are asked, by protocol. HTTP_PROXY in capitals is not: a request's header could set it in a CGI program. */
const VARIABLES: Readonly<Record<string, readonly string[]>> = {
  'http:': ['http_proxy', 'all_proxy', 'ALL_PROXY'],
  'https:': ['https_proxy', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY'],
}

/** The variable that names a proxy for `url`, and what it says; null where there is none, or no_proxy excepts the host. An empty variable counts as not set. */
export function proxyOfEnvironment(env: NodeJS.ProcessEnv, url: URL): { readonly variable: string; readonly proxy: string } | null {
  const given = (name: string): string => Object.hasOwn(env, name) ? env[name]?.trim() ?? '' : ''
  const variable = VARIABLES[url.protocol]?.find((name) => given(name) !== '')
  if (variable === undefined) return null
  const exceptions = given('no_proxy') === '' ? given('NO_PROXY') : given('no_proxy')
  if (isExcepted(exceptions, url)) return null
  const proxy = given(variable)
  return { variable, proxy: proxy.includes('://') ? proxy : `http://${proxy}` }
}

/** A list of hosts: `example.com` and `.example.com` stand for the domain and all below it, `*` for every host; a port may follow. */
function isExcepted(exceptions: string, url: URL): boolean {
  const host = url.hostname.replace(/^\[|\]$/g, '').toLowerCase()
  const port = url.port === '' ? url.protocol === 'https:' ? '443' : '80' : url.port
  return exceptions.split(/[\s,]+/).some((entry) => {
    if (entry === '') return false
    if (entry === '*') return true
    const [, name, only] = /^(.*?)(?::(\d+))?$/.exec(isIP(entry) === 6 ? `[${entry}]` : entry)!
    if (only !== undefined && only !== port) return false
    const domain = name!.replace(/^\[|\]$/g, '').replace(/^\*?\./, '').toLowerCase()
    return host === domain || (isIP(host) === 0 && host.endsWith(`.${domain}`))
  })
}
