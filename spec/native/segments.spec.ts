import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, lstatSync, mkdirSync, openSync, readFileSync, readdirSync, renameSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { expect } from 'chai'
import { LOADED_STRIDE, LoadedRow, type Granted, type LoadedFolder } from '../../lib/transfer/native-binding.js'
import { bounded, plan, until } from '../support/planned-faults.js'
import { suiteWorkbench, workbench } from '../support/workbench.js'
import { addon } from './rig.js'
import { put, segmentFile } from './segment-records.js'
import { EXTENT, type ChildAnswer, type ChildCommand } from './segments-child.js'

const CHILD = fileURLToPath(new URL('./segments-child.js', import.meta.url))
const KIB = 1024
const SEGMENT = 512 * KIB
const SEED = Uint32Array.of(1, 2, 3, 4)
const HASH = '9a8eeff1d0bc6b9b7acf170b1168d6d07f193dc770d4c1864b03e48d775e8d1a'

const { segments } = addon
const codeOf = async (promise: Promise<unknown>): Promise<string> => await promise.then(() => 'resolved', (error: unknown) => (error as { code: string }).code)
const below = (directory: string): string[] => readdirSync(join(directory, 'segments')).filter(name => name.includes('-'))

interface Row { readonly segment: number; readonly slot: number; readonly state: number; readonly generation: number; readonly length: number; readonly checksum: bigint }
function rowsOf({ rows }: LoadedFolder): Row[] {
  const view = new DataView(rows.buffer, rows.byteOffset, rows.byteLength)
  return Array.from({ length: rows.length / LOADED_STRIDE }, (_, i) => {
    const at = i * LOADED_STRIDE
    return {
      segment: view.getUint32(at + LoadedRow.segment, true),
      slot: view.getUint32(at + LoadedRow.slot, true),
      state: view.getUint32(at + LoadedRow.state, true),
      generation: view.getFloat64(at + LoadedRow.generation, true),
      length: view.getFloat64(at + LoadedRow.length, true),
      checksum: BigInt(view.getUint32(at + LoadedRow.checksumHigh, true)) << 32n | BigInt(view.getUint32(at + LoadedRow.checksumLow, true))
    }
  })
}

