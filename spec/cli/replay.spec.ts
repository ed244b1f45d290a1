import { expect } from 'chai'
import { mkdtemp, open, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { HiCacheNixl } from '../../lib/index.js'
import { LatencySamples } from '../../lib/cli/workload/latency-samples.js'
import { PageContent } from '../../lib/cli/workload/page-content.js'
import { TraceReader } from '../../lib/cli/workload/trace-reader.js'
import { TraceReplay } from '../../lib/cli/workload/trace-replay.js'
import { captureCli } from '../support/captured-cli.js'

const PAGE = 65536
/** Hits by hand: none, 0 1, 0 1 2, none (5 is new, so 1 and 0 behind it do not count). */
const REQUESTS = [[0, 1, 2], [0, 1, 3], [0, 1, 2, 4], [5, 1, 0]]
const REFERENCES = 13
const DISTINCT = 6

interface ReplayJson {
  requests: number; references: number; hits: number; hitRate: number; wrongBytes: number; failures: number
  bytesRead: number; bytesWritten: number; seconds: number; stored: number; alreadyThere: number; evicted: number; policy: string | null; missReasons: Record<string, number>
  latencyUs: Record<'lookup' | 'read' | 'write', { p50: number | null; p99: number | null; max: number | null }>
}

describe('replay', () => {
  let folder: string
  let trace: string
  const store = (): string => join(folder, 'store')

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'replay-spec-'))
    trace = await traceOf(REQUESTS)
  })
  afterEach(async () => await rm(folder, { recursive: true, force: true }))

  async function traceOf(requests: readonly (readonly number[])[], name = 'trace.jsonl'): Promise<string> {
    const file = join(folder, name)
    await writeFile(file, requests.map((ids, index) => JSON.stringify({ timestamp: index, input_length: ids.length * 512, output_length: 1, hash_ids: ids }) + '\n').join(''))
    return file
  }

  async function replay(...args: string[]): Promise<ReplayJson & { code: number }> {
    const { code, stdout, stderr } = await captureCli(['replay', ...args, ...args.includes('--storage-layout') ? [] : ['--storage-layout', 'file'], '--json', '--quiet'])
    expect(stdout, stderr).not.to.equal('')
    return { code, ...JSON.parse(stdout) as ReplayJson }
  }

  async function openStore(): Promise<HiCacheNixl> {
    return await HiCacheNixl.open({ storageDir: store(), storageLayout: 'file', modelName: 'replay', arenaBytes: 32 * 2 ** 20, workers: 1, env: {} })
  }

  for (const inFlight of ['1', '4', '16']) {
    it(`counts hits as the trace has them with ${inFlight} requests in flight`, async () => {
      const result = await replay(trace, '--dir', store(), '--in-flight', inFlight, '--workers', '1')
      expect(result).to.include({
        code: 0, requests: 4, references: REFERENCES, hits: 5, hitRate: 5 / REFERENCES, wrongBytes: 0, failures: 0,
        bytesRead: 5 * PAGE, bytesWritten: DISTINCT * PAGE, stored: DISTINCT, alreadyThere: 2,
      })
      expect(result.seconds).to.be.greaterThan(0)
      for (const call of ['lookup', 'read', 'write'] as const) {
        expect(result.latencyUs[call]).to.have.all.keys('p50', 'p99', 'max')
        expect(result.latencyUs[call].max).to.be.at.least(result.latencyUs[call].p50!)
      }
    })
  }

  it('has the same hits with many dependent requests at once as one after the other', async () => {
    let state = 1
    const below = (limit: number): number => {
      state = Math.imul(state, 1103515245) + 12345 >>> 0
      return (state >>> 8) % limit
    }
    // Few conversations that all grow from few beginnings: nearly every request waits for another one.
    const conversations = Array.from({ length: 6 }, (_, index) => [0, 1 + index % 2])
    let next = 10
    const requests = Array.from({ length: 60 }, () => {
      const conversation = conversations[below(6)]!
      conversation.push(next++)
      return [...conversation]
    })
    const file = await traceOf(requests, 'busy.jsonl')
    const ideal = await replay(file, '--simulate')
    const played = await replay(file, '--dir', store(), '--page-bytes', '4096', '--in-flight', '16', '--workers', '2')
    expect(ideal.hits).to.be.greaterThan(0)
    expect(played).to.include({ code: 0, hits: ideal.hits, references: ideal.references, wrongBytes: 0, failures: 0 })
  })

  it('finds everything again in the directory that an earlier replay kept', async () => {
    await replay(trace, '--dir', store(), '--keep', '--workers', '1')
    const again = await replay(trace, '--dir', store(), '--workers', '1')
    expect(again).to.include({ code: 0, hits: REFERENCES, hitRate: 1, stored: 0, wrongBytes: 0 })
  })

  it('counts every wrong byte of a page that the cache takes for good, and ends with 1', async () => {
    await replay(trace, '--dir', store(), '--keep', '--workers', '1')
    const bytes = new Uint8Array(PAGE)
    new PageContent(PAGE).fill(bytes, 1)
    for (const place of [0, 100, 4096, PAGE - 1]) bytes[place]! ^= 0xff
    const cache = await openStore()
    try {
      const [outcome] = await cache.write([[TraceReplay.key(1), { dtype: 'uint8', shape: [PAGE], data: bytes }]])
      expect(outcome).to.include({ ok: true, status: 'stored' })
    } finally {
      await cache.close()
    }
    const again = await replay(trace, '--dir', store(), '--limit', '1', '--keep', '--workers', '1')
    // The page is not a hit, nor is the one behind it; the one before it is.
    expect(again).to.include({ code: 1, wrongBytes: 4, failures: 0, hits: 1 })
  })

  it('reports a page whose bytes changed on the disk as a corrupt miss, and stores it again', async () => {
    await replay(trace, '--dir', store(), '--keep', '--workers', '1')
    await flipByte(await pageFile(store(), TraceReplay.key(1)))
    const again = await replay(trace, '--dir', store(), '--limit', '1', '--keep', '--workers', '1')
    expect(again).to.include({ code: 0, wrongBytes: 0, failures: 0, hits: 1, stored: 1 })
    expect(again.missReasons).to.deep.equal({ corrupt: 1 })
    const healed = await replay(trace, '--dir', store(), '--limit', '1', '--workers', '1')
    expect(healed).to.include({ code: 0, hits: 3 })
  })

  it('removes what it wrote, and nothing else', async () => {
    await replay(trace, '--storage-dir', folder, '--workers', '1')
    expect(await readdir(folder)).to.deep.equal(['trace.jsonl'])

    await replay(trace, '--dir', store(), '--limit', '1', '--keep', '--workers', '1')
    await replay(trace, '--dir', store(), '--workers', '1')
    const files = (await readdir(store(), { recursive: true, withFileTypes: true })).filter(entry => entry.isFile()).map(({ name }) => name)
    for (const id of [0, 1, 2]) expect(files.some(name => name.includes(TraceReplay.key(id))), `page ${id} of the first replay`).to.equal(true)
    for (const id of [3, 4, 5]) expect(files.some(name => name.includes(TraceReplay.key(id))), `page ${id} of the second replay`).to.equal(false)
  })

  it('shows a table for people, with the hit rate', async () => {
    const { code, stdout } = await captureCli(['replay', trace, '--storage-dir', folder, '--storage-layout', 'file', '--workers', '1'])
    expect(code).to.equal(0)
    expect(stdout).to.match(/hits +5 +38\.5 %/).and.match(/wrong bytes +0/).and.match(/write +\d/)
  })

  it('says the line of a trace that is malformed, before anything is written', async () => {
    const lines = ['{"hash_ids":[1]}', '', '{"hash_ids":[1,']
    for (const [broken, line] of [[lines, 3], [['{"hash_ids":[1,-2]}'], 1], [['{"hash_ids":[1]}', '{"ids":[]}'], 2], [['[1,2]'], 1]] as const) {
      await writeFile(trace, broken.join('\n'))
      const { code, stdout } = await captureCli(['replay', trace, '--storage-dir', store(), '--json'])
      expect(code).to.equal(2)
      expect(JSON.parse(stdout)).to.have.nested.property('error.where.line', line)
    }
    expect(await readdir(folder)).to.deep.equal(['trace.jsonl'])
  })

  it('refuses a trace that is not there, and a page size that is none', async () => {
    expect(await captureCli(['replay', join(folder, 'nowhere.jsonl')])).to.include({ code: 2 }).and.have.property('stderr').that.matches(/nowhere\.jsonl/)
    expect(await captureCli(['replay', trace, '--page-bytes', '5000'])).to.include({ code: 2 }).and.have.property('stderr').that.matches(/multiple of 4096/)
    expect(await captureCli(['replay', trace, '--policy', 'fifo'])).to.include({ code: 2 }).and.have.property('stderr').that.matches(/--simulate/)
    expect(await captureCli(['replay', trace, '--policy', 'lru,prefix-aware'])).to.include({ code: 2 }).and.have.property('stderr').that.matches(/--simulate/)
    expect(await captureCli(['replay', trace, '--simulate', '--policy', 'seive'])).to.include({ code: 2 }).and.have.property('stderr').that.matches(/Did you mean sieve/)
    for (const capacity of ['0', '0%', 'much', '5%,', '-1']) {
      expect(await captureCli(['replay', trace, '--simulate', `--capacity=${capacity}`]), capacity).to.include({ code: 2 }).and.have.property('stderr').that.matches(/--capacity/)
    }
  })

  it('refuses early what the disk has no room for, and says how much that is', async () => {
    const large = await traceOf(Array.from({ length: 1000 }, (_, row) => Array.from({ length: 1000 }, (__, column) => row * 1000 + column)), 'large.jsonl')
    const { code, stderr } = await captureCli(['replay', large, '--page-bytes', '256MiB', '--storage-dir', store()])
    expect(code).to.equal(1)
    expect(stderr).to.match(/needs [\d.]+ TiB/)
    expect(await readdir(store())).to.deep.equal([])
  })

  it('keeps page files within a capacity by letting the oldest go', async () => {
    const pages = Array.from({ length: 130 }, (_, id) => [id])
    const file = await traceOf([...pages, [129], [0]], 'capacity.jsonl')
    // A page of 4096 bytes takes 8192, its record included.
    const result = await replay(file, '--dir', store(), '--page-bytes', '4096', '--capacity', String(100 * 8192), '--workers', '1', '--in-flight', '1', '--keep')
    // The youngest page is there, the oldest is not.
    expect(result).to.include({ code: 0, hits: 1, stored: 131, wrongBytes: 0, failures: 0 })
    const files = (await readdir(store(), { recursive: true, withFileTypes: true })).filter(entry => entry.isFile() && /^[0-9a-f]{64}/.test(entry.name))
    expect(files.length).to.be.within(80, 100)
  })

  it('keeps segments within a capacity by the policy, and says which', async () => {
    const file = await traceOf([...Array.from({ length: 400 }, (_, id) => [id]), [399], [0]], 'segments.jsonl')
    const result = await replay(file, '--dir', store(), '--page-bytes', '16KiB', '--capacity', '6MiB', '--policy', 'lru', '--storage-layout', 'segment', '--workers', '1', '--in-flight', '1')
    expect(result).to.include({ code: 0, hits: 1, stored: 401, wrongBytes: 0, failures: 0, policy: 'lru' })
    expect(result.evicted).to.be.within(130, 300)
  })

  it('simulates FIFO and LRU by the book', async () => {
    const file = await traceOf([[1], [2], [3], [1], [4], [1], [2]], 'policy.jsonl')
    const capacity = ['--capacity', String(3 * PAGE)]
    // LRU: 4 pushes 2 out, so 1 hits twice. FIFO: 4 pushes 1 out, 1 pushes 2 out.
    expect(await replay(file, '--simulate', '--policy', 'lru', ...capacity)).to.include({ code: 0, hits: 2, references: 7 })
    expect(await replay(file, '--simulate', '--policy', 'fifo', ...capacity)).to.include({ code: 0, hits: 1, references: 7 })
    expect(await replay(file, '--simulate')).to.include({ hits: 3 })
    // A capacity that is not one of whole pages: the part of a page is of no use. And 60 % of 4 pages are 2.
    expect(await replay(file, '--simulate', '--policy', 'lru', '--capacity', String(4 * PAGE - 1))).to.include({ hits: 2, capacity: 4 * PAGE - 1 })
    expect(await replay(file, '--simulate', '--policy', 'lru', '--capacity', '60%')).to.include({ hits: 1, capacity: 2 * PAGE })
  })

  it('simulates several policies and capacities in one call, none better than the clairvoyant one', async () => {
    let next = 100
    const open: number[][] = []
    const requests = Array.from({ length: 300 }, (_, index) => {
      const which = index * index % 17
      const pages = [...index % 40 === 0 ? [] : open[which] ?? [], next++, next++]
      open[which] = pages
      return pages
    })
    const file = await traceOf(requests, 'several.jsonl')
    const { code, stdout } = await captureCli(['replay', file, '--simulate', '--policy', 'all', '--capacity', '10%,50%,1GiB', '--json', '--quiet'])
    expect(code).to.equal(0)
    const report = JSON.parse(stdout) as { distinctBlocks: number; references: number; runs: { policy: string; capacityPages: number; hits: number; hitRate: number; evicted: number }[] }
    expect(report.runs).to.have.length(18)
    const pages = report.distinctBlocks
    expect(pages).to.equal(600)
    const bounds = new Map(report.runs.filter(({ policy }) => policy === 'clairvoyant').map(({ capacityPages, hits }) => [capacityPages, hits]))
    expect([...bounds.keys()]).to.deep.equal([60, 300, 16384])
    for (const { policy, capacityPages, hits, hitRate, evicted } of report.runs) {
      expect(hits, `${policy} with ${capacityPages}`).to.be.at.most(bounds.get(capacityPages)!)
      expect(hitRate).to.equal(hits / report.references)
      if (capacityPages > pages) expect({ hits, evicted }, policy).to.deep.equal({ hits: bounds.get(capacityPages), evicted: 0 })
    }
    const table = await captureCli(['replay', file, '--simulate', '--policy', 'prefix-aware, lru', '--capacity', '10%,50%', '--quiet'])
    expect(table.stdout).to.match(/10% +50%\n +prefix-aware +0\.\d{4} +0\.\d{4}\n +lru +0\.\d{4} +0\.\d{4}\n/)
  })
})

