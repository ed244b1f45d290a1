import { strict as assert } from 'node:assert'
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { HiCacheError, type DeviceBuffer, type HiCacheNixl, type ReadOutcome, type Target, type Tensor, type WriteOutcome } from '../../lib/index.js'
import { NixlBackendConfig } from '../../lib/config/nixl-backend-config.js'
import { CufileProbe, inspectCufile } from '../../lib/selection/cufile-probe.js'
import type { Fault } from '../../lib/transfer/native-binding.js'
import { noise, type GpuRig } from './gpu-rig.js'
import { SYSTEMS } from './systems.js'

const MIB = 1 << 20
const GUARD = 0xee
/** One after the other in one buffer, so most of them begin at odd places. */
const LENGTHS = [65536, 1, 4095, 4096, 4097, 100_000, MIB, 300_001]

type Scenario = (rig: GpuRig) => Promise<unknown>

interface Part { readonly key: string; readonly at: number; readonly length: number }
function partsOf(lengths: readonly number[], prefix: string): Part[] {
  let at = 0
  return lengths.map((length, i) => {
    const part = { key: `${prefix}${i}`, at, length }
    at += length
    return part
  })
}
const described = (outcome: WriteOutcome | ReadOutcome<Target>): string => outcome.ok ? outcome.status : `${outcome.status}: ${outcome.status === 'miss' ? outcome.reason : outcome.error.message}`
function allStored(outcomes: readonly WriteOutcome[]): void {
  for (const outcome of outcomes) assert.equal(outcome.status, 'stored', `${outcome.key}: ${described(outcome)}`)
}
function allRead(outcomes: readonly ReadOutcome<Target>[], verified?: boolean): void {
  for (const outcome of outcomes) {
    assert.ok(outcome.ok, `${outcome.key}: ${described(outcome)}`)
    if (verified !== undefined) assert.equal(outcome.verified, verified, outcome.key)
  }
}
function bytesOf(outcome: ReadOutcome<Target>): Uint8Array {
  assert.ok(outcome.ok)
  const { data } = outcome.value as Tensor
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
}
function same(got: Uint8Array, wanted: Uint8Array, what: string): void {
  assert.equal(got.length, wanted.length, what)
  if (Buffer.compare(got, wanted) === 0) return
  const at = wanted.findIndex((byte, i) => got[i] !== byte)
  assert.fail(`${what}: byte ${at} of ${wanted.length} is ${got[at]}, and was to be ${wanted[at]}`)
}
async function failure(work: Promise<unknown> | (() => unknown)): Promise<HiCacheError> {
  try {
    await (typeof work === 'function' ? work() : work)
  } catch (error) {
    if (HiCacheError.is(error)) return error
    throw error
  }
  throw new Error('it did not fail')
}
const told = ({ code, message }: HiCacheError): { code: string; message: string } => ({ code, message })

/** Does this plugin read into memory of a GPU without a look at the bytes? */
const direct = ({ task: { plugin = '', verifyVram = false } }: GpuRig): boolean => plugin.startsWith('gds') && !verifyVram

/** Holds what moves the bytes of host memory. */
const HOST_POINTS = ['ring.complete', 'aio.complete', 'paio.complete', 'preadv', 'pwritev']
const hold = (points: readonly string[], match: string): Fault[] => points.map(point => ({ point, match, times: 0, hang: true }))