describe('the folders of the segment layout', () => {
  const bench = workbench()

  // A mount is given ten seconds to answer: time for the other specs.
  const hung = suiteWorkbench()
  let end: Promise<unknown>
  before(async () => {
    const directory = await hung.directory()
    const script = `import(${JSON.stringify(new URL('./rig.js', import.meta.url).href)}).then(({ addon }) => {
      addon.setFaults([{ point: 'flock', hang: true, times: 0 }])
      addon.segments.open(${JSON.stringify(directory)}).finally(() => process.exit(1))
    })`
    const process_ = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'inherit', 'inherit'] })
    hung.atEnd(() => { process_.kill('SIGKILL') })
    end = once(process_, 'exit')
  })

  /** A writer of this process; closed at the end unless it was before. */
  async function writer(directory: string): Promise<{ folder: string; ownerFd: number; adopted: readonly string[]; close: () => Promise<void>; grant: (capacity?: number, dataBytes?: number) => Promise<Granted> }> {
    const { folder, ownerFd, adopted } = await segments.open(directory)
    let open = true
    const close = async (): Promise<void> => {
      if (open) await segments.closeWriter(directory, folder, ownerFd)
      open = false
    }
    bench.atEnd(close)
    return {
      folder, ownerFd, adopted, close,
      grant: (capacity = 0, dataBytes = SEGMENT) => segments.grant(directory, folder, { dataBytes, extentBytes: EXTENT, capacity, keepFreeBytes: 0, direct: true })
    }
  }

  async function child(directory: string): Promise<{ process: ChildProcess; ask: <T>(command: ChildCommand) => Promise<T>; kill: () => Promise<void> }> {
    const process_ = spawn(process.execPath, [CHILD, directory], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    bench.atEnd(() => { process_.kill('SIGKILL') })
    await bounded(once(process_, 'message'), 'the start of a writer')
    return {
      process: process_,
      async ask<T>(command: ChildCommand): Promise<T> {
        process_.send(command)
        const [answer] = await bounded(once(process_, 'message'), command.do) as [ChildAnswer]
        if ('code' in answer) throw Object.assign(new Error(command.do), { code: answer.code })
        return answer.value as T
      },
      async kill() {
        process_.kill('SIGKILL')
        await bounded(once(process_, 'exit'), 'the end of a writer')
      }
    }
  }

  /** A process that stored a page in each of two segments and was killed. */
  async function leave(directory: string): Promise<{ folder: string; ids: number[] }> {
    const { ask, kill } = await child(directory)
    const { folder } = await ask<{ folder: string }>({ do: 'open' })
    const granted = await ask<Granted[]>({ do: 'grant', dataBytes: SEGMENT, capacity: 0, times: 2 })
    const ids = granted.map(({ id }) => id)
    await ask({ do: 'put', pages: ids.map(id => ({ id, slot: 3, key: `${HASH}_model_0_1`, extentBytes: EXTENT })) })
    await kill()
    return { folder, ids: ids.sort((a, b) => a - b) }
  }
  const pagesOf = async (directory: string, folder: string): Promise<number[]> =>
    rowsOf(await segments.load(directory, folder, SEED, null)).map(({ segment }) => segment).sort((a, b) => a - b)

  it('are ours alone', async () => {
    const directory = await bench.directory()
    const { folder, grant } = await writer(directory)
    const { id } = await grant()
    expect(readdirSync(join(directory, 'segments')).sort()).to.deep.equal([folder, 'FORMAT', 'lock'].sort())
    expect(readFileSync(join(directory, 'segments', 'FORMAT'), 'utf8')).to.equal('hicache-nixl segments 1\n')
    for (const name of readdirSync(directory, { recursive: true }) as string[]) {
      const status = lstatSync(join(directory, name))
      expect(status.mode & 0o777, name).to.equal(status.isDirectory() ? 0o700 : 0o600)
    }
    // Written, not sparse: a commit needs no space.
    for (const ending of ['data', 'index'] as const) {
      const { blocks, size } = lstatSync(segmentFile(directory, folder, id, ending))
      expect(blocks * 512).to.be.at.least(size)
    }
  })

  it('load their records, and count what does not hold', async () => {
    const directory = await bench.directory()
    const { folder, grant } = await writer(directory)
    const { id, slots } = await grant()
    expect(slots).to.equal(SEGMENT / EXTENT)
    put(directory, folder, [{ id, slot: 3, key: `${HASH}_model_0_1`, extentBytes: EXTENT, generation: 5 }, { id, slot: 30, key: 'another', extentBytes: EXTENT, length: EXTENT }])
    const loaded = await segments.load(directory, folder, SEED, null)
    expect(loaded).to.deep.include({ segments: [{ id, dataBytes: SEGMENT, extentBytes: EXTENT, slots }], damaged: 0, namespaces: [new Uint8Array(16).fill(0xab)], metas: [new Uint8Array(0)] })
    expect(rowsOf(loaded)).to.deep.equal([
      { segment: id, slot: 3, state: 1, generation: 5, length: 1000, checksum: 0x1122334455667788n },
      { segment: id, slot: 30, state: 1, generation: 1, length: EXTENT, checksum: 0x1122334455667788n }
    ])
    const index = readFileSync(segmentFile(directory, folder, id, 'index'))
    expect(Buffer.from(await segments.records(directory, folder, id)).equals(Buffer.concat([3, 30].map(slot => index.subarray(4096 + 512 * slot, 4096 + 512 * slot + 512))))).to.equal(true)
    // The data file ends before the second page.
    truncateSync(segmentFile(directory, folder, id, 'data'), 20 * EXTENT)
    const shorter = await segments.load(directory, folder, SEED, [id])
    expect([shorter.damaged, shorter.segments[0]!.slots, rowsOf(shorter).map(({ slot }) => slot)]).to.deep.equal([1, 20, [3]])
    expect((await segments.load(directory, folder, SEED, [(id ^ 1) >>> 0])).segments).to.deep.equal([])
  })

  it('hand over many rows as they were read', async () => {
    const directory = await bench.directory()
    const { folder } = await writer(directory)
    const { id, slots } = await segments.grant(directory, folder, { dataBytes: 16 * 1024 * KIB, extentBytes: 4096, capacity: 0, keepFreeBytes: 0, direct: true })
    put(directory, folder, Array.from({ length: slots }, (_, slot) => ({ id, slot, key: `${slot}`, extentBytes: 4096 })))
    const loaded = await segments.load(directory, folder, SEED, null)
    expect(rowsOf(loaded).map(({ slot }) => slot)).to.deep.equal([...Array(slots).keys()])
    const digests = new Set<string>()
    for (let at = 0; at < loaded.rows.length; at += LOADED_STRIDE) digests.add(Buffer.from(loaded.rows.subarray(at, at + 16)).toString('hex'))
    // It is the scope that tells keys without a hash apart, and here it is the same.
    expect(digests.size).to.equal(1)
  })

  it('of a newer version are refused, and not touched', async () => {
    const directory = await bench.directory()
    mkdirSync(join(directory, 'segments'))
    writeFileSync(join(directory, 'segments', 'FORMAT'), 'hicache-nixl segments 2\n')
    expect(await codeOf(segments.open(directory))).to.equal('EPROTONOSUPPORT')
    expect(readdirSync(join(directory, 'segments'))).to.deep.equal(['FORMAT'])
    expect(readFileSync(join(directory, 'segments', 'FORMAT'), 'utf8')).to.equal('hicache-nixl segments 2\n')
    writeFileSync(join(directory, 'segments', 'FORMAT'), 'not ours')
    expect(await codeOf(segments.open(directory))).to.equal('EBADMSG')
  })

  it('of a killed process are taken over, its pages too', async () => {
    const directory = await bench.directory()
    const left = await leave(directory)
    const { folder, adopted } = await writer(directory)
    expect([folder, adopted]).to.deep.equal([left.folder, [left.folder]])
    expect(await pagesOf(directory, folder)).to.deep.equal(left.ids)
  })

  it('of a living process are left to it, and merged once it is killed', async () => {
    const directory = await bench.directory()
    const { ask, kill } = await child(directory)
    const theirs = await ask<{ folder: string }>({ do: 'open' })
    const [granted] = await ask<Granted[]>({ do: 'grant', dataBytes: SEGMENT, capacity: 0, times: 1 })
    const { folder, adopted, grant } = await writer(directory)
    expect([adopted, folder === theirs.folder]).to.deep.equal([[], false])
    expect(await segments.adopt(directory, folder)).to.deep.equal([])
    expect(await segments.usage(directory)).to.include({ writers: 2 })
    await ask({ do: 'put', pages: [{ id: granted!.id, slot: 3, key: HASH, extentBytes: EXTENT }] })
    expect(await pagesOf(directory, theirs.folder)).to.deep.equal([granted!.id])
    const { id } = await grant()
    await kill()
    // The kernel gives the lock back once the last of the process is gone, which may be after it was reported dead.
    let ids: number[] = []
    await until(async () => { ids = await segments.adopt(directory, folder); return ids.length > 0 }, 'the adoption')
    expect(ids).to.deep.equal([granted!.id])
    expect(below(directory)).to.deep.equal([folder])
    expect((await segments.load(directory, folder, SEED, null)).segments.map(segment => segment.id).sort()).to.deep.equal([id, granted!.id].sort())
  })

  it('of another machine are read and never taken; of another boot they are, on a disk of this machine', async () => {
    const directory = await bench.directory()
    const left = await leave(directory)
    const of = (machine: string, boot: string): string => [machine, boot, left.folder.slice(34)].join('-')
    const rename = (from: string, to: string): void => { renameSync(join(directory, 'segments', from), join(directory, 'segments', to)) }
    const foreign = of('0123456789abcdef', left.folder.slice(17, 33))
    rename(left.folder, foreign)
    const mine = await writer(directory)
    expect([mine.adopted, await segments.adopt(directory, mine.folder)]).to.deep.equal([[], []])
    expect(await pagesOf(directory, foreign)).to.deep.equal(left.ids)
    expect((await segments.poll(directory, mine.folder, [], SEED)).folders).to.deep.equal([{ name: foreign, live: false, wants: false, machine: 'other' }])
    await mine.close()
    const earlier = of(left.folder.slice(0, 16), '0123456789abcdef')
    rename(foreign, earlier)
    const again = await writer(directory)
    expect(again.adopted).to.deep.equal([earlier])
    expect(await pagesOf(directory, again.folder)).to.deep.equal(left.ids)
  })

  it('are followed by their changes', async () => {
    const directory = await bench.directory()
    const mine = await writer(directory)
    const theirs = await writer(directory)
    const { sequence } = await segments.load(directory, theirs.folder, SEED, null)
    const ask = async (from: number): ReturnType<typeof segments.poll> => await segments.poll(directory, mine.folder, [{ folder: theirs.folder, sequence: from }], SEED)
    await segments.wants(directory, theirs.folder, true)
    const quiet = await ask(sequence)
    expect(quiet.folders).to.deep.equal([{ name: theirs.folder, live: true, wants: true, machine: 'this' }])
    expect(quiet.changes[0]).to.deep.include({ folder: theirs.folder, sequence, lapped: false, gone: false, loaded: null, whole: [] })
    const { id } = await theirs.grant()
    put(directory, theirs.folder, [{ id, slot: 3, key: HASH, extentBytes: 2 * EXTENT }])
    await segments.reassign(directory, theirs.folder, id, 2 * EXTENT)
    const whole = (await ask(sequence)).changes[0]!
    expect([whole.whole, whole.loaded!.segments.map(segment => [segment.id, segment.extentBytes]), rowsOf(whole.loaded!)]).to.deep.equal([[id], [[id, 2 * EXTENT]], []])
    await segments.release(directory, theirs.folder, id)
    const released = (await ask(whole.sequence)).changes[0]!
    expect([released.whole, released.loaded!.segments]).to.deep.equal([[id], []])
    expect((await ask(sequence + 70_000)).changes[0]).to.include({ lapped: true, gone: false })
    await theirs.close()
    expect((await ask(released.sequence)).changes[0]).to.include({ gone: true })
  })

  it('ask each other for pages, each by its generation', async () => {
    const directory = await bench.directory()
    const mine = await writer(directory)
    const theirs = await writer(directory)
    const { id } = await mine.grant()
    const { sequence } = await segments.load(directory, theirs.folder, SEED, null)
    const pages = [id, 3, 1, id, 4, 2 ** 40 + 7, 0xfffffffe, 5, Number.MAX_SAFE_INTEGER]
    await segments.ask(directory, theirs.folder, pages)
    const { changes: [change] } = await segments.poll(directory, mine.folder, [{ folder: theirs.folder, sequence }], SEED)
    expect(change).to.deep.include({ asked: pages, whole: [], sequence: sequence + 3, lapped: false })
    for (const wrong of [[id, 3], [id, 3, 0], [id, 3, 0.5], [id, 3, 2 ** 53], [-1, 3, 1], 'pages']) {
      expect(() => segments.ask(directory, theirs.folder, wrong as number[]), String(wrong)).to.throw('segments.ask needs')
    }
  })

  it('of two processes never take more than the capacity, whoever asks first', async () => {
    const directory = await bench.directory()
    const capacity = 16 * 1024 * KIB
    const children = await Promise.all([child(directory), child(directory), child(directory)])
    await Promise.all(children.map(({ ask }) => ask({ do: 'open' })))
    const asked = Promise.all(children.map(({ ask }) => ask<Granted[]>({ do: 'grant', dataBytes: 1024 * KIB, capacity, times: 8 })))
    let most = 0
    let done = false
    void asked.finally(() => { done = true }).catch(() => undefined)
    while (!done) most = Math.max(most, (await segments.usage(directory)).usedBytes)
    const granted = (await asked).flat()
    expect(most).to.be.within(1, capacity)
    expect((await segments.usage(directory)).usedBytes).to.be.within(capacity - 1024 * KIB, capacity)
    expect(new Set(granted.map(({ refused }) => refused))).to.deep.equal(new Set(['', 'capacity']))
    const ids = granted.filter(({ refused }) => refused === '').map(({ id }) => id)
    expect(new Set(ids).size).to.equal(ids.length)
  })

  it('have no space where the disk has none, and say so', async () => {
    const directory = await bench.directory()
    const { folder, grant } = await writer(directory)
    expect(await segments.grant(directory, folder, { dataBytes: SEGMENT, extentBytes: EXTENT, capacity: 0, keepFreeBytes: 2 ** 52, direct: false })).to.include({ refused: 'disk', id: 0 })
    for (const point of ['fallocate', 'pwritev', 'fsync']) {
      plan(bench, { point, match: '.new', errno: 'ENOSPC' })
      expect((await grant()).refused).to.equal('disk')
      addon.clearFaults()
    }
    plan(bench, { point: 'pwritev', match: '.new', errno: 'EIO' })
    expect(await codeOf(grant())).to.equal('EIO')
    expect(readdirSync(join(directory, 'segments', folder)).sort()).to.deep.equal(['changes', 'owner'])
  })

  it('end their grants when they are closed', async () => {
    const directory = await bench.directory()
    const { folder, grant, close } = await writer(directory)
    const release = plan(bench, { point: 'pwritev', match: '.new', after: 2, hang: true })
    const code = codeOf(grant(0, 64 * 1024 * KIB))
    await until(() => readdirSync(join(directory, 'segments', folder)).some(name => /^.{8}\.new$/.test(name)), 'the preparation')
    const closed = close()
    await until(async () => await codeOf(segments.wants(directory, folder, false)) !== 'resolved', 'the end of new work')
    release()
    expect(await code).to.equal('ECANCELED')
    await closed
    // Nothing is left of a writer that stored nothing.
    expect(below(directory)).to.deep.equal([])
  })

  it('of a thread are given back when it ends without closing', async () => {
    const directory = await bench.directory()
    const worker = new Worker(`
      const { createRequire } = require('node:module'), { parentPort, workerData } = require('node:worker_threads')
      import(workerData.rig).then(({ addon }) => addon.segments.open(workerData.directory)).then(({ folder }) => { parentPort.postMessage(folder); setInterval(() => {}, 1000) })
    `, { eval: true, workerData: { directory, rig: new URL('./rig.js', import.meta.url).href } })
    const [folder] = await bounded(once(worker, 'message'), 'the opening') as [string]
    expect(await segments.usage(directory)).to.include({ writers: 1 })
    expect(existsSync(join(directory, 'segments', folder))).to.equal(true)
    await bounded(worker.terminate(), 'termination')
    await until(() => below(directory).length === 0, 'the folder to go')
  })

  it('survive whatever is put in their files\' place', async () => {
    const directory = await bench.directory()
    const left = await leave(directory)
    const path = join(directory, 'segments', left.folder)
    const [one, two] = left.ids as [number, number]
    // A header with one bit turned, and an index that is a directory.
    const index = openSync(segmentFile(directory, left.folder, one, 'index'), 'r+')
    writeSync(index, Buffer.from([1]), 0, 1, 24)
    closeSync(index)
    renameSync(segmentFile(directory, left.folder, two, 'index'), join(path, 'elsewhere'))
    mkdirSync(segmentFile(directory, left.folder, two, 'index'))
    const damaged = await segments.load(directory, left.folder, SEED, null)
    expect([damaged.damaged, damaged.segments, damaged.rows.length]).to.deep.equal([2, [], 0])
    const { folder, grant } = await writer(directory)
    expect(folder).to.equal(left.folder)
    // What can never be a page again gives its space back; what is not ours stays.
    expect(readdirSync(path).sort()).to.deep.equal(['changes', 'elsewhere', 'owner'])
    expect((await grant()).refused).to.equal('')
  })

  it('refuse arguments that are none', async () => {
    const directory = await bench.directory()
    const { folder, ownerFd } = await writer(directory)
    const good = { dataBytes: SEGMENT, extentBytes: EXTENT, capacity: 0, keepFreeBytes: 0, direct: false }
    const wrong: (() => unknown)[] = [
      () => segments.open(''), () => segments.open('a\0b'), () => segments.open(5 as never),
      ...['', '..', '../..', `${folder}/`, folder.toUpperCase(), `../${folder.slice(3)}`, 5 as never].map(name => () => segments.load(directory, name, SEED, null)),
      () => segments.load(directory, folder, new Uint32Array(3), null), () => segments.load(directory, folder, new Uint8Array(16) as never, null),
      () => segments.load(directory, folder, SEED, [-1]), () => segments.load(directory, folder, SEED, undefined as never),
      () => segments.poll(directory, folder, [{ folder: '../x', sequence: 0 }], SEED), () => segments.poll(directory, folder, [{ folder, sequence: -1 }], SEED),
      () => segments.poll(directory, folder, [null as never], SEED), () => segments.poll(directory, folder, {} as never, SEED),
      () => segments.grant(directory, folder, undefined as never), () => segments.grant(directory, folder, { ...good, extentBytes: 5000 }),
      () => segments.grant(directory, folder, { ...good, extentBytes: 0 }), () => segments.grant(directory, folder, { ...good, dataBytes: EXTENT - 1 }),
      () => segments.grant(directory, folder, { ...good, capacity: -1 }), () => segments.grant(directory, folder, { ...good, direct: 1 as never }),
      () => segments.reassign(directory, folder, 2 ** 32, EXTENT), () => segments.reassign(directory, folder, 1, 100), () => segments.release(directory, folder, 0.5),
      () => segments.wants(directory, folder, 1 as never), () => segments.records(directory, folder, NaN), () => segments.usage(undefined as never),
      () => segments.closeWriter(directory, folder, ownerFd + 1), () => segments.closeWriter(directory, folder, -1)
    ]
    for (const call of wrong) expect(call, String(call)).to.throw().with.property('code', 'ERR_ARGUMENT')
    const other = folder.replace(/.$/, digit => digit === '0' ? '1' : '0')
    for (const call of [() => segments.grant(directory, other, good), () => segments.release(directory, other, 1), () => segments.adopt(directory, other), () => segments.wants(directory, other, true)]) {
      expect(await codeOf(call())).to.equal('EBADF')
    }
    expect(await codeOf(segments.open(join(directory, 'nothing')))).to.equal('ENOENT')
    expect(await segments.usage(directory)).to.include({ writers: 1 })
  })

  it('do not keep a process alive that hangs there', async () => {
    expect(await bounded(end, 'the process', 40_000)).to.deep.equal([0, null])
  })

  it('say why they cannot be read', async () => {
    const directory = await bench.directory()
    const { folder } = await writer(directory)
    for (const call of [() => segments.open(directory), () => segments.usage(directory), () => segments.load(directory, folder, SEED, null), () => segments.poll(directory, folder, [], SEED)]) {
      plan(bench, { point: 'open', errno: 'EACCES' })
      expect(await codeOf(call())).to.equal('EACCES')
      addon.clearFaults()
    }
  })
})
