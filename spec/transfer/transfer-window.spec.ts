import { expect } from 'chai'
import { TransferWindow, WINDOW_BYTES_MAX, WINDOW_BYTES_MIN, WINDOW_BYTES_START, WINDOW_MS_MIN } from '../../lib/transfer/transfer-window.js'

const MIB = 1024 * 1024
const BATCH = 4 * MIB

/** Random numbers that are the same in every run. */
function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

interface Device {
  /** Bytes a millisecond that it moves at most. */
  readonly rate: number
  /** Milliseconds that a batch takes when nothing else is on the device. */
  readonly latency: number
  /** How much a batch's time varies, up and down. */
  readonly noise?: number
}

/** Writes as many batches as the window lets go, always with more behind it, for `bytes` in all. */
class Simulation {
  now = 0
  moved = 0
  readonly #window: TransferWindow
  readonly #random = random(7)
  #inFlight: { readonly ends: number; readonly bytes: number }[] = []
  #free = 0

  constructor(window: TransferWindow) { this.#window = window }

  run(device: Device, bytes: number): { rate: number; sizes: number[] } {
    const [start, moved] = [this.now, this.moved]
    const sizes: number[] = []
    while (this.moved - moved < bytes) {
      while (this.#inFlight.reduce((sum, one) => sum + one.bytes, 0) < this.#window.bytes) {
        const vary = 1 + (device.noise ?? 0) * (2 * this.#random() - 1)
        // Transfers queue up for the device's rate; its latency they have side by side.
        this.#free = Math.max(this.#free, this.now) + BATCH / device.rate * vary
        this.#inFlight.push({ ends: Math.max(this.#free, this.now + device.latency * vary), bytes: BATCH })
        this.#inFlight.sort((a, b) => a.ends - b.ends)
      }
      this.#window.held()
      const ended = this.#inFlight.shift()!
      this.now = ended.ends
      this.moved += ended.bytes
      this.#window.ended(ended.bytes, this.now)
      sizes.push(this.#window.bytes)
    }
    return { rate: (this.moved - moved) / (this.now - start), sizes }
  }
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!

describe('the window of bytes in flight', () => {
  it('starts between its floor and its cap; a cap below the floor is both', () => {
    expect(new TransferWindow().bytes).to.equal(WINDOW_BYTES_START)
    expect(WINDOW_BYTES_START).to.be.at.least(3 * WINDOW_BYTES_MIN)
    expect(new TransferWindow({ cap: MIB }).bytes).to.equal(MIB)
    expect(new TransferWindow({ cap: 0 }).bytes).to.equal(1)
    expect(new TransferWindow({ start: 1 }).bytes).to.equal(WINDOW_BYTES_MIN)
  })
  it('shrinks to its floor where more bytes in flight only wait', () => {
    const simulation = new Simulation(new TransferWindow())
    const device = { rate: 0.3 * MIB, latency: 1 }
    simulation.run(device, 16_000 * MIB)
    const { rate, sizes } = simulation.run(device, 16_000 * MIB)
    expect(median(sizes)).to.equal(WINDOW_BYTES_MIN)
    expect(rate / device.rate).to.be.above(0.98)
  })
  it('keeps what the device moves in a moment in flight, however little it seems to lose by less', () => {
    const simulation = new Simulation(new TransferWindow())
    const device = { rate: 2 * MIB, latency: 1, noise: 0.5 }
    simulation.run(device, 16_000 * MIB)
    const { sizes } = simulation.run(device, 16_000 * MIB)
    expect(Math.min(...sizes) / (device.rate * WINDOW_MS_MIN)).to.be.above(0.8)
    expect(median(sizes) / (device.rate * WINDOW_MS_MIN)).to.be.below(1.2)
  })
  it('grows to its cap where more bytes in flight move more', () => {
    const simulation = new Simulation(new TransferWindow())
    const device = { rate: 100 * MIB, latency: 50, noise: 0.2 }
    simulation.run(device, 32_000 * MIB)
    const { sizes } = simulation.run(device, 32_000 * MIB)
    expect(Math.max(...sizes)).to.equal(WINDOW_BYTES_MAX)
    expect(median(sizes)).to.be.at.least(WINDOW_BYTES_MAX / 1.5)
  })
  for (const noise of [0, 0.3, 0.9]) {
    it(`settles about where the device is just busy (times vary by ${100 * noise} %)`, () => {
      const simulation = new Simulation(new TransferWindow())
      // 2 MiB/ms with 16 ms: 32 MiB in flight keep it busy.
      const device = { rate: 2 * MIB, latency: 16, noise }
      simulation.run(device, 32_000 * MIB)
      const { rate, sizes } = simulation.run(device, 64_000 * MIB)
      expect(median(sizes)).to.be.within(24 * MIB, 56 * MIB)
      expect(rate / device.rate).to.be.above(0.85)
    })
  }
  it('follows a device that becomes another', () => {
    const simulation = new Simulation(new TransferWindow())
    const [quick, far] = [{ rate: 0.3 * MIB, latency: 1 }, { rate: 0.3 * MIB, latency: 160 }]
    simulation.run(quick, 64_000 * MIB)
    expect(median(simulation.run(quick, 1000 * MIB).sizes)).to.equal(WINDOW_BYTES_MIN)
    simulation.run(far, 16_000 * MIB)
    expect(simulation.run(far, 16_000 * MIB).rate / far.rate).to.be.above(0.9)
    simulation.run(quick, 64_000 * MIB)
    expect(median(simulation.run(quick, 8000 * MIB).sizes)).to.equal(WINDOW_BYTES_MIN)
  })
  it('learns nothing while less waits than it lets go', () => {
    const window = new TransferWindow()
    for (let i = 0; i < 10_000; i++) window.ended(BATCH, i * 5)
    expect(window.bytes).to.equal(WINDOW_BYTES_START)
  })
  it('a trial that the load does not carry through is given up', () => {
    const window = new TransferWindow()
    let now = 0
    while (window.bytes === WINDOW_BYTES_START) {
      window.held()
      window.ended(BATCH, now += 2)
    }
    window.held()
    window.ended(BATCH, now += 2)
    const tried = window.bytes
    expect(tried).not.to.equal(WINDOW_BYTES_START)
    for (let bytes = 0; bytes < tried; bytes += BATCH) window.ended(BATCH, now += 2)
    expect(window.bytes).to.equal(WINDOW_BYTES_START)
  })
})