describe('page contents', () => {
  const pageBytes = 3 * 65536 + 4096
  const content = new PageContent(pageBytes)
  const page = (id: number): Uint8Array => {
    const bytes = new Uint8Array(pageBytes)
    content.fill(bytes, id)
    return bytes
  }

  it('are the same for the same page, and count the bytes that are not', () => {
    const bytes = page(7)
    expect(content.wrongBytes(bytes, 7)).to.equal(0)
    for (const place of [0, 63, 64, 65536, pageBytes - 1]) bytes[place]! ^= 1
    expect(content.wrongBytes(bytes, 7)).to.equal(5)
    expect(content.wrongBytes(page(7).subarray(0, pageBytes - 10), 7)).to.equal(10)
  })

  it('differ in every line of 64 bytes from those of other pages and other places', () => {
    const lines = new Map<string, string>()
    for (const id of [0, 1, 2, 1000, 2 ** 32 - 1, 2 ** 32, 2 ** 48 + 5]) {
      const bytes = Buffer.from(page(id).buffer)
      for (let at = 0; at < pageBytes; at += 64) {
        const line = bytes.toString('latin1', at, at + 64)
        expect(lines.get(line), `line ${at} of page ${id}`).to.equal(undefined)
        lines.set(line, `${id} ${at}`)
      }
    }
  })

  it('show a page that is shifted, and one whose tail is another one\'s', () => {
    const shifted = page(3)
    shifted.copyWithin(1, 0, pageBytes - 1)
    expect(content.wrongBytes(shifted, 3)).to.be.greaterThan(pageBytes / 2)
    const torn = page(3)
    torn.set(page(4).subarray(pageBytes - 4096), pageBytes - 4096)
    expect(content.wrongBytes(torn, 3)).to.be.within(3000, 4096)
  })
})

