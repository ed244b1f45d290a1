import { HiCacheError } from '../../error.js'
import type { ArmSample } from './bench-arm.js'
import { alignedBuffers } from './page-memory.js'
import { StampedBuffers } from './stamped-buffers.js'

/** Pages of one peer, each through one of its buffers: as many lanes as pages in flight, times and contents watched as they are for this package. */
export class PeerPages {
  private buffers: readonly Buffer[] = []
  private stamped: StampedBuffers | null = null

  /** `memory`: makes the lanes' buffers, at the first use. */
  constructor(
    private readonly name: string, private readonly pages: number, private readonly pageBytes: number, private readonly lanes: number,
    private readonly memory: (count: number, bytes: number) => Buffer[] = alignedBuffers,
  ) {}

  async write(round: number, one: (page: number, buffer: Buffer) => Promise<void>): Promise<ArmSample> {
    const stamped = this.prepare()
    stamped.fill(() => 0)
    return await this.timed(async (page, lane) => {
      stamped.stamp(lane, StampedBuffers.stamp(round, 0, page))
      await one(page, this.buffers[lane]!)
    })
  }

  async read(round: number, one: (page: number, buffer: Buffer) => Promise<void>): Promise<ArmSample> {
    const stamped = this.prepare()
    stamped.clear()
    const last = new Map<number, number>()
    const sample = await this.timed(async (page, lane) => {
      await one(page, this.buffers[lane]!)
      last.set(lane, page)
      if (!stamped.has(lane, StampedBuffers.stamp(round, 0, page))) throw new HiCacheError('ERR_CORRUPT', `${this.name}: page ${page} has another page's bytes`)
    })
    for (const [lane, page] of last) {
      const wrong = stamped.wrongBytes(lane, 0, StampedBuffers.stamp(round, 0, page))
      if (wrong > 0) throw new HiCacheError('ERR_CORRUPT', `${this.name}: ${wrong} wrong bytes in page ${page}`)
    }
    return sample
  }

  /** Calls `one` for every page, as many at once as there are lanes. */
  async each(one: (page: number, lane: number) => Promise<void>): Promise<void> {
    let next = 0
    await Promise.all(Array.from({ length: this.lanes }, async (_, lane) => {
      while (next < this.pages) await one(next++, lane)
    }))
  }

  private prepare(): StampedBuffers {
    if (this.stamped === null) {
      this.buffers = this.memory(this.lanes, this.pageBytes)
      this.stamped = new StampedBuffers(this.buffers, this.pageBytes)
    }
    return this.stamped
  }

  private async timed(one: (page: number, lane: number) => Promise<void>): Promise<ArmSample> {
    const latencyUs = new Float64Array(this.pages)
    const cpu = process.cpuUsage()
    const started = performance.now()
    await this.each(async (page, lane) => {
      const begun = performance.now()
      await one(page, lane)
      latencyUs[page] = (performance.now() - begun) * 1000
    })
    const seconds = (performance.now() - started) / 1000
    const { user, system } = process.cpuUsage(cpu)
    return { bytes: this.pages * this.pageBytes, seconds, cpuSeconds: (user + system) / 1e6, latencyUs }
  }
}
