import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { expect } from 'chai'
import { parseExposition, valueOf } from '../observe/exposition.js'
import { describeLayouts, type StorageLayout } from '../support/layouts.js'
import { objectConfig, prefixOf } from '../support/object-place.js'
import { CLEAN_ENV, cli, cliJson, inDirectory, MAIN } from './cli-process.js'

/** Options that keep these runs small. */
function small(directory: string, storageLayout: StorageLayout = 'file'): string[] {
  const place = storageLayout === 'object' ? ['--object-prefix', prefixOf(directory)] : ['--storage-dir', directory, '--storage-layout', storageLayout]
  const config = { arena_bytes: 16777216, segment_bytes: 4194304, ...(storageLayout === 'object' ? objectConfig() : {}) }
  return [...place, '--workers', '1', '--config', JSON.stringify(config)]
}

function filesUnder(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true }).filter(entry => entry.isFile()).map(entry => join(entry.parentPath, entry.name))
}

describeLayouts('command line: pages', storageLayout => {
  it('put stores a file, get gives the same bytes back on stdout and in a file', async () => await inDirectory(async root => {
    const store = small(join(root, 'store'), storageLayout)
    const page = randomBytes(65536 + 13)
    writeFileSync(join(root, 'page'), page)
    const put = await cli(['put', 'key1', join(root, 'page'), ...store])
    expect([put.code, put.stdout.toString()]).to.deep.equal([0, ''])
    expect(put.stderr).to.include('key1: stored, 64.0 KiB')

    const get = await cli(['get', 'key1', ...store])
    expect(get.code).to.equal(0)
    expect(get.stdout.equals(page)).to.equal(true)

    const { code, json } = await cliJson(['get', 'key1', '-o', join(root, 'out'), ...store])
    expect(code).to.equal(0)
    expect(json).to.deep.equal({ key: 'key1', status: 'hit', bytes: page.length, dtype: 'uint8', shape: [page.length], verified: true, file: join(root, 'out') })
    expect(readFileSync(join(root, 'out')).equals(page)).to.equal(true)
  }))

  it('put reads stdin, keeps dtype and shape, and leaves an equal page alone', async () => await inDirectory(async root => {
    const store = small(root, storageLayout)
    const input = randomBytes(2 * 3 * 4 * 2)
    const args = ['put', 'tensor', '--dtype', 'bfloat16', '--shape', '2,3,4', ...store]
    expect((await cliJson(args, { input })).json).to.deep.equal({ key: 'tensor', status: 'stored', bytes: 48, dtype: 'bfloat16', shape: [2, 3, 4] })
    expect((await cliJson([...args, '-'], { input })).json).to.include({ status: 'already-there' })
    expect((await cliJson(['get', 'tensor', ...store])).json).to.deep.include({ bytes: 48, dtype: 'bfloat16', shape: [2, 3, 4] })
  }))

  it('a miss ends with 1 and says why', async () => await inDirectory(async root => {
    const store = small(root, storageLayout)
    for (const command of ['get', 'stat', 'rm']) {
      const { code, stdout, stderr } = await cli([command, 'nothing', ...store])
      expect([code, stdout.toString(), stderr]).to.deep.equal([1, '', 'hicache-nixl: miss: nothing: absent\n'])
    }
    expect(await cliJson(['get', 'nothing', ...store])).to.deep.include({ code: 1, json: { key: 'nothing', status: 'miss', reason: 'absent' } })
    expect((await cli(['rm', '-f', 'nothing', ...store])).code).to.equal(0)
  }))

  it('ls, stat and rm work on the pages of the namespace only', async () => await inDirectory(async root => {
    const store = small(root, storageLayout)
    const input = randomBytes(4096)
    for (const [key, model] of [['a1', 'm'], ['a2', 'm'], ['b1', 'm'], ['other', 'n']] as const) {
      expect((await cli(['put', key, '--model-name', model, ...store], { input })).code).to.equal(0)
    }
    const m = ['--model-name', 'm', ...store]
    const { json } = await cliJson<{ pages: { key: string; bytes: number; dtype: string; shape: number[]; writtenAt: string }[] }>(['ls', ...m])
    expect(json.pages.map(({ key }) => key)).to.have.members(['a1', 'a2', 'b1'])
    expect(json.pages[0]).to.include({ bytes: 4096, dtype: 'uint8' })
    expect(json.pages[0]!.shape).to.deep.equal([4096])
    expect(Date.parse(json.pages[0]!.writtenAt)).to.be.a('number').and.not.NaN

    const lines = await cli(['ls', 'a', ...m])
    expect(lines.stdout.toString().trimEnd().split('\n')).to.have.length(2).and.satisfy((all: string[]) => all.every(line => /^ *4\.0 KiB {2}uint8 \[4096\] .* {2}a\d$/.test(line)))
    expect(lines.stderr).to.equal('2 pages, 8.0 KiB\n')
    expect((await cli(['ls', '--keys', '--quiet', 'b', ...m]))).to.deep.include({ code: 0, stdout: Buffer.from('b1\n'), stderr: '' })
    expect((await cliJson(['ls', 'zzz', ...m])).json).to.deep.equal({ pages: [] })

    const stat = await cliJson(['stat', 'a1', ...m])
    expect(stat.json).to.include({ key: 'a1', storedKey: 'a1_m_0_1', bytes: 4096, dtype: 'uint8', verified: true })
    expect((await cli(['stat', 'other', ...m])).code).to.equal(1)

    expect(await cliJson(['rm', 'a1', 'a1', 'nothing', ...m])).to.deep.include({ code: 1, json: { deleted: ['a1'], absent: ['nothing'] } })
    expect((await cliJson<{ pages: { key: string }[] }>(['ls', ...m])).json.pages.map(({ key }) => key)).to.have.members(['a2', 'b1'])
    expect((await cli(['stat', 'other', '--model-name', 'n', ...store])).code).to.equal(0)
  }))

  it('clear wants --yes, and clears the namespace only', async () => await inDirectory(async root => {
    const store = small(root, storageLayout)
    const input = randomBytes(4096)
    for (const model of ['a', 'b_a']) for (const key of ['k1', 'k2']) await cli(['put', key, '--model-name', model, ...store], { input })
    expect((await cli(['clear', '--model-name', 'a', ...store])).code).to.equal(2)
    expect((await cliJson(['clear', '--yes', '--model-name', 'a', ...store])).json).to.deep.equal({ deleted: 2 })
    expect((await cliJson<{ pages: object[] }>(['ls', '--model-name', 'b_a', ...store])).json.pages).to.have.length(2)
    expect((await cliJson<{ pages: object[] }>(['ls', '--model-name', 'a', ...store])).json.pages).to.have.length(0)
  }))
}, { systems: false })