describe('latency samples', () => {
  it('have true percentiles', () => {
    const samples = new LatencySamples()
    for (let value = 5000; value > 0; value--) samples.add(value)
    expect(samples.summary()).to.deep.equal({ p50: 2500, p99: 4950, max: 5000 })
    expect(new LatencySamples().summary().p50).to.be.NaN
  })
})

describe('trace reader', () => {
  it('stops at its limit without reading on', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'trace-spec-'))
    try {
      const file = join(folder, 'trace')
      await writeFile(file, '{"hash_ids":[1,2]}\n{"hash_ids":[1,3]}\nnot json\n')
      expect(await new TraceReader(file, 2).summarise()).to.deep.equal({ requests: 2, references: 4, distinctBlocks: 3, longestRequest: 2 })
    } finally {
      await rm(folder, { recursive: true })
    }
  })
})

async function pageFile(directory: string, key: string): Promise<string> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true })
  const entry = entries.find(one => one.isFile() && one.name.includes(key))
  expect(entry, `the file of ${key}`).not.to.equal(undefined)
  return join(entry!.parentPath, entry!.name)
}

async function flipByte(file: string): Promise<void> {
  const handle = await open(file, 'r+')
  try {
    const byte = Buffer.alloc(1)
    await handle.read(byte, 0, 1, 30_000)
    byte[0]! ^= 1
    await handle.write(byte, 0, 1, 30_000)
    await handle.sync()
  } finally {
    await handle.close()
  }
}
