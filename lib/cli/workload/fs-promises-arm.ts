import { constants } from 'node:fs'
import { mkdir, open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { HiCacheError } from '../../error.js'
import type { ArmSample, BenchArm } from './bench-arm.js'
import { PageContent } from './page-content.js'

/** @types/node leaves WebAssembly to the DOM's types; this is all that is used of it here. */
declare const WebAssembly: { readonly Memory: new (descriptor: { initial: number; maximum: number; shared: true }) => { readonly buffer: SharedArrayBuffer } }

const WASM_PAGE = 65536

export interface FsPromisesArmOptions {
  readonly directory: string
  readonly pageBytes: number
  readonly pages: number
  /** Files worked on at once. */
  readonly inFlight: number
  /** With O_DIRECT: from and to the device, as the cache does it. Without: through the page cache, where reads of what was just written never meet the device. */
  readonly direct: boolean
}

/** What one would write with Node alone: a temporary name, a write, a rename; and a read into a buffer that is used again. No record, no check. */
export class FsPromisesArm implements BenchArm {
  readonly name: string
  private readonly buffers: Buffer[] = []

  constructor(private readonly options: FsPromisesArmOptions) {
    this.name = options.direct ? 'fs-promises-direct' : 'fs-promises'
  }

  async write(round: number): Promise<ArmSample> {
    const { pages, pageBytes, direct } = this.options
    this.prepareBuffers()
    const content = new PageContent(pageBytes)
    this.buffers.forEach((buffer, index) => content.fill(buffer, index))
    const directory = this.folder(round)
    await mkdir(directory, { recursive: true })
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | (direct ? constants.O_DIRECT : 0)
    const sample = await this.timed(async (page, buffer) => {
      const temporary = this.file(round, page) + '.tmp'
      const handle = await open(temporary, flags, 0o600)
      try {
        const { bytesWritten } = await handle.write(buffer, 0, pageBytes, 0)
        if (bytesWritten !== pageBytes) throw new HiCacheError('ERR_IO', `${this.name}: ${bytesWritten} of ${pageBytes} bytes written`)
      } finally {
        await handle.close()
      }
      await rename(temporary, this.file(round, page))
    })
    if (!direct) {
      // Otherwise the kernel would write these pages to the device while the next arm is measured.
      await this.each(async page => {
        const handle = await open(this.file(round, page), 'r+')
        try {
          await handle.datasync()
        } finally {
          await handle.close()
        }
      })
    }
    return { ...sample, bytes: pages * pageBytes }
  }

  async read(round: number): Promise<ArmSample> {
    const { pages, pageBytes, direct } = this.options
    this.prepareBuffers()
    const flags = constants.O_RDONLY | (direct ? constants.O_DIRECT : 0)
    const sample = await this.timed(async (page, buffer) => {
      const handle = await open(this.file(round, page), flags)
      try {
        const { bytesRead } = await handle.read(buffer, 0, pageBytes, 0)
        if (bytesRead !== pageBytes) throw new HiCacheError('ERR_IO', `${this.name}: ${bytesRead} of ${pageBytes} bytes read`)
      } finally {
        await handle.close()
      }
    })
    return { ...sample, bytes: pages * pageBytes }
  }

  async discard(round: number): Promise<void> { await rm(this.folder(round), { recursive: true, force: true }) }

  private folder(round: number): string { return join(this.options.directory, `${this.name}-${round}`) }

  private file(round: number, page: number): string { return join(this.folder(round), String(page)) }

  /** A shared WebAssembly memory begins at a page of the system, which O_DIRECT needs and an ordinary ArrayBuffer does not give. */
  private prepareBuffers(): void {
    if (this.buffers.length > 0) return
    const { pageBytes, inFlight } = this.options
    const stride = Math.ceil(pageBytes / 4096) * 4096
    const wasmPages = Math.ceil(stride * inFlight / WASM_PAGE)
    const memory = new WebAssembly.Memory({ initial: wasmPages, maximum: wasmPages, shared: true })
    for (let index = 0; index < inFlight; index++) this.buffers.push(Buffer.from(memory.buffer, index * stride, pageBytes))
  }

  private async timed(one: (page: number, buffer: Buffer) => Promise<void>): Promise<Omit<ArmSample, 'bytes'>> {
    const latencyUs = new Float64Array(this.options.pages)
    const cpu = process.cpuUsage()
    const started = performance.now()
    await this.each(async (page, lane) => {
      const begun = performance.now()
      await one(page, this.buffers[lane]!)
      latencyUs[page] = (performance.now() - begun) * 1000
    })
    const seconds = (performance.now() - started) / 1000
    const { user, system } = process.cpuUsage(cpu)
    return { seconds, cpuSeconds: (user + system) / 1e6, latencyUs }
  }

  private async each(one: (page: number, lane: number) => Promise<void>): Promise<void> {
    let next = 0
    await Promise.all(Array.from({ length: this.options.inFlight }, async (_, lane) => {
      while (next < this.options.pages) await one(next++, lane)
    }))
  }
}
