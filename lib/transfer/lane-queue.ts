import { RequestQueue } from './request-queue.js'

/** One of the queues of a directory, and what went from it and is still in flight. */
export class LaneQueue extends RequestQueue {
  batchesInFlight = 0
  bytesInFlight = 0
}
