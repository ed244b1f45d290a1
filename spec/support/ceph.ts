import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { CreateBucketCommand, type S3Client, type S3ClientConfig } from '@aws-sdk/client-s3'
import { AssumeRoleCommand, STSClient } from '@aws-sdk/client-sts'
import { sdkClient, type S3Account } from './aws-sdk.js'
import { bounded, skipUnlessCi } from './planned-faults.js'

/** Not compiled, and so not copied: it lies in the sources, three folders above dist/spec/support. */
const START = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..', 'spec', 'support', 'ceph-start.sh')
const PROGRAMS = ['ceph', 'ceph-authtool', 'ceph-mon', 'ceph-osd', 'monmaptool', 'radosgw', 'radosgw-admin', 'setpriv']
const INSTALL = 'apt-get install -y --no-install-recommends ceph-mon ceph-osd radosgw ceph-common'
/** Any will do: this radosgw does not look at the region that a request was signed for. */
const REGION = 'us-east-1'

export interface Keys { readonly accessKey: string; readonly secretKey: string }
export interface TemporaryKeys extends Keys { readonly sessionToken: string; readonly expiration: Date }

/** A real Ceph radosgw of this process: one monitor, one OSD in memory, on loopback. */
export class Radosgw implements S3Account {
  readonly host = '127.0.0.1'
  readonly port: number
  /** Addressed as `s3.localhost` (`rgw_dns_name`) it takes the host's first label for a bucket. */
  readonly endpoint: string
  readonly region = REGION
  readonly accessKey: string
  readonly secretKey: string
  readonly #conf: string
  #main: S3Client | undefined
  #clients: S3Client[] = []

  constructor(port: number, conf: string, { accessKey, secretKey }: Keys) {
    this.port = port
    this.endpoint = `http://${this.host}:${port}`
    this.#conf = conf
    this.accessKey = accessKey
    this.secretKey = secretKey
  }

  /** A client of the AWS SDK, closed at the end: the main user's, or that of other keys. */
  client(keys: Keys & { readonly sessionToken?: string } = this, config: S3ClientConfig = {}): S3Client {
    const client = sdkClient({ endpoint: this.endpoint, region: this.region, ...keys }, config)
    this.#clients.push(client)
    return client
  }