async function transfers(rig: GpuRig, cache: HiCacheNixl): Promise<unknown> {
  const source = await cache.allocDeviceBuffer({ length: 4 * MIB }), target = await cache.allocDeviceBuffer({ length: 4 * MIB })
  const parts = partsOf(LENGTHS, 'page'), all = parts.at(-1)!.at + parts.at(-1)!.length
  const data = noise(4 * MIB), guard = new Uint8Array(4 * MIB).fill(GUARD)
  const image = (...written: readonly Part[]): Uint8Array => {
    const expected = guard.slice()
    for (const { at, length } of written) expected.set(data.subarray(at, at + length), at)
    return expected
  }
  await rig.fill(source, data)
  await rig.fill(target, guard)

  allStored(await cache.write(parts.map(({ key, at, length }) => [key, source.subarray(at, length)])))
  // Every other one: what lies between is not touched.
  const some = parts.filter((_, i) => i % 2 === 1)
  const read = await cache.read(some.map(({ key, at, length }) => [key, target.subarray(at, length)] as const))
  allRead(read, !direct(rig))
  same(await rig.bytes(target), image(...some), 'read() into every other part')
  allRead(await cache.read(parts.map(({ key, at, length }) => [key, target.subarray(at, length)] as const)), !direct(rig))
  same(await rig.bytes(target), image(...parts), 'read() into all parts')

  // What a GPU wrote the host reads, with its checksum, and the other way round.
  for (const { key, at, length } of parts) {
    const outcome = (await cache.read([key]))[0]!
    assert.ok(outcome.ok && outcome.verified, key)
    same(new Uint8Array(outcome.value.data.buffer, outcome.value.data.byteOffset, outcome.value.data.byteLength), data.subarray(at, at + length), `${key} in host memory`)
  }
  const other = noise(all, 2)
  allStored(await cache.write(parts.map(({ key, at, length }) => [`host ${key}`, other.subarray(at, at + length)])))
  allRead(await cache.read(parts.map(({ key, at, length }) => [`host ${key}`, target.subarray(at, length)] as const)))
  same((await rig.bytes(target)).subarray(0, all), other, 'pages that host memory wrote')

  // Host memory and a GPU's in one call, by turns.
  const mixed = await cache.write(parts.map(({ key, at, length }, i) => [`mixed ${key}`, i % 2 === 0 ? source.subarray(at, length) : data.subarray(at, at + length)] as const))
  allStored(mixed)
  await rig.fill(target, guard)
  const into = parts.map(({ length }) => new Uint8Array(length))
  const back = await cache.read(parts.map(({ key, at, length }, i) => [`mixed ${key}`, i % 2 === 1 ? target.subarray(at, length) : into[i]!] as const))
  back.forEach((outcome, i) => {
    assert.ok(outcome.ok, described(outcome))
    assert.equal(outcome.verified, i % 2 === 0 || !direct(rig), 'verified')
  })
  same(await rig.bytes(target), image(...some), 'mixed pages')
  into.forEach((bytes, i) => { if (i % 2 === 0) same(bytes, data.subarray(parts[i]!.at, parts[i]!.at + parts[i]!.length), `mixed page ${i}`) })

  // The short calls; the buffer itself is a page, too.
  await rig.fill(target, guard)
  assert.equal(await cache.set('whole', source), true)
  assert.equal(await cache.get('whole', target), target)
  same(await rig.bytes(target), data, 'the whole buffer')
  await rig.fill(target, guard)
  assert.deepEqual(await cache.batchSet(parts.map(({ key }) => `batch ${key}`), parts.map(({ at, length }) => source.subarray(at, length))), parts.map(() => true))
  const targets = parts.map(({ at, length }) => target.subarray(at, length))
  assert.deepEqual(await cache.batchGet(parts.map(({ key }) => `batch ${key}`), targets), targets)
  same(await rig.bytes(target), image(...parts), 'batchGet()')

  // Nothing there, or of another length: no hit, and the memory as it was.
  await rig.fill(target, guard)
  assert.equal(await cache.get('nobody wrote it', target), null)
  const shorter = await cache.read([['page0', target.subarray(0, 65535)], ['page0', target.subarray(0, 65537)]])
  for (const outcome of shorter) assert.ok(!outcome.ok, 'a page of another length')
  same((await rig.bytes(target)).subarray(65537), guard.subarray(65537), 'behind a page of another length')

  // What was asked for before counts as done.
  assert.deepEqual(await Promise.all([cache.set('in order', source.subarray(0, 1000)), cache.exists('in order'), cache.delete('in order'), cache.exists('in order')]), [true, true, true, false])

  // A page replaced by one of another length, and one that is gone.
  assert.equal(await cache.set('page0', source.subarray(7, 12_345)), true)
  assert.equal(await cache.get('page0', target.subarray(3, 12_345)) !== null, true)
  same(await rig.bytes(target, 3, 12_345), data.subarray(7, 7 + 12_345), 'a page that was replaced')
  assert.equal(await cache.delete('page0'), true)
  assert.equal(await cache.get('page0', target.subarray(3, 12_345)), null)
  return { plugin: cache.selection.plugin, engine: cache.selection.engine, agent: cache.selection.agent, layout: cache.storageLayout, others: shorter.map(described) }
}

