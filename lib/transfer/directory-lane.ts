import { LaneQueue } from './lane-queue.js'
import { Op } from './protocol.js'
import type { TransferRequest } from './transfer-request.js'
import { TransferWindow, WINDOW_BYTES_MAX } from './transfer-window.js'

/** What has waited this long behind other queues goes before them, one batch at a time: everything goes some day. */
export const OVERDUE_MS = 1000

/**
 * The queues of one storage directory, and what it has in flight. Each directory has its own, with its own share of the limits,
 * so that one whose file system hangs cannot take the memory or the message slots of the others.
 *
 * Reads, look-ups and records go first; then writes, as many bytes at once as the window says; background when neither waits. Writes and background leave a quarter of the directory's bytes and batches
 * to the reads, and reads leave a quarter to them while they wait.
 */
export class DirectoryLane {
  readonly index: number
  /** Bytes this directory may have in flight. */
  readonly bytesMax: number
  readonly batchesMax: number
  /** Of writes. */
  readonly window: TransferWindow
  readonly urgent = new LaneQueue()
  readonly writes = new LaneQueue()
  readonly background = new LaneQueue()
  bytesInFlight = 0
  requestsInFlight = 0
  batchesInFlight = 0
  /** Of writes that were not given up. */
  writeBytesInFlight = 0
  /** When an operation of this directory last came back by itself; performance.now(). */
  answeredAt = 0

  constructor(index: number, bytesMax: number, batchesMax: number, windowBytesMax = WINDOW_BYTES_MAX) {
    this.index = index
    this.bytesMax = bytesMax
    this.batchesMax = batchesMax
    this.window = new TransferWindow({ cap: Math.min(windowBytesMax, Math.floor(bytesMax / 4 * 3)) })
  }

  queueOf(request: TransferRequest): LaneQueue {
    // An eviction's record makes room for what waits: it is never background.
    if (request.op === Op.tombstones) return this.urgent
    if (request.scope.priority === 'background') return this.background
    return request.role === 'write' || request.role === 'delete' ? this.writes : this.urgent
  }

  push(request: TransferRequest): void { this.queueOf(request).push(request) }

  /** The queues in the order of their turns, with the batches that each may send at once. */
  turns(now: number): [queue: LaneQueue, batches: number][] {
    const turns: [LaneQueue, number][] = []
    for (const queue of [this.writes, this.background]) if (this.#overdue(queue, now)) turns.push([queue, 1])
    turns.push([this.urgent, Infinity], [this.writes, Infinity])
    if (!this.urgent.peek() && !this.writes.peek()) turns.push([this.background, Infinity])
    return turns
  }

  /** May another batch of the queue go? */
  hasBatch(queue: LaneQueue): boolean {
    if (this.batchesInFlight >= this.batchesMax) return false
    const share = Math.ceil(this.batchesMax / 4 * 3)
    if (queue === this.urgent) return queue.batchesInFlight < share || !this.writes.peek()
    return this.writes.batchesInFlight + this.background.batchesInFlight < share
  }

  /** Is there room for the bytes of the queue's next request? */
  hasBytes(queue: LaneQueue, bytes: number): boolean {
    if (bytes === 0) return true
    if (this.bytesInFlight > 0 && this.bytesInFlight + bytes > this.bytesMax) return false
    if (queue.bytesInFlight === 0) return true
    if (queue === this.urgent) {
      const write = this.writes.peek()
      return !write || queue.bytesInFlight + bytes <= this.bytesMax - Math.max(this.bytesMax / 4, write.length)
    }
    return queue === this.writes || queue.bytesInFlight < this.window.bytes
  }

  /** Has the window room for a write? As long as there is any: a window that holds one page and a half takes two. */
  windowOpen(): boolean { return this.writeBytesInFlight < this.window.bytes }

  /** Everything that waits and is not settled, in the order of turns. */
  waiting(): TransferRequest[] { return [...this.urgent.waiting(), ...this.writes.waiting(), ...this.background.waiting()] }

  #overdue(queue: LaneQueue, now: number): boolean {
    if (queue.batchesInFlight > 0) return false
    const first = queue.peek()
    return first !== null && now - first.madeAt >= OVERDUE_MS
  }
}