  /** A new bucket of the main user's. Answers its name, which begins with `name`. */
  async bucket(name = 'spec'): Promise<string> {
    const bucket = `${name}-${randomBytes(6).toString('hex')}`
    await (this.#main ??= this.client()).send(new CreateBucketCommand({ Bucket: bucket }))
    return bucket
  }

  /** Removes a bucket with all that is in it: objects take memory as long as they are there. */
  async removeBucket(bucket: string): Promise<void> { await this.#admin('bucket', 'rm', `--bucket=${bucket}`, '--purge-objects', '--bypass-gc') }

  /** Another user, who may make buckets of his own and is let into nobody else's. */
  async user(name = 'guest'): Promise<Keys> { return await makeUser(this.#conf, `${name}-${randomBytes(6).toString('hex')}`) }

  /** Temporary keys of a role that may do everything, from 1 s to 12 h. Without their session token, or later, they are refused. */
  async stsAssumeRole(durationSeconds = 3600): Promise<TemporaryKeys> {
    const sts = new STSClient({ endpoint: this.endpoint, region: this.region, credentials: { accessKeyId: this.accessKey, secretAccessKey: this.secretKey } })
    try {
      const command = new AssumeRoleCommand({ RoleArn: `arn:aws:iam:::role/${ROLE}`, RoleSessionName: 'spec', DurationSeconds: durationSeconds })
      const { Credentials: keys } = await sts.send(command)
      return { accessKey: keys!.AccessKeyId!, secretKey: keys!.SecretAccessKey!, sessionToken: keys!.SessionToken!, expiration: keys!.Expiration! }
    } finally {
      sts.destroy()
    }
  }

  async #admin(...words: readonly string[]): Promise<void> { await admin(this.#conf, ...words) }

  /** Lets go of the clients' connections. */
  close(): void {
    for (const client of this.#clients) client.destroy()
    this.#clients = []
    this.#main = undefined
  }
}

const ROLE = 'spec'
const MAIN_USER = 'spec'

async function admin(conf: string, ...words: readonly string[]): Promise<string> {
  return (await promisify(execFile)('radosgw-admin', [...words, '--conf', conf], { maxBuffer: 2 ** 24 })).stdout
}

async function makeUser(conf: string, uid: string): Promise<Keys> {
  const made = await admin(conf, 'user', 'create', `--uid=${uid}`, `--display-name=${uid}`)
  const { access_key: accessKey, secret_key: secretKey } = (JSON.parse(made) as { keys: [{ access_key: string; secret_key: string }] }).keys[0]
  return { accessKey, secretKey }
}

async function makeRole(conf: string): Promise<void> {
  const policy = (statement: object): string => JSON.stringify({ Version: '2012-10-17', Statement: [{ Effect: 'Allow', ...statement }] })
  await admin(conf, 'role', 'create', `--role-name=${ROLE}`, '--path=/',
    `--assume-role-policy-doc=${policy({ Principal: { AWS: [`arn:aws:iam:::user/${MAIN_USER}`] }, Action: ['sts:AssumeRole'] })}`)
  const everything = policy({ Action: ['s3:*'], Resource: ['arn:aws:s3:::*'] })
  await admin(conf, 'role-policy', 'put', `--role-name=${ROLE}`, '--policy-name=all', `--policy-doc=${everything}`)
}

/** Ports that nobody listens on, below those that the system gives to outgoing connections. */
async function freePorts(count: number): Promise<number[]> {
  const ports = new Set<number>()
  while (ports.size < count) {
    const port = 11_000 + Math.floor(Math.random() * 20_000)
    const server = createServer()
    const free = await new Promise<boolean>(resolve => server.once('error', () => { resolve(false) }).listen(port, '127.0.0.1', () => { resolve(true) }))
    if (!free) continue
    await new Promise(resolve => server.close(resolve))
    ports.add(port)
  }
  return [...ports]
}

/** Programs of Ceph that this machine lacks. */
function missingPrograms(): string[] {
  const folders = (process.env.PATH ?? '').split(delimiter)
  return PROGRAMS.filter(program => !folders.some(folder => existsSync(join(folder, program))))
}

let started: Promise<Radosgw> | undefined
let script: ChildProcess | undefined

/**
 * The radosgw of this process: started by the first who asks (2 s on a free machine; 140 MB of memory, and about twice what is stored), shared by all, gone when
 * the process ends.
 */
export function radosgw(): Promise<Radosgw> { return started ??= start() }

async function start(): Promise<Radosgw> {
  const missing = missingPrograms()
  if (missing.length > 0) throw new Error(`There is no ${missing.join(', no ')} here: ${INSTALL}`)
  const directory = await mkdtemp(join(tmpdir(), 'hicache-ceph-'))
  const conf = join(directory, 'ceph.conf')
  const [monitorPort, port] = await freePorts(2) as [number, number]
  // A session of its own: an interrupt at the terminal is for mocha. Its standard input ends with this process, whatever ends that, and then it clears
  // everything away.
  const child = spawn('bash', [START, directory, String(monitorPort), String(port)], { detached: true, stdio: ['pipe', 'pipe', 'pipe'] })
  script = child
  let said = ''
  let complaint = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => { said += text })
  child.stderr.setEncoding('utf8').on('data', (text: string) => { complaint += text })
  const ready = new Promise<void>((resolve, reject) => {
    child.stdout.on('data', () => { if (said.includes('ready\n')) resolve() })
    child.once('error', reject)
    child.once('close', (code, signal) => { reject(new Error(`Ceph's start ended: ${signal ?? `exit code ${code}`}. ${complaint.trim()}`)) })
  })
  try {
    await bounded(ready, 'the start of Ceph', 90_000)
    const keys = await makeUser(conf, MAIN_USER)
    await makeRole(conf)
    // Only its clients keep the process; the script is no reason to stay.
    child.unref()
    for (const stream of [child.stdin, child.stdout, child.stderr]) (stream as unknown as { unref(): void }).unref()
    return new Radosgw(port, conf, keys)
  } catch (error) {
    await stop()
    throw error
  } finally {
    // Also where bash itself could not be started.
    if (child.pid === undefined) await rm(directory, { recursive: true, force: true })
  }
}

async function stop(): Promise<void> {
  const child = script
  script = undefined
  if (child?.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  child.ref()
  child.stdin!.end()
  await once(child, 'exit')
}

// A root hook, where mocha loads this. Without it the end of standard input ends Ceph just as well; with it mocha's end is the end. In a process of `mocha --parallel` such
// a hook runs after each file, and the server is for all of them.
if (typeof after === 'function' && process.env['MOCHA_WORKER_ID'] === undefined) {
  after(async function () {
    this.timeout(60_000)
    const server = await started?.catch(() => undefined)
    server?.close()
    await stop()
  })
}

/**
 * describe() of what needs the real radosgw. `gateway()` is it, from the first hook on. Where Ceph is not installed the suite is pending and says how to install
 * it; with CI=true it fails. A radosgw that does not start is a failure everywhere.
 */
export function describeRadosgw(title: string, suite: (gateway: () => Radosgw) => void): void {
  describe(`${title}, on a real radosgw`, () => {
    let server: Radosgw | undefined
    before(async function () {
      this.timeout(120_000)
      if (missingPrograms().length > 0) skipUnlessCi(this, `the specs on a real Ceph radosgw, which is not installed: ${INSTALL}`)
      server = await radosgw()
    })
    suite(() => {
      if (server === undefined) throw new Error('The radosgw is there from the first hook on, not while specs are declared.')
      return server
    })
  })
}