export const SCENARIOS: Readonly<Record<string, Scenario>> = {
  /** Pages of a GPU's memory by every call there is, the bytes compared, and what lies beside them. */
  async transfers(rig) {
    return await transfers(rig, await rig.open())
  },

  /** The same on a system of spec/support/systems.ts. */
  async transfersOn(rig) {
    const system = SYSTEMS.find(({ title }) => title === rig.task.parameters?.['system'])!
    mkdirSync(rig.task.folder, { recursive: true })
    system.prepare?.(rig.task.folder)
    return await transfers(rig, await rig.open({ config: system.config(rig.task.folder) }))
  },

  /** Everything that is no device memory of this cache. */
  async refusals(rig) {
    const cache = await rig.open()
    const memory = await cache.allocDeviceBuffer({ length: 65536 })
    await rig.fill(memory, noise(65536))
    assert.equal(await cache.set('page', memory), true)
    const { address, deviceId } = memory
    const at = (buffer: Partial<DeviceBuffer>): DeviceBuffer => ({ type: 'VRAM', deviceId, address, length: 4096, ...buffer })
    const wrong: Record<string, DeviceBuffer> = {
      'an address before it': at({ address: address - 1n }), 'beyond its end': at({ address: address + 65536n - 4095n }), 'its end': at({ address: address + 65536n }),
      'an address of nothing': at({ address: 4096n }), 'another device': at({ deviceId: 7 }), 'no device': at({ deviceId: -1 }), 'half a device': at({ deviceId: 0.5 }),
      'no length': at({ length: 0 }), 'a length below zero': at({ length: -1 }), 'too long': at({ length: 65537 }), 'an address of numbers': at({ address: Number(address) as unknown as bigint })
    }
    const codes: Record<string, string[]> = {}
    for (const [name, buffer] of Object.entries(wrong)) {
      codes[name] = [
        (await failure(cache.set('key', buffer))).code, (await failure(cache.get('key', buffer))).code, (await failure(cache.write([['key', buffer]]))).code, (await failure(cache.read([['key', buffer]]))).code,
        // With one that is right, in whose stead nothing happens.
        (await failure(cache.batchSet(['key', 'other'], [memory.subarray(0, 1), buffer]))).code
      ]
      assert.equal(await cache.exists('key'), false)
    }
    const parts = [[-1, 1], [0, 0], [0, 65537], [65536, 1], [0.5, 1], [1, Number.NaN]].map(([offset, length]) => {
      try {
        return memory.subarray(offset!, length!).length
      } catch (error) {
        return (error as HiCacheError).code
      }
    })
    const uncovered = told(await failure(cache.get('page', at({ address: 4096n }))))
    const part = memory.subarray(0, 4096)
    memory.release()
    memory.release()
    const released = [told(await failure(cache.get('page', memory))), told(await failure(cache.set('key', part))), told(await failure(memory.exportHandle()))]
    const ordinal = told(await failure(cache.allocDeviceBuffer({ length: 4096, deviceId: 97 })))
    const lengths = [0, -1, 0.5, Number.NaN].map(async length => (await failure(cache.allocDeviceBuffer({ length }))).code)
    const devices = [-1, 0.5, 5000, 'x' as unknown as number].map(async deviceId => (await failure(cache.allocDeviceBuffer({ length: 4096, deviceId }))).code)
    const tooMuch = told(await failure(cache.allocDeviceBuffer({ length: 2 ** 47 })))
    const garbage = told(await failure(cache.openDeviceBuffer({ handle: noise(64), length: 4096 })))
    const handles = [new Uint8Array(63), new Uint8Array(65), 'x' as unknown as Uint8Array, undefined as unknown as Uint8Array].map(async handle => (await failure(cache.openDeviceBuffer({ handle, length: 4096 }))).code)
    const host = told(await failure(cache.registerDeviceBuffer({ address: 4096n, length: 4096 })))
    const addresses = [-1n, 2n ** 64n, 5 as unknown as bigint, undefined as unknown as bigint].map(async wrongAddress => (await failure(cache.registerDeviceBuffer({ address: wrongAddress, length: 4096 }))).code)
    await cache.close()
    const closed = (await failure(cache.allocDeviceBuffer({ length: 4096 }))).code
    return {
      codes, parts, uncovered, released, ordinal, lengths: await Promise.all(lengths), devices: await Promise.all(devices), tooMuch, garbage, handles: await Promise.all(handles), host,
      addresses: await Promise.all(addresses), closed
    }
  },

  /** Memory that somebody else in the process has allocated. Two caches: one owns it, the other registers it. */
  async registered(rig) {
    const owner = await rig.open({}, 'owner'), cache = await rig.open()
    const owned = await owner.allocDeviceBuffer({ length: MIB })
    await rig.fill(owned, noise(MIB))
    const registered = await cache.registerDeviceBuffer({ address: owned.address + 4096n, length: 65536, deviceId: owned.deviceId })
    assert.equal(await cache.set('page', registered), true)
    await rig.fill(owned, new Uint8Array(MIB))
    allRead(await cache.read([['page', registered]]))
    same(await rig.bytes(owned, 4096, 65536), noise(MIB).subarray(4096, 4096 + 65536), 'registered memory')
    const beyond = told(await failure(cache.registerDeviceBuffer({ address: owned.address, length: MIB + 1 })))
    const device = told(await failure(cache.registerDeviceBuffer({ address: owned.address, length: MIB, deviceId: 3 })))
    registered.release()
    const released = (await failure(cache.get('page', registered))).code
    // Not its memory: it is still there.
    same(await rig.bytes(owned, 4096, 16), noise(MIB).subarray(4096, 4112), 'memory whose registration ended')
    await cache.close()
    same(await rig.bytes(owned, 4096, 16), noise(MIB).subarray(4096, 4112), 'memory of another cache')
    return { beyond, device, released }
  },

  /** More device pages than the arena holds, and such as it never takes. */
  async arena(rig) {
    const cache = await rig.open({ arenaBytes: 16 * MIB, timeoutMs: 30_000 })
    const count = 40, page = MIB
    const source = await cache.allocDeviceBuffer({ length: count * page }), target = await cache.allocDeviceBuffer({ length: count * page })
    const data = noise(count * page)
    await rig.fill(source, data)
    const keys = Array.from({ length: count }, (_, i) => `large${i}`)
    // Two calls at once, which want the same slots.
    const [first, second] = await Promise.all([0, 1].map(async turn => await cache.write(keys.map((key, i) => [`${turn} ${key}`, source.subarray(i * page, page)]))))
    allStored([...first!, ...second!])
    allRead(await cache.read(keys.map((key, i) => [`1 ${key}`, target.subarray(i * page, page)] as const)), !direct(rig))
    same(await rig.bytes(target), data, 'more pages than the arena holds')
    // A slot of a byte is a block.
    const bytes = Number(rig.task.parameters?.['small'] ?? 1500)
    allStored(await cache.write(Array.from({ length: bytes }, (_, i) => [`small${i}`, source.subarray(i, 1)] as const), { timeoutMs: 60_000 }))
    await rig.fill(target, new Uint8Array(bytes))
    allRead(await cache.read(Array.from({ length: bytes }, (_, i) => [`small${i}`, target.subarray(i, 1)] as const), { timeoutMs: 60_000 }))
    same(await rig.bytes(target, 0, bytes), data.subarray(0, bytes), 'pages of a byte')
    // Half of the arena is as much as goes.
    const half = source.subarray(0, 8 * MIB), more = source.subarray(0, 8 * MIB + 1)
    allStored(await cache.write([['half', half]]))
    allRead(await cache.read([['half', target.subarray(0, 8 * MIB)]]))
    same(await rig.bytes(target, 0, 8 * MIB), data.subarray(0, 8 * MIB), 'half of the arena')
    const [rejectedWrite, stored] = await cache.write([['more', more], ['beside', source.subarray(0, 4096)]])
    const host = new Uint8Array(8 * MIB + 1)
    allStored(await cache.write([['more', host.fill(7)]]))
    const [rejectedRead] = await cache.read([['more', target.subarray(0, 8 * MIB + 1)]])
    // Callers have what they may have: there is room for small pages, and a large one waits until its deadline, or until there is room.
    const held = [cache.allocate({ dtype: 'uint8', shape: [5 * MIB] }), cache.allocate({ dtype: 'uint8', shape: [5 * MIB] })]
    allStored(await cache.write(keys.map((key, i) => [key, source.subarray(i * 100, 100)])))
    const [late] = await cache.write([['late', half]], { timeoutMs: 100 })
    const aborting = new AbortController()
    const aborted = cache.write([['aborted', half]], { signal: aborting.signal })
    aborting.abort()
    const waiting = cache.write([['waits', half]], { timeoutMs: 20_000 })
    for (const tensor of held) tensor.release()
    allStored(await waiting)
    const read = rejectedRead!
    return {
      write: described(rejectedWrite!), beside: described(stored!), read: described(read), late: described(late!), aborted: described((await aborted)[0]!), staged: !direct(rig)
    }
  },

  /** Memory that is released while a transfer uses it. With the stand-ins. */
  async release(rig) {
    const control = rig.control!
    const cache = await rig.open({ workers: 1 })
    const source = await cache.allocDeviceBuffer({ length: MIB }), target = await cache.allocDeviceBuffer({ length: MIB })
    await rig.fill(source, noise(MIB))
    // A write is staged: its slots are on their way to the disk.
    rig.addon.setFaults(hold(HOST_POINTS, rig.task.storageLayout === 'segment' ? 'segments' : 'page'))
    const writing = cache.write([['page', source]])
    await rig.until('cuda.count.copies', count => count >= 2)
    source.release()
    assert.equal(control.get('cuda.count.allocations'), 2)
    assert.equal((await failure(cache.set('other', source))).code, 'ERR_ARGUMENT')
    rig.addon.clearFaults()
    allStored(await writing)
    await rig.until('cuda.count.allocations', 1)

    // A read: held in cuFile's call, or on its way from the disk.
    if (direct(rig)) control.set('cufile.param.hold', 1)
    else rig.addon.setFaults(hold(HOST_POINTS, rig.task.storageLayout === 'segment' ? 'segments' : 'page'))
    const reading = cache.read([['page', target.subarray(0, MIB)]])
    if (direct(rig)) await rig.until('cufile.count.in_flight', 1)
    target.release()
    assert.equal(target.released, true)
    assert.equal((await failure(cache.get('page', target))).code, 'ERR_ARGUMENT')
    assert.equal(control.get('cuda.count.allocations'), 1)
    control.set('cufile.param.hold', 0)
    rig.addon.clearFaults()
    allRead(await reading)
    await rig.until('cuda.count.allocations', 0)
    return control.get('cufile.count.buffers')
  },

  /** A call of cuFile that hangs: its page is settled by the deadline, and its memory stays until the call ends. With the stand-ins. */
  async deadline(rig) {
    const control = rig.control!
    const cache = await rig.open({ workers: 1 })
    const memory = await cache.allocDeviceBuffer({ length: MIB }), other = await cache.allocDeviceBuffer({ length: MIB })
    await rig.fill(memory, noise(MIB))
    assert.equal(await cache.set('page', memory), true)
    control.set('cufile.param.hold', 1)
    const started = performance.now()
    const reading = cache.read([['page', memory]], { timeoutMs: 500 })
    await rig.until('cufile.count.in_flight', 1)
    const [outcome] = await reading
    const took = performance.now() - started
    const aborting = new AbortController()
    const aborted = cache.read([['page', other]], { signal: aborting.signal })
    await new Promise(resolve => { setTimeout(resolve, 20) })
    aborting.abort()
    const [cancelled] = await aborted
    // The directory is tried again after a while, and host memory is not held up.
    await new Promise(resolve => { setTimeout(resolve, 1100) })
    const [host] = await cache.read(['page'])
    assert.ok(host!.ok, described(host!))
    same(bytesOf(host!), noise(MIB), 'host memory meanwhile')
    memory.release()
    other.release()
    await new Promise(resolve => { setTimeout(resolve, 100) })
    const alive = control.get('cuda.count.allocations')
    control.set('cufile.param.hold', 0)
    await rig.until('cuda.count.allocations', 0)
    // And it goes on.
    const next = await cache.allocDeviceBuffer({ length: MIB })
    allRead(await cache.read([['page', next]]))
    same(await rig.bytes(next), noise(MIB), 'the next read')
    return { outcome: described(outcome!), cancelled: described(cancelled!), took, alive }
  },

  /** close() while a call of cuFile hangs. With the stand-ins. */
  async closing(rig) {
    const control = rig.control!
    const cache = await rig.open({ workers: 1 })
    const memory = await cache.allocDeviceBuffer({ length: MIB })
    assert.equal(await cache.set('page', memory), true)
    control.set('cufile.param.hold', 1)
    const reading = cache.read([['page', memory]], { timeoutMs: 20_000 })
    await rig.until('cufile.count.in_flight', 1)
    const started = performance.now()
    await cache.close({ graceMs: 100 })
    const took = performance.now() - started
    const alive = control.get('cuda.count.allocations')
    const [outcome] = await reading
    control.set('cufile.param.hold', 0)
    await rig.until('cuda.count.allocations', 0)
    await rig.until('cufile.count.handles', 0)
    await rig.until('cufile.count.batches', 0)
    return { outcome: described(outcome!), took, alive }
  },

  /** close() in the middle of staging more than the arena holds: every page is settled, nothing is left. */
  async closingStaged(rig) {
    const cache = await rig.open({ arenaBytes: 16 * MIB })
    const memory = await cache.allocDeviceBuffer({ length: 64 * MIB })
    const writing = cache.write(Array.from({ length: 64 }, (_, i) => [`page${i}`, memory.subarray(i * MIB, MIB)] as const))
    const late = cache.allocDeviceBuffer({ length: MIB }).then(() => 'made', (error: unknown) => (error as HiCacheError).code)
    await cache.close({ graceMs: Number(rig.task.parameters?.['graceMs'] ?? 0) })
    const outcomes = await writing
    return { late: await late, statuses: [...new Set(outcomes.map(({ status }) => status))], errors: [...new Set(outcomes.flatMap(({ ok, ...outcome }) => ok ? [] : [(outcome as { error?: HiCacheError }).error?.code ?? 'none']))] }
  },

  /** Pages of memory that another process has allocated: into it and out of it. */
  async ipc(rig) {
    const cache = await rig.open()
    const peer = fork(fileURLToPath(new URL('./gpu-child.js', import.meta.url)), [JSON.stringify({ ...rig.task, scenario: 'ipcOwner', folder: join(rig.task.folder, 'owner') })], { serialization: 'advanced', stdio: ['ignore', 'ignore', 'inherit', 'ipc'] })
    const say = async (message: unknown): Promise<unknown> => {
      peer.send(message as object)
      return await answerOf(peer)
    }
    const { handle, offset, inner, data } = await answerOf(peer) as { handle: Uint8Array; offset: number; inner: number; data: Uint8Array }
    // The handle is the whole allocation's: where the page lies in it travels with it.
    const opened = await cache.openDeviceBuffer({ handle, offset: offset + inner, length: 100_000 })
    const again = await cache.openDeviceBuffer({ handle, offset, length: data.length })
    same(await rig.bytes(opened), data.subarray(inner, inner + 100_000), 'what the other process has')
    assert.equal(await cache.set('theirs', opened), true)
    const page = noise(100_000, 3)
    assert.equal(await cache.set('ours', page), true)
    allRead(await cache.read([['ours', opened]]), !direct(rig))
    const seen = await say('show') as Uint8Array
    const expected = data.slice()
    expected.set(page, inner)
    same(seen, expected, 'what the other process sees')
    // Opened twice, closed with the last holder; not to be had beyond its end.
    opened.release()
    allRead(await cache.read([['theirs', again.subarray(inner, 100_000)]]))
    same(await say('show') as Uint8Array, data, 'what the other process sees in the end')
    const beyond = told(await failure(cache.openDeviceBuffer({ handle, offset, length: 2 ** 40 })))
    again.release()
    await rig.addon.cuda.probe()
    // Its owner is gone.
    peer.send('end')
    await once(peer, 'exit')
    const gone = told(await failure(cache.openDeviceBuffer({ handle, offset, length: 4096 })))
    return { beyond, gone, exit: peer.exitCode }
  },

  /** The other process of `ipc`. */
  async ipcOwner(rig) {
    const cache = await rig.open()
    const memory = await cache.allocDeviceBuffer({ length: 4 * MIB })
    const data = noise(4 * MIB, 9)
    await rig.fill(memory, data)
    process.send!({ ...await memory.exportHandle(), inner: 65536 + 7, data })
    for (;;) {
      const [message] = await once(process, 'message') as [string]
      if (message === 'end') return
      process.send!(await rig.bytes(memory))
    }
  },

  /** Memory that CUDA's virtual memory functions made cannot be shared. */
  async unshared(rig) {
    const cache = await rig.open()
    rig.control!.set('cuda.fault.virtual', 1)
    const memory = await cache.allocDeviceBuffer({ length: 4 * MIB })
    const error = told(await failure(memory.exportHandle()))
    // In two mappings, and one buffer all the same.
    const registered = await cache.registerDeviceBuffer({ address: memory.address, length: 4 * MIB })
    await rig.fill(memory, noise(4 * MIB))
    assert.equal(await cache.set('page', registered), true)
    return error
  },

  /** The driver refuses one thing after the other. With the stand-ins. */
  async driver(rig) {
    const control = rig.control!
    const cache = await rig.open()
    const memory = await cache.allocDeviceBuffer({ length: MIB })
    await rig.fill(memory, noise(MIB))
    assert.equal(await cache.set('page', memory), true)
    // Not pinned: slower, and not wrong.
    control.set('cuda.fault.copy', -1)
    const [write] = await cache.write([['other', memory]])
    const [read] = await cache.read([['page', memory]])
    control.set('cuda.fault.copy', 0)
    assert.equal(await cache.exists('other'), false)
    control.set('cuda.fault.alloc', 1)
    const alloc = told(await failure(cache.allocDeviceBuffer({ length: MIB })))
    control.set('cuda.param.error', 2)
    control.set('cuda.fault.alloc', 1)
    const full = told(await failure(cache.allocDeviceBuffer({ length: MIB })))
    control.set('cuda.param.error', 0)
    control.set('cuda.fault.ipc_get', 1)
    const ipc = told(await failure(memory.exportHandle()))
    const next = await cache.allocDeviceBuffer({ length: MIB })
    allRead(await cache.read([['page', next]]))
    same(await rig.bytes(next), noise(MIB), 'afterwards')
    return { write: described(write!), read: described(read!), alloc, full, ipc }
  },

  /** The arena cannot be pinned. With the stand-ins. */
  async unpinned(rig) {
    rig.control!.set('cuda.fault.register', -1)
    const cache = await rig.open()
    const memory = await cache.allocDeviceBuffer({ length: MIB })
    await rig.fill(memory, noise(MIB))
    assert.equal(await cache.set('page', memory), true)
    await rig.fill(memory, new Uint8Array(MIB))
    allRead(await cache.read([['page', memory]]))
    same(await rig.bytes(memory), noise(MIB), 'without pinned memory')
    return rig.control!.get('cuda.count.registrations')
  },

  /** How fast pages come from storage into a GPU's memory; for scripts/try-gpu.mjs. `write`: they are stored first. */
  async speed(rig) {
    const { pages, pageBytes, write = false } = rig.task.parameters as { pages: number; pageBytes: number; write?: boolean }
    const cache = await rig.open({ workers: 1, arenaBytes: Math.max(64 * MIB, 4 * pageBytes), timeoutMs: 300_000 })
    const memory = await cache.allocDeviceBuffer({ length: pages * pageBytes })
    const first = noise(pageBytes), keys = Array.from({ length: pages }, (_, i) => `page${i}`)
    if (write) {
      for (const key of keys) allStored(await cache.write([[key, first]]))
      return { plugin: cache.selection.plugin }
    }
    await rig.fill(memory, new Uint8Array(pageBytes))
    const targets = keys.map((key, i) => [key, memory.subarray(i * pageBytes, pageBytes)] as const)
    // Threads have started, and the driver knows the memory; the rest is as it was.
    allRead(await cache.read(targets.slice(-1)))
    const started = performance.now()
    const outcomes = await cache.read(targets)
    const seconds = (performance.now() - started) / 1000
    allRead(outcomes)
    same(await rig.bytes(memory, 0, pageBytes), first, 'the first page')
    const report = cache.selection.plugins.find(({ name }) => name === cache.selection.plugin) as { details?: { mode?: string } } | undefined
    return { bytes: pages * pageBytes, seconds, mode: report?.details?.mode ?? 'staged' }
  },

  /** Two devices. With the stand-ins. */
  async devices(rig) {
    const cache = await rig.open()
    const both = await Promise.all([0, 1].map(async deviceId => await cache.allocDeviceBuffer({ length: MIB, deviceId })))
    await Promise.all(both.map(async (memory, i) => { await rig.fill(memory, noise(MIB, i + 1)) }))
    allStored(await cache.write(both.map((memory, i) => [`page${i}`, memory])))
    await Promise.all(both.map(async memory => { await rig.fill(memory, new Uint8Array(MIB)) }))
    allRead(await cache.read(both.map((memory, i) => [`page${i}`, memory] as const)), !direct(rig))
    for (const [i, memory] of both.entries()) same(await rig.bytes(memory), noise(MIB, i + 1), `device ${i}`)
    // An address of one under the number of the other.
    const { address, length } = both[1]!
    assert.equal((await failure(cache.get('page0', { type: 'VRAM', deviceId: 0, address, length }))).code, 'ERR_ARGUMENT')
    return null
  },

  /** No library of CUDA's. */
  async without(rig) {
    const cache = await rig.open()
    const alloc = told(await failure(cache.allocDeviceBuffer({ length: 4096 })))
    const opened = told(await failure(cache.openDeviceBuffer({ handle: new Uint8Array(64), length: 4096 })))
    const registered = told(await failure(cache.registerDeviceBuffer({ address: 4096n, length: 4096 })))
    const address = (await failure(cache.set('page', { type: 'VRAM', deviceId: 0, address: 4096n, length: 4096 }))).code
    const page = noise(100_000)
    assert.equal(await cache.set('page', page), true)
    const back = await cache.get('page')
    same(new Uint8Array(back!.data.buffer, back!.data.byteOffset, back!.data.byteLength), page, 'host memory')
    await cache.close()
    const plugins = await Promise.all(['gds', 'gds_mt'].map(async plugin => told(await failure(rig.open({ config: { plugin: { [plugin]: { active: true } } } }, plugin)))))
    return { alloc, opened, registered, address, plugins }
  },

  /** The process ends with transfers of device memory under way. */
  async exits(rig) {
    const cache = await rig.open()
    const memory = await cache.allocDeviceBuffer({ length: 16 * MIB })
    assert.equal(await cache.set('page', memory.subarray(0, MIB)), true)
    void cache.read(Array.from({ length: 16 }, (_, i) => ['page', memory.subarray(i * MIB, MIB)] as const))
    void cache.write(Array.from({ length: 16 }, (_, i) => [`page${i}`, memory.subarray(i * MIB, MIB)] as const))
    await new Promise(resolve => { setTimeout(resolve, Number(rig.task.parameters?.['ms'] ?? 0)) })
    process.stdout.write('{"result":null}\n')
    process.exit(0)
  },

  /** What the selection says of the plugin, and whether a page goes and comes. */
  async selection(rig) {
    let cache: HiCacheNixl
    try {
      cache = await rig.open()
    } catch (error) {
      if (!HiCacheError.is(error)) throw error
      // The service lives.
      const plain = await rig.open({ config: { plugin: { posix: { active: true } } } }, 'plain')
      assert.equal(await plain.set('page', noise(65536)), true)
      assert.ok(await plain.get('page') !== null)
      return { error: told(error) }
    }
    const { plugin, engine, agent, source, plugins } = cache.selection
    const memory = await cache.allocDeviceBuffer({ length: 65536 })
    await rig.fill(memory, noise(65536))
    assert.equal(await cache.set('page', memory), true)
    await rig.fill(memory, new Uint8Array(65536))
    const [outcome] = await cache.read([['page', memory]])
    if (outcome!.ok) same(await rig.bytes(memory), noise(65536), 'a page')
    return { plugin, engine, agent, source, report: plugins.find(({ name }) => name === plugin), outcome: described(outcome!) }
  },

  /** The real child process of the probe, with a limit of its own. */
  async probe(rig) {
    const { plugin = 'gds_mt' } = rig.task
    const limit = Number(rig.task.parameters?.['limitMs'])
    const probe = new CufileProbe(plugin as 'gds' | 'gds_mt', rig.addon, { inspect: async () => await inspectCufile(limit) })
    const config = NixlBackendConfig.load({ env: {}, config: { plugin: { [plugin]: { active: true } } } })
    let turns = 0
    const turning = setInterval(() => { turns++ }, 10)
    const started = performance.now()
    const report = await probe.probe(config)
    const took = performance.now() - started
    clearInterval(turning)
    const plain = await rig.open({ config: { plugin: { posix: { active: true } } } })
    assert.equal(await plain.set('page', noise(65536)), true)
    return { report, took, turns, ...rig.control === null ? {} : { open: rig.control.get('cufile.count.open') } }
  },

  /** How many calls of cuFile are under way at once, when there is plenty to do. With the stand-ins. */
  async inFlight(rig) {
    const control = rig.control!
    const { count = 40, wanted = 1 } = rig.task.parameters as { count?: number; wanted?: number }
    const cache = await rig.open({ workers: Number(rig.task.parameters?.['workers'] ?? 1) })
    const page = 65536
    const source = await cache.allocDeviceBuffer({ length: count * page }), target = await cache.allocDeviceBuffer({ length: count * page })
    const data = noise(count * page)
    await rig.fill(source, data)
    const keys = Array.from({ length: count }, (_, i) => `page${i}`)
    allStored(await cache.write(keys.map((key, i) => [key, source.subarray(i * page, page)])))
    control.set('cufile.param.hold', 1)
    const reading = cache.read(keys.map((key, i) => [key, target.subarray(i * page, page)] as const))
    await rig.until('cufile.count.in_flight', rig.task.parameters?.['atLeast'] === true ? now => now >= wanted : wanted)
    // Time for more, if there were more.
    await new Promise(resolve => { setTimeout(resolve, 100) })
    const held = control.get('cufile.count.in_flight')
    const entries = control.get('cufile.count.batch_entries')
    control.set('cufile.param.hold', 0)
    allRead(await reading, false)
    same(await rig.bytes(target), data, 'all pages')
    return { held, max: control.get('cufile.count.in_flight_max'), entries, inUse: control.get('cufile.count.batches_in_use_max') }
  },

  /** Faults of cuFile while pages are read into a GPU: never wrong bytes. With the stand-ins; `faults`: what is set before each of the reads. */
  async faults(rig) {
    const control = rig.control!
    const cache = await rig.open({ workers: 1 })
    const lengths = [65536, 100_001, 1, 4097, 262_144], parts = partsOf(lengths, 'page')
    const all = parts.at(-1)!.at + parts.at(-1)!.length
    const source = await cache.allocDeviceBuffer({ length: all }), target = await cache.allocDeviceBuffer({ length: all })
    const data = noise(all)
    await rig.fill(source, data)
    allStored(await cache.write(parts.map(({ key, at, length }) => [key, source.subarray(at, length)])))
    const answers: Record<string, string[]> = {}
    for (const [name, settings] of Object.entries(rig.task.parameters!['faults'] as Record<string, Record<string, number>>)) {
      await rig.fill(target, new Uint8Array(all).fill(GUARD))
      for (const [knob, value] of Object.entries(settings)) control.set(knob, value)
      const outcomes = await cache.read(parts.map(({ key, at, length }) => [key, target.subarray(at, length)] as const), { timeoutMs: 20_000 })
      for (const knob of Object.keys(settings)) control.set(knob, 0)
      const got = await rig.bytes(target)
      outcomes.forEach((outcome, i) => {
        const { at, length } = parts[i]!
        if (outcome.ok) same(got.subarray(at, at + length), data.subarray(at, at + length), `${name}: ${outcome.key}, said to be read`)
      })
      answers[name] = outcomes.map(described)
      // It was that once.
      allRead(await cache.read(parts.map(({ key, at, length }) => [key, target.subarray(at, length)] as const)), false)
      same(await rig.bytes(target), data, `after ${name}`)
    }
    return answers
  }
}

async function answerOf(peer: ChildProcess): Promise<unknown> {
  const [answer] = await Promise.race([once(peer, 'message'), once(peer, 'exit').then(([code]) => { throw new Error(`the other process ended with ${String(code)}`) })]) as [unknown]
  return answer
}
