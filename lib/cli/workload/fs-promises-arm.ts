import { constants } from 'node:fs'
import { mkdir, open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { HiCacheError } from '../../error.js'
import type { ArmSample, BenchArm, BenchOp } from './bench-arm.js'
import { PeerPages } from './peer-pages.js'

export interface FsPromisesArmOptions {
  readonly directory: string
  readonly pageBytes: number
  readonly pages: number
  /** Files worked on at once. */
  readonly inFlight: number
  /** With O_DIRECT: from and to the device, as the cache does it. Without: through the page cache, where reads of what was just written never meet the device. */
  readonly direct: boolean
  readonly steps: ReadonlySet<BenchOp>
}

/** What one would write with Node alone: a temporary name, a write, a rename; and a read into a buffer that is used again. No record, no checksum. */
export class FsPromisesArm implements BenchArm {
  readonly name: string
  readonly steps: ReadonlySet<BenchOp>
  private readonly pages: PeerPages

  constructor(private readonly options: FsPromisesArmOptions) {
    this.name = options.direct ? 'fs-promises-direct' : 'fs-promises'
    this.steps = options.steps
    this.pages = new PeerPages(this.name, options.pages, options.pageBytes, options.inFlight)
  }

  async run(op: BenchOp, round: number): Promise<ArmSample> { return op === 'read' ? await this.read(round) : await this.write(round) }

  async discard(round: number): Promise<void> { await rm(this.folder(round), { recursive: true, force: true }) }

  private async write(round: number): Promise<ArmSample> {
    const { pageBytes, direct } = this.options
    const directory = this.folder(round)
    await mkdir(directory, { recursive: true })
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | (direct ? constants.O_DIRECT : 0)
    const sample = await this.pages.write(round, async (page, buffer) => {
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
    if (direct) return sample
    // Otherwise the kernel would write these pages to the device while the next arm is measured.
    const started = performance.now()
    await this.pages.each(async page => {
      const handle = await open(this.file(round, page), 'r+')
      try {
        await handle.datasync()
      } finally {
        await handle.close()
      }
    })
    return { ...sample, flushSeconds: (performance.now() - started) / 1000 }
  }

  private async read(round: number): Promise<ArmSample> {
    const { pageBytes, direct } = this.options
    const flags = constants.O_RDONLY | (direct ? constants.O_DIRECT : 0)
    return await this.pages.read(round, async (page, buffer) => {
      const handle = await open(this.file(round, page), flags)
      try {
        const { bytesRead } = await handle.read(buffer, 0, pageBytes, 0)
        if (bytesRead !== pageBytes) throw new HiCacheError('ERR_IO', `${this.name}: ${bytesRead} of ${pageBytes} bytes read`)
      } finally {
        await handle.close()
      }
    })
  }

  private folder(round: number): string { return join(this.options.directory, `${this.name}-${round}`) }

  private file(round: number, page: number): string { return join(this.folder(round), String(page)) }
}