describe('command line: pages in files', () => {
  it('put refuses bytes that the shape does not take, an empty page, and a bad key', async () => await inDirectory(async root => {
    const store = small(root)
    for (const [args, input] of [
      [['put', 'k', '--dtype', 'float32'], Buffer.alloc(6)], [['put', 'k', '--dtype', 'float32', '--shape', '3'], Buffer.alloc(8)],
      [['put', 'k'], Buffer.alloc(0)], [['put', 'a/b'], Buffer.alloc(4)], [['put', ''], Buffer.alloc(4)],
    ] as const) {
      const { code, stderr } = await cli([...args, ...store], { input })
      expect(code, args.join(' ')).to.equal(2)
      expect(stderr).to.match(/^hicache-nixl: ERR_(USAGE|ARGUMENT|KEY): [^\n]+\n$/)
    }
    expect(filesUnder(root)).to.deep.equal([])
  }))

  it('put that waits for the end of stdin can be interrupted, and stores nothing', async () => await inDirectory(async root => {
    const child = spawn(process.execPath, [MAIN, 'put', 'k', ...small(root)], { env: CLEAN_ENV, stdio: ['pipe', 'ignore', 'inherit'] })
    const closed = once(child, 'close')
    // More than a pipe holds: when all of it is written, the command has begun to read.
    child.stdin.write(Buffer.alloc(4 << 20), () => { child.kill('SIGINT') })
    expect((await closed)[0]).to.equal(130)
    expect(filesUnder(root)).to.deep.equal([])
  }))

  it('verify finds what was altered, ends with 1, and drops it when told', async () => await inDirectory(async root => {
    const store = small(root)
    for (const key of ['good', 'torn', 'flipped']) await cli(['put', key, ...store], { input: randomBytes(16384) })
    const clean = await cliJson(['verify', ...store])
    expect(clean).to.deep.include({ code: 0, json: { pages: 3, bytes: 49152, ok: 3, corrupt: 0, unverified: 0, missing: 0 } })
    expect(clean.stderr).to.equal('')

    const file = (key: string): string => filesUnder(root).find(path => path.split('/').at(-1)!.startsWith(key))!
    truncateSync(file('torn'), 5000)
    const bytes = readFileSync(file('flipped'))
    bytes[777]! ^= 1
    writeFileSync(file('flipped'), bytes)
    expect(await cliJson(['verify', ...store])).to.deep.include({ code: 1 }).and.nested.include({ 'json.ok': 1 })
    const read = await cliJson(['get', 'flipped', ...store])
    expect(read).to.deep.include({ code: 1, json: { key: 'flipped', status: 'miss', reason: 'corrupt' } })
    await cli(['verify', '--drop', ...store])
    const after = await cliJson<Record<string, number>>(['verify', ...store])
    expect(after.json).to.include({ ok: 1, corrupt: 0 })
  }))

  it('gc says what it removed', async () => await inDirectory(async root => {
    expect(await cliJson(['gc', ...small(root)])).to.deep.include({ code: 0, json: { leftovers: 0, evictedPages: 0, evictedBytes: 0 } })
  }))

  it('a reader that goes away ends ls in order', async () => await inDirectory(async root => {
    const store = small(root)
    for (let page = 0; page < 4; page++) await cli(['put', `key-${page}`, ...store], { input: randomBytes(64) })
    const child = spawn(process.execPath, [MAIN, 'ls', ...store], { env: CLEAN_ENV, stdio: ['ignore', 'pipe', 'pipe'] })
    child.stdout.destroy()
    let stderr = ''
    child.stderr.on('data', (chunk: Buffer) => { stderr += chunk.toString() })
    const [code] = await once(child, 'close') as [number | null]
    expect([code, stderr]).to.deep.equal([0, ''])
  }))

  it('a full disk behind stdout is an error', async () => await inDirectory(async root => {
    const full = openSync('/dev/full', 'w')
    try {
      const child = spawn(process.execPath, [MAIN, 'ls', '--json', ...small(root)], { env: CLEAN_ENV, stdio: ['ignore', full, 'pipe'] })
      let stderr = ''
      child.stderr!.on('data', (chunk: Buffer) => { stderr += chunk.toString() })
      const [code] = await once(child, 'close') as [number | null]
      expect([code, stderr]).to.deep.equal([1, 'hicache-nixl: ENOSPC: no space left on device, write\n'])
    } finally {
      closeSync(full)
    }
  }))

  it('verify can be interrupted', async () => await inDirectory(async root => {
    const store = small(root)
    for (const key of ['a', 'b', 'c']) await cli(['put', key, ...store], { input: randomBytes(1 << 20) })
    // At this rate it would take minutes.
    const child = spawn(process.execPath, [MAIN, 'verify', '--bytes-per-second', '16KiB', ...store], { env: { ...CLEAN_ENV, HICACHE_NIXL_DEBUG: '1' }, stdio: ['ignore', 'pipe', 'pipe'] })
    const closed = once(child, 'close')
    child.stderr.once('data', () => { child.kill('SIGINT') })
    expect((await closed)[0]).to.equal(130)
  }))

  it('metrics prints the text once, with the sizes of the directories', async () => await inDirectory(async root => {
    const store = small(root)
    for (const key of ['x', 'y']) await cli(['put', key, ...store], { input: randomBytes(8192) })
    const { code, stdout } = await cli(['metrics', ...store])
    expect(code).to.equal(0)
    const families = parseExposition(stdout.toString())
    expect(valueOf(families, 'hicache_nixl_directory_pages')).to.equal(2)
    expect(valueOf(families, 'hicache_nixl_directory_bytes')).to.equal(16384)
    expect(valueOf(families, 'hicache_nixl_directory_free_bytes')).to.be.above(0)
    expect(families.get('hicache_nixl_workers')!.samples[0]!.labels).to.include({ plugin: 'posix', layout: 'file' })
    const { json } = await cliJson<{ health: object; stats: object; directories: object[] }>(['metrics', ...store])
    expect(json.health).to.deep.equal({ status: 'ok', reasons: [] })
    expect(json.directories[0]).to.include({ pages: 2, bytes: 16384 })
  }))

  it('metrics --port serves /metrics and /health on loopback until it is interrupted', async () => await inDirectory(async root => {
    const child = spawn(process.execPath, [MAIN, 'metrics', '--port', '0', '--json', ...small(root)], { env: CLEAN_ENV, stdio: ['ignore', 'pipe', 'inherit'] })
    try {
      let text = ''
      for await (const line of createInterface(child.stdout)) {
        text += line
        if (line === '}') break
      }
      const { url } = JSON.parse(text) as { url: string }
      expect(url).to.match(/^http:\/\/127\.0\.0\.1:\d+$/)
      const metrics = await fetch(`${url}/metrics`)
      expect(metrics.status).to.equal(200)
      expect(metrics.headers.get('content-type')).to.equal('text/plain; version=0.0.4; charset=utf-8')
      expect(valueOf(parseExposition(await metrics.text()), 'hicache_nixl_directory_pages')).to.equal(0)
      const health = await fetch(`${url}/health`)
      expect([health.status, await health.json()]).to.deep.equal([200, { status: 'ok', reasons: [] }])
      expect((await fetch(`${url}/`)).status).to.equal(404)
      expect((await fetch(`${url}/metrics`, { method: 'POST' })).status).to.equal(405)

      const second = await cli(['metrics', '--port', new URL(url).port, ...small(root)])
      expect(second.code).to.equal(1)
      expect(second.stderr).to.include('hicache-nixl: ERR_IO: ').and.include('0 takes a free one')
    } finally {
      child.kill('SIGINT')
    }
    const [code] = await once(child, 'close') as [number | null]
    expect(code).to.equal(0)
  }))

  it('a directory that cannot be used is said in one line', async () => await inDirectory(async root => {
    writeFileSync(join(root, 'file'), '')
    const { code, stderr } = await cli(['ls', ...small(join(root, 'file'))])
    expect(code).to.be.oneOf([1, 2])
    expect(stderr).to.match(/^hicache-nixl: ERR_(CONFIG|IO): [^\n]+\n$/).and.include(join(root, 'file'))
  }))

  it('a store command makes its directory for its user alone', async () => await inDirectory(async root => {
    mkdirSync(join(root, 'outer'))
    expect((await cli(['ls', ...small(join(root, 'outer', 'store'))])).code).to.equal(0)
    expect(existsSync(join(root, 'outer', 'store'))).to.equal(true)
  }))
})
