import { expect } from 'chai'
import { ListObjectsV2Command } from '@aws-sdk/client-s3'
import { captureCli } from '../support/captured-cli.js'
import { describeRadosgw } from '../support/ceph.js'

type Entry = Record<string, unknown>
interface BenchJson { machine: Entry; runs: Entry[]; peers: Entry[]; leftOut: Entry[] }

const PEERS = ['cpp-curl', 'undici', 'aws-sdk']

describeRadosgw('bench on an object store', gateway => {
  let bucket: string
  before(async () => { bucket = await gateway().bucket('bench') })
  after(async () => { await gateway().removeBucket(bucket) })

  const env = (): NodeJS.ProcessEnv => {
    const { endpoint, accessKey, secretKey } = gateway()
    return { AWS_ENDPOINT_OVERRIDE: endpoint, AWS_DEFAULT_BUCKET: bucket, AWS_ACCESS_KEY_ID: accessKey, AWS_SECRET_ACCESS_KEY: secretKey }
  }

  async function bench(...args: string[]): Promise<{ json: BenchJson; stdout: string; stderr: string }> {
    const { code, stdout, stderr } = await captureCli(['bench', '--plugin', 'obj', '--quick', '--bytes', '2MiB', '--batch', '8', '--in-flight', '1', '--rounds', '1', '--quiet', '--json', ...args], env())
    expect(code, stderr + stdout).to.equal(0)
    return { json: JSON.parse(stdout) as BenchJson, stdout, stderr }
  }

  it('has PUT and GET beside both clients in JavaScript and the C++ loop, and leaves nothing behind', async () => {
    const { json: { machine, runs, peers, leftOut }, stdout, stderr } = await bench('--object-prefix', 'spec/')
    expect(leftOut).to.deep.equal([])
    expect(machine).to.include({ endpoint: gateway().endpoint, bucket })
    expect(runs.map(({ op }) => op)).to.deep.equal(['write', 'read'])
    for (const run of runs) {
      expect(run).to.include({ storageLayout: 'object', engine: 'libcurl', pageBytes: 65536, batch: 8, inFlight: 1, pagesAtOnce: 8, zeroCopy: true, checksum: 'on' })
      for (const figure of ['mibPerSecond', 'cpuSecondsPerGib', 'p50Us', 'p99Us', 'ratioToLimit', 'ratioToBestPeer']) expect(run[figure], figure).to.be.a('number').greaterThan(0)
      expect(run.bestPeer).to.be.oneOf(['undici', 'aws-sdk'])
      expect(run.against).to.have.all.keys(PEERS)
      for (const other of Object.values(run.against as Record<string, Entry>)) expect(other.cpu).to.be.a('number').greaterThan(0)
    }
    expect(peers.map(({ name, op }) => `${String(op)} ${String(name)}`)).to.have.members(['write', 'read'].flatMap(op => PEERS.map(name => `${op} ${name}`)))
    const { KeyCount } = await gateway().client().send(new ListObjectsV2Command({ Bucket: bucket }))
    expect(KeyCount).to.equal(0)
    expect(stdout + stderr).to.not.include(gateway().secretKey)
  })

  it('has single calls beside what they come down to, in ordinary memory too', async () => {
    const { json: { runs, peers } } = await bench('--ops', 'set,get', '--zero-copy', '--copying', '--only', 'hicache,undici')
    expect(runs.map(({ op, zeroCopy }) => `${String(op)} ${String(zeroCopy)}`)).to.deep.equal(['set true', 'set false', 'get true', 'get false'])
    expect(runs.map(({ bestPeer }) => bestPeer)).to.deep.equal(['undici', 'undici', 'undici', 'undici'])
    expect(peers.map(({ name, op }) => `${String(op)} ${String(name)}`)).to.deep.equal(['write undici', 'read undici'])
  })

  it('does not begin with keys that are refused', async () => {
    const { code, stderr } = await captureCli(['bench', '--plugin', 'obj', '--quick', '--bytes', '1MiB', '--quiet', '--json'], { ...env(), AWS_SECRET_ACCESS_KEY: 'wrong' })
    expect(code).to.equal(1)
    expect(stderr).to.match(/^hicache-nixl: ERR_PLUGIN_UNAVAILABLE: /)
  })

  it('refuses what means nothing there', async () => {
    for (const args of [['--layout', 'file'], ['--engine', 'aio'], ['--capacity', '1GiB'], ['--dir', '/nowhere'], ['--ops', 'mix'], ['--only', 'lmdb'], ['--batch', '1024', '--in-flight', '2']]) {
      const { code, stdout, stderr } = await captureCli(['bench', '--plugin', 'obj', ...args], env())
      expect([code, stdout], stderr).to.deep.equal([2, ''])
      expect(stderr).to.include(args[0])
    }
  })

  it('reads as a table', async () => {
    const { code, stdout } = await captureCli(['bench', '--plugin', 'obj', '--quick', '--bytes', '1MiB', '--rounds', '1', '--quiet', '--only', 'hicache,undici'], env())
    expect(code).to.equal(0)
    for (const part of [`bucket ${bucket}`, 'PUT of 64.0 KiB pages', 'GET of 64.0 KiB pages', 'hicache-nixl, zero copy', 'undici, own signing', 'CPU s/GiB']) expect(stdout).to.include(part)
  })
})
