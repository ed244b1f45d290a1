import { HiCacheError } from '../error.js'
import type { Arena } from '../memory/arena.js'
import { roundUp } from '../memory/arena.js'
import type { Slot } from '../memory/slot.js'
import { quote } from '../memory/tensor.js'
import type { Metrics, Op as MetricsOp } from '../observe/metrics.js'
import { BatchEncoder } from './batch-encoder.js'
import type { CompletionWords } from './completion-words.js'
import { CopyBudget } from './copy-budget.js'
import { CopyOuts, type CopySource } from './copy-outs.js'
import type { CallScope } from './call-scope.js'
import { DirectoryLane, OVERDUE_MS } from './directory-lane.js'
import type { LaneQueue } from './lane-queue.js'
import type { BatchResult, NativeAddon } from './native-binding.js'
import { META_BYTES_MAX, RESULT_STRIDE, ResultField, Status } from './protocol.js'
import type { PageNaming } from './page-naming.js'
import { PageTraffic } from './page-traffic.js'
import { Quarantine } from './quarantine.js'
import type { RequestResult, TransferRequest } from './transfer-request.js'
import type { WorkerPool } from './worker-pool.js'
import { errnoName } from './errno.js'

/** Pages of one message to a worker, at most. */
export const BATCH_PAGES_MAX = 128
/** Bytes that go to the workers at once. A worker answers a message when all of it is done, so a message is to be a small part of what is in flight. */
const BATCH_BYTES_MAX = 8 * 1024 * 1024
/** The same behind an endpoint, where one page that is tried again and again would keep the answers of its whole batch back. */
const REMOTE_BATCH_PAGES_MAX = 32
/** Batches in flight to an endpoint: distance is paid for with connections, and each of large pages has one page only. */
const REMOTE_BATCHES = 128
/** A batch with fewer bytes than this goes to one worker: splitting costs a message and a wake-up each. */
const SPLIT_BYTES_MIN = 512 * 1024
/** How long past its deadline a page that is through waits for its batch's answer. */
const ANSWER_MS_MAX = 100
/** Requests that may wait, all directories together. */
export const QUEUE_REQUESTS_MAX = 65_536

/** A read that has so much more time than the one it joined (beside twice as much) asks an endpoint again that had too little. */
const MORE_MS = 100
const FULL = 'the limit on bytes in flight is reached'

export interface BatcherOptions {
  readonly arena: Arena
  readonly words: CompletionWords
  readonly pool: WorkerPool
  readonly addon: NativeAddon
  readonly layout: PageNaming
  readonly metrics: Metrics
  /** Payload bytes in flight, all directories together. */
  readonly inFlightBytesMax: number
  readonly whenFull: 'wait' | 'reject'
  /** The most that the window of bytes that a directory's writes have in flight grows to. Default WINDOW_BYTES_MAX; never more than three quarters of what the directory may have in flight. */
  readonly writeWindowBytesMax?: number
  /** Hears of every batch's fate: did the directory answer? `why`: of an endpoint that is unavailable (Status.unavailable), its HTTP status (0: none came) and the meta. */
  readonly onDirectory: (directory: number, event: 'answered' | 'deadline' | 'unavailable', why?: { readonly status: number; readonly meta: Uint8Array }) => void
}

/**
 * Brings requests to the workers and their results back: memory, admission, coalescing, settlement.
 *
 * All requests of one microtask become one batch per directory, split over the workers. A request goes when its directory and the cache have room for its
 * bytes and there is memory for it; what frees room pumps the queues again. Nothing waits for memory that only a caller can release.
 */
export class Batcher {
  readonly #o: BatcherOptions
  readonly #lanes: readonly DirectoryLane[]
  readonly #batchPagesMax: number
  readonly #encoder: BatchEncoder
  readonly #quarantine: Quarantine
  readonly #budget: CopyBudget
  readonly #traffic = new PageTraffic()
  readonly #copyOuts: CopyOuts
  /** Reads and look-ups that the write or delete of their page answers, in the next turn. */
  #answers: { readonly request: TransferRequest; readonly by: TransferRequest }[] = []
  /** Requests that no queue knows: they wait for another's result, or with theirs until others have their copies. */
  readonly #parked = new Set<TransferRequest>()
  /** Batches that are with a worker. */
  readonly #batches = new Set<readonly TransferRequest[]>()
  /** Requests whose batch is over, but the kernel still has them, and their storage has not heard how they ended. */
  readonly #holding = new Set<TransferRequest>()
  readonly #idleWaiters: (() => void)[] = []
  readonly #roomWaiters: { readonly bytes: number; readonly resolve: () => void }[] = []
  #pumpScheduled = false
  #overdueTimer: NodeJS.Timeout | null = null
  #unsettled = 0
  #queued = 0
  #queuedBytes = 0
  #bytesInFlight = 0
  #requestsInFlight = 0
  #stagedBytesInFlight = 0

  constructor(options: BatcherOptions, directories: number) {
    this.#o = options
    // With several directories none may take more than half, so that one that hangs leaves room for the others.
    const laneBytesMax = directories === 1 ? options.inFlightBytesMax : Math.ceil(options.inFlightBytesMax / 2)
    this.#lanes = Array.from({ length: directories }, (_, i) => new DirectoryLane(i, laneBytesMax, options.layout.remote ? REMOTE_BATCHES : options.pool.size * 8, options.writeWindowBytesMax))
    this.#batchPagesMax = options.layout.remote ? REMOTE_BATCH_PAGES_MAX : BATCH_PAGES_MAX
    this.#encoder = new BatchEncoder(options.layout, options.words, options.arena.region)
    this.#quarantine = new Quarantine(options.words, () => this.#schedulePump())
    this.#budget = new CopyBudget(() => this.#pump())
    this.#copyOuts = new CopyOuts(this.#budget, {
      settle: (request, result) => { this.#settle(request, result) },
      done: (request, result, bytes) => { this.#copied(request, result, bytes) },
      again: request => { this.#again(request) }
    })
    options.arena.onFree(() => { if (this.#queued > 0 || this.#roomWaiters.length > 0) this.#schedulePump() })
  }

  get inFlightRequests(): number { return this.#requestsInFlight }
  get inFlightBytes(): number { return this.#bytesInFlight }
  get queuedRequests(): number { return this.#queued }
  get queuedBytes(): number { return this.#queuedBytes }
  get quarantinedBytes(): number { return this.#quarantine.bytes }
  get unsettled(): number { return this.#unsettled }
  /** Bytes of writes that may be in flight, all directories together. */
  get writeWindowBytes(): number { return this.#lanes.reduce((sum, lane) => sum + lane.window.bytes, 0) }

  /** Takes a request; it settles by its onResult, always. The call's scope must be watched by the caller (see cancel()). */
  submit(request: TransferRequest): void {
    this.#unsettled++
    if (this.#queued >= QUEUE_REQUESTS_MAX) {
      // It was never counted among those that wait.
      request.left = true
      this.#refuse(request, `${QUEUE_REQUESTS_MAX} requests are waiting already`)
      return
    }
    this.#queued++
    this.#queuedBytes += request.length
    if (!isMutation(request)) this.#route(request)
    else if (this.#traffic.mutate(request)) this.#enqueue(request)
  }

  /** What is under way for the page: the last write or delete of it that is not settled, null when there is none. */
  underWay(storedKey: string): 'write' | 'delete' | null { return (this.#traffic.lastMutation(storedKey)?.role ?? null) as 'write' | 'delete' | null }

  /** To whoever can answer the request: a write or a read of its page that is under way, else storage. */
  #route(request: TransferRequest): void {
    if (this.#parked.size > 0) this.#parked.delete(request)
    if (!request.shareable) return this.#enqueue(request)
    const by = this.#traffic.lastMutation(request.storedKey)
    if (by) {
      // Not at once: the call's signal may have fired already, and is looked at when all its requests are in.
      this.#answers.push({ request, by })
      this.#parked.add(request)
      this.#schedulePump()
    } else if (request.role === 'read' && this.#traffic.join(request)) {
      this.#parked.add(request)
    } else {
      this.#enqueue(request)
    }
  }

  #enqueue(request: TransferRequest): void {
    this.#lanes[request.directory]!.push(request)
    this.#schedulePump()
  }

  /**
   * Ends requests that are not settled: with `timeout` or `cancelled`, by the error's code. What has not begun gives its memory back at once; memory that
   * the kernel holds stays quarantined.
   */
  readonly cancel = (requests: readonly TransferRequest[], error: HiCacheError): void => { this.#cancel(requests, error, error.code === 'ERR_TIMEOUT') }

  /** `spare`: pages that are through, and only wait for others of their batch, get a moment for their answer. */
  #cancel(requests: readonly TransferRequest[], error: HiCacheError, spare: boolean): void {
    const failure = error.code === 'ERR_TIMEOUT' ? 'timeout' : error.code === 'ERR_CANCELLED' || error.code === 'ERR_CLOSED' ? 'cancelled' : 'failed'
    const through: TransferRequest[] = []
    for (const request of requests) {
      if (request.settled) continue
      if (request.word >= 0 && spare && this.#o.words.isDone(request.word)) {
        through.push(request)
        continue
      }
      const lane = this.#lanes[request.directory]!
      // It waited behind others, and in all that time its directory has answered none of them.
      let silent = lane.batchesInFlight > 0 && lane.answeredAt < request.madeAt
      if (request.word < 0) {
        this.#leaveQueue(request)
      } else if (this.#o.words.cancel(request.word)) {
        // Called off before it began: nobody will touch its memory, whatever becomes of the rest of its batch.
        this.#land(lane, request, true)
        this.#endStorage(request, 'untouched')
      } else {
        // A file system that answers others may hang in this one. Behind an endpoint it is only slow.
        silent = !this.#o.layout.remote || lane.answeredAt < request.madeAt
      }
      if (silent && failure === 'timeout') this.#o.onDirectory(request.directory, 'deadline')
      this.#settle(request, { failure, error: withKey(error, request) })
    }
    // Also for those that never begin: the agent then need not hold its answer back for them.
    if (requests.length > 0) this.#o.addon.cancel()
    // The agent answers when all that it still has is called off. A page of another call in the batch, with a later deadline, can keep it from that.
    if (through.length > 0) setTimeout(() => { this.#cancel(through, error, false) }, ANSWER_MS_MAX)
    this.#schedulePump()
  }

  /** Would `bytes` be admitted now, without waiting? */
  hasRoom(bytes: number): boolean {
    if (this.#queued > 0 || this.#bytesInFlight + bytes > this.#o.inFlightBytesMax) return false
    return this.#o.arena.bytes - this.#o.arena.usedBytes >= roundUp(bytes)
  }

  /** Resolves when hasRoom(bytes) holds. */
  async room(bytes: number): Promise<void> {
    if (this.hasRoom(bytes)) return
    await new Promise<void>(resolve => { this.#roomWaiters.push({ bytes, resolve }) })
  }

  /** Resolves when every request that was submitted so far, and those submitted meanwhile, are settled. */
  async idle(): Promise<void> {
    if (this.#unsettled === 0) return
    await new Promise<void>(resolve => { this.#idleWaiters.push(resolve) })
  }

  /** Everything not settled, waiting or in flight. */
  pending(): TransferRequest[] {
    const all = new Set<TransferRequest>()
    for (const lane of this.#lanes) for (const request of lane.waiting()) all.add(request)
    for (const batch of this.#batches) for (const request of batch) if (!request.settled) all.add(request)
    for (const request of this.#traffic.mutations()) all.add(request)
    for (const request of this.#copyOuts.requests()) if (!request.settled) all.add(request)
    for (const request of this.#parked) all.add(request)
    return [...all]
  }

  /** What a StorageHold waited for may be there now. */
  pumpSoon(): void { this.#schedulePump() }

  /** Ends the watching of quarantined memory; answers its bytes. */
  close(): number {
    for (const waiter of this.#roomWaiters.splice(0)) waiter.resolve()
    if (this.#overdueTimer) clearTimeout(this.#overdueTimer)
    const leaked = this.#quarantine.close()
    for (const request of [...this.#holding, ...[...this.#batches].flat()]) {
      if (request.storageEnded) continue
      const untouched = request.word >= 0 && this.#o.words.cancel(request.word)
      this.#endStorage(request, untouched ? 'untouched' : request.nativeEnd ?? 'unknown')
    }
    return leaked
  }

  #schedulePump(): void {
    if (this.#pumpScheduled) return
    this.#pumpScheduled = true
    queueMicrotask(() => {
      this.#pumpScheduled = false
      this.#pump()
    })
  }

  #pump(): void {
    this.#answer()
    this.#copyOuts.run()
    for (const lane of this.#lanes) this.#pumpLane(lane)
    this.#wakeRoomWaiters()
  }

  #pumpLane(lane: DirectoryLane): void {
    const now = performance.now()
    for (const [queue, batches] of lane.turns(now)) this.#pumpQueue(lane, queue, batches)
    // What waits behind other queues may become overdue without anything else happening.
    if (lane.background.peek() || lane.writes.peek()) this.#overdueTimer ??= setTimeout(() => { this.#overdueTimer = null; this.#pump() }, OVERDUE_MS).unref()
  }

  #pumpQueue(lane: DirectoryLane, queue: LaneQueue, batches: number): void {
    for (let sent = 0; sent < batches && lane.hasBatch(queue); sent++) {
      const chosen: TransferRequest[] = []
      let bytes = 0
      let blocked = false
      while (chosen.length < this.#batchPagesMax && bytes < BATCH_BYTES_MAX) {
        const request = queue.peek()
        if (!request) break
        const verdict = this.#admit(lane, queue, request)
        if (verdict === 'wait') { blocked = true; break }
        // It is settled, and peek() passes over what is: to shift here would take the next one out, unsettled for ever.
        if (verdict === 'refused') continue
        if (!this.#copyIn(queue, request)) { blocked = true; break }
        if (request.settled) continue
        queue.shift()
        this.#leaveQueue(request)
        this.#takeOff(lane, queue, request)
        chosen.push(request)
        bytes += request.length
      }
      if (chosen.length > 0) {
        const parts = bytes >= SPLIT_BYTES_MIN ? Math.min(this.#o.pool.size, chosen.length) : 1
        const each = Math.ceil(chosen.length / parts)
        for (let i = 0; i < chosen.length; i += each) this.#dispatch(lane, queue, chosen.slice(i, i + each))
      }
      if (blocked || chosen.length === 0) return
    }
  }

  /** Is there room for the request's bytes, its word and its memory? Takes the slot when there is. */
  #admit(lane: DirectoryLane, queue: LaneQueue, request: TransferRequest): 'go' | 'wait' | 'refused' {
    if (request.slot) return 'go'
    const { inFlightBytesMax, words } = this.#o
    if (request.length > inFlightBytesMax) {
      return this.#refuseWaiting(request, `its ${request.length} bytes are more than the limit of ${inFlightBytesMax} bytes in flight (inFlightBytesMax)`)
    }
    const full = words.available === 0 ||
      (this.#bytesInFlight > 0 && this.#bytesInFlight + request.length > inFlightBytesMax) ||
      !lane.hasBytes(queue, request.length)
    if (full) return this.#waitOrRefuse(request, FULL)
    if (request.role === 'write' && !lane.windowOpen()) {
      lane.window.held()
      if (this.#o.whenFull === 'reject') this.#refuseBacklog(lane)
      return request.settled ? 'refused' : 'wait'
    }
    if (request.storage && !request.placed) {
      const admission = request.storage.admit()
      if (admission === 'wait') return 'wait'
      if (admission !== 'go') return 'refused' in admission ? this.#refuseWaiting(request, admission.refused) : this.#answerWaiting(request, admission.answer, admission.length ?? 0)
      request.placed = true
    }
    if (request.staged) {
      if (!this.#takeSlot(request)) {
        // Only transfers bring memory back by themselves; what callers hold, or a hung file system, may never come.
        if (this.#stagedBytesInFlight > 0) return this.#waitOrRefuse(request, 'the arena is in use by other transfers')
        return this.#refuseWaiting(request, this.#noMemory(request))
      }
    } else if (request.memory.kind === 'direct') {
      request.pinned = request.memory.owner
      request.pinned.pin()
    }
    return 'go'
  }

  #noMemory(request: TransferRequest): string {
    const { arena } = this.#o
    return `the arena has no ${request.length} free bytes in one piece: callers hold ${arena.heldBytes} of ${arena.bytes} ` +
      `(release arena tensors), the kernel ${this.#quarantine.bytes}; or raise arenaBytes`
  }

  #waitOrRefuse(request: TransferRequest, why: string): 'wait' | 'refused' {
    // A batch larger than the limit goes page by page: what follows the admitted pages of its own call may wait for them.
    if (this.#o.whenFull === 'wait' || request.scope.admitted > 0) return 'wait'
    return this.#refuseWaiting(request, why)
  }

  /** The window only says when a write goes. Which writes are too many for the limit, and refused, is as it would be without it. */
  #refuseBacklog(lane: DirectoryLane): void {
    let ahead = this.#bytesInFlight
    let laneAhead = lane.bytesInFlight
    const taken = new Set<CallScope>()
    for (const request of lane.writes.waiting()) {
      const fits = ahead + request.length <= this.#o.inFlightBytesMax && laneAhead + request.length <= lane.bytesMax
      if (!fits && request.scope.admitted === 0 && !taken.has(request.scope)) {
        this.#refuseWaiting(request, FULL)
        continue
      }
      taken.add(request.scope)
      ahead += request.length
      laneAhead += request.length
    }
  }

  #refuseWaiting(request: TransferRequest, why: string): 'refused' {
    this.#leaveQueue(request)
    this.#refuse(request, why)
    return 'refused'
  }

  /** Its storage knows the answer already. */
  #answerWaiting(request: TransferRequest, status: number, length: number): 'refused' {
    this.#settle(request, { failure: null, status, errno: 0, length, meta: null, bytes: null, slot: null })
    return 'refused'
  }

  #refuse(request: TransferRequest, why: string): void {
    this.#settle(request, { failure: 'rejected', error: new HiCacheError('ERR_REJECTED',
      `The page ${quote(request.key)} was not taken: ${why}.`, { key: request.key }) })
  }

  /** Copies a source into its slot as far as this turn's budget goes. False: more is to be copied in a later turn. */
  #copyIn(queue: LaneQueue, request: TransferRequest): boolean {
    if (request.memory.kind !== 'copy-in') return true
    const source = request.memory.bytes
    if (source.byteLength !== request.length) return this.#spoilt(queue, request, 'detached or resized before it was copied')
    const slot = request.slot!.view()
    if (request.copied < request.length) {
      const now = request.copied === 0 ? this.#budget.takeWhole(request.length) : this.#budget.take(request.length - request.copied)
      if (now === request.length) {
        slot.set(source)
        request.copied = request.compared = now
        return true
      }
      slot.set(source.subarray(request.copied, request.copied + now), request.copied)
      request.copied += now
      if (request.copied < request.length) return false
    }
    // It was copied over several turns, in which its owner may have changed it: if what was copied still stands there, then all of it stood there at once.
    const from = request.compared
    const now = this.#budget.take(request.length - from)
    if (Buffer.compare(source.subarray(from, from + now), slot.subarray(from, from + now)) !== 0) return this.#spoilt(queue, request, 'changed while it was copied')
    request.compared += now
    return request.compared === request.length
  }

  /** The source cannot be stored as its caller meant it. */
  #spoilt(queue: LaneQueue, request: TransferRequest, what: string): true {
    this.#leaveQueue(request)
    queue.shift()
    this.#unpin(request)
    this.#settle(request, { failure: 'failed', error: new HiCacheError('ERR_ARGUMENT',
      `The source of ${quote(request.key)} was ${what}. A source stays unchanged until its promise settles.`, { key: request.key }) })
    return true
  }

  #takeOff(lane: DirectoryLane, queue: LaneQueue, request: TransferRequest): void {
    request.scope.admitted++
    request.word = this.#o.words.take()
    request.dispatched = true
    this.#bytesInFlight += request.length
    this.#requestsInFlight++
    lane.bytesInFlight += request.length
    lane.requestsInFlight++
    queue.bytesInFlight += request.length
    if (request.role === 'write') lane.writeBytesInFlight += request.length
  }

  #dispatch(lane: DirectoryLane, queue: LaneQueue, requests: readonly TransferRequest[]): void {
    const { descriptors, blob, wantMetas } = this.#encoder.encode(requests)
    lane.batchesInFlight++
    queue.batchesInFlight++
    this.#batches.add(requests)
    const started = performance.now()
    this.#o.pool.transfer(descriptors, blob, wantMetas).then(
      answer => this.#finish(lane, queue, requests, answer, started),
      (error: unknown) => this.#lost(lane, queue, requests, error)
    ).catch((error: unknown) => {
      // A fault of ours, or of a listener that a caller gave us: it must not leave a batch unsettled.
      for (const request of requests) {
        this.#nativeEnded(request, request.nativeEnd ?? 'unknown')
        this.#settle(request, { failure: 'failed', error: new HiCacheError('ERR_IO', `Settling a batch failed: ${String(error)}.`, { cause: error }) })
      }
    })
  }

  #finish(lane: DirectoryLane, queue: LaneQueue, requests: readonly TransferRequest[], answer: BatchResult, started: number): void {
    this.#batches.delete(requests)
    lane.batchesInFlight--
    queue.batchesInFlight--
    let written = 0
    let bytes = 0
    let answered = false
    let unavailable = -1
    for (let i = 0; i < requests.length; i++) {
      const request = requests[i]!
      const base = i * RESULT_STRIDE
      const status = answer.results[base + ResultField.status]!
      const end = status === Status.cancelled ? 'untouched' : status
      const { storage } = request
      if (storage?.takeMeta && answer.metas.length > 0) storage.takeMeta(answer.metas, i * META_BYTES_MAX)
      // Given up before, and off the books since.
      if (request.word < 0) {
        this.#nativeEnded(request, end)
        continue
      }
      const done = this.#o.words.isDone(request.word)
      this.#land(lane, request, done)
      this.#nativeEnded(request, end)
      if (status === Status.unavailable) unavailable = i
      else if (done && status !== Status.cancelled) answered = true
      if (request.settled) {
        if (done) this.#unpin(request)
        continue
      }
      if (status === Status.cancelled) {
        // Nobody of ours cancelled it (a cancelled request is settled): its agent went down between queue and start.
        this.#unpin(request)
        this.#settle(request, { failure: 'failed', error: new HiCacheError('ERR_WORKER', 'The worker that held the request ended before it began.', { key: request.key }) })
        continue
      }
      bytes += request.length
      if (request.role === 'write') written += request.length
      const result: RequestResult & { failure: null } = {
        failure: null, status, errno: answer.results[base + ResultField.errno]!, length: answer.results[base + ResultField.length]!,
        meta: storage ? storage.pageMeta ?? null : answer.metas.length > 0 ? answer.metas.subarray(i * META_BYTES_MAX, (i + 1) * META_BYTES_MAX) : null, bytes: null, slot: null
      }
      this.#deliver(request, result)
    }
    if (written > 0) lane.window.ended(written, performance.now())
    if (answered) {
      lane.answeredAt = performance.now()
      this.#o.onDirectory(lane.index, 'answered')
    } else if (unavailable >= 0) {
      const at = unavailable * META_BYTES_MAX
      this.#o.onDirectory(lane.index, 'unavailable', { status: answer.results[unavailable * RESULT_STRIDE + ResultField.errno]!, meta: answer.metas.subarray(at, at + META_BYTES_MAX) })
    }
    this.#o.metrics.batch(metricsOp(requests[0]!), requests.length, bytes, (performance.now() - started) / 1000)
    this.#pump()
  }

  /** A result that came: to those who joined the read, and to its own caller. */
  #deliver(request: TransferRequest, result: RequestResult & { failure: null }): void {
    const good = result.status === Status.ok || result.status === Status.unverified
    const { kind } = request.memory
    // A slot of our own can stay until all have copied from it. What becomes the caller's when it settles does not settle before.
    const caller = kind === 'direct' || kind === 'arena'
    const joiners = good && request.role === 'read' ? this.#traffic.left(request) : null
    if (!joiners) return this.#deliverOwn(request, result, good)
    let open = 0
    const onEnd = (): void => { if (--open === 0 && !request.settled) this.#deliverOwn(request, result, good) }
    const { slot } = request
    if (!caller) this.#deliverOwn(request, result, good)
    for (const joiner of joiners) {
      if (joiner.memory.kind === 'arena' && !this.#takeSlot(joiner)) {
        this.#route(joiner)
        continue
      }
      this.#o.metrics.count('reads_joined')
      this.#parked.delete(joiner)
      this.#leaveQueue(joiner)
      if (caller) open++
      this.#copyOuts.push({ request: joiner, result, source: caller ? callersSource(request) : this.#slotSource(slot!), ...(caller ? { onEnd } : {}) })
    }
    if (open > 0) this.#parked.add(request)
    else if (caller) this.#deliverOwn(request, result, good)
  }

  /** Results in the slot go where the caller wants them. */
  #deliverOwn(request: TransferRequest, result: RequestResult & { failure: null }, good: boolean): void {
    const { kind } = request.memory
    if (!good || kind === 'none' || kind === 'direct' || kind === 'copy-in') {
      this.#unpin(request)
      this.#settle(request, result)
    } else if (kind === 'arena') {
      this.#copied(request, result, null)
    } else {
      this.#copyOuts.push({ request, result, source: { bytes: () => request.slot?.view() ?? null, release: () => {} } })
    }
  }

  /** The bytes are where the caller wants them: for `arena` in its slot, for `fresh` in `bytes`. */
  #copied(request: TransferRequest, result: RequestResult & { failure: null }, bytes: Uint8Array | null): void {
    const { slot } = request
    if (request.memory.kind === 'arena' && slot) {
      // The receiver holds it (or not) while it is still pinned.
      request.slot = null
      request.pinned = null
      this.#stagedBytesInFlight -= request.length
      this.#settle(request, { ...result, slot })
      slot.unpin()
    } else {
      this.#unpin(request)
      this.#settle(request, bytes ? { ...result, bytes } : result)
    }
  }

  /** What it was copied from went away: it asks once more. */
  #again(request: TransferRequest): void {
    this.#unpin(request)
    request.copied = 0
    request.left = false
    this.#queued++
    this.#queuedBytes += request.length
    this.#route(request)
  }

  /** Answers requests from the writes and deletes of their pages. */
  #answer(): void {
    if (this.#answers.length === 0) return
    const answers = this.#answers
    this.#answers = []
    for (const { request, by } of answers) {
      if (request.settled) continue
      if (by.settled) this.#route(request)
      else if (!this.#answerFrom(request, by)) this.#answers.push({ request, by })
    }
  }

  /** False: it has to wait for memory. */
  #answerFrom(request: TransferRequest, by: TransferRequest): boolean {
    const status = by.role === 'delete' ? Status.absent : request.role === 'read' && request.length !== by.length ? Status.length : Status.ok
    const result: RequestResult & { failure: null } = {
      failure: null, status, errno: 0, length: status === Status.absent ? 0 : by.length, meta: status === Status.ok ? by.meta : null, bytes: null, slot: null
    }
    if (request.role === 'check' || status !== Status.ok) {
      this.#o.metrics.count('reads_from_writes')
      this.#settle(request, result)
      return true
    }
    // As it is stored: once the copy is whole, it stays whatever the source's owner does.
    const whole = by.slot && by.copied === by.length && by.compared === by.length
    if (!whole && callersBytes(by)?.byteLength !== by.length) {
      this.#parked.delete(request)
      this.#enqueue(request)
      return true
    }
    if (request.memory.kind === 'arena' && !this.#takeSlot(request)) {
      if (this.#stagedBytesInFlight > 0) return false
      this.#refuseWaiting(request, this.#noMemory(request))
      return true
    }
    this.#o.metrics.count('reads_from_writes')
    this.#parked.delete(request)
    this.#leaveQueue(request)
    this.#copyOuts.push({ request, result, source: whole ? this.#slotSource(by.slot!) : callersSource(by) })
    return true
  }

  #takeSlot(request: TransferRequest): boolean {
    const slot = this.#o.arena.allocate(request.length)
    if (!slot) return false
    slot.pin()
    request.slot = slot
    request.pinned = slot
    this.#stagedBytesInFlight += request.length
    return true
  }

  /** A slot that stays until it is copied from, whatever becomes of the transfer that it was taken for. */
  #slotSource(slot: Slot): CopySource {
    slot.pin()
    this.#stagedBytesInFlight += slot.bytes
    return {
      bytes: () => slot.view(),
      release: () => {
        this.#stagedBytesInFlight -= slot.bytes
        slot.unpin()
      }
    }
  }

  /** The batch never answered: its worker died. */
  #lost(lane: DirectoryLane, queue: LaneQueue, requests: readonly TransferRequest[], error: unknown): void {
    this.#batches.delete(requests)
    lane.batchesInFlight--
    queue.batchesInFlight--
    const failure = HiCacheError.is(error) ? error : new HiCacheError('ERR_WORKER', String(error))
    for (const request of requests) {
      if (request.word < 0) {
        this.#nativeEnded(request, 'unknown')
        continue
      }
      const untouched = this.#o.words.cancel(request.word)
      const free = untouched || this.#o.words.isDone(request.word)
      this.#land(lane, request, free)
      this.#nativeEnded(request, untouched ? 'untouched' : 'unknown')
      if (free) this.#unpin(request)
      this.#settle(request, { failure: 'failed', error: withKey(failure, request) })
    }
    this.#pump()
  }

  /** Takes the request off the books of what is in flight. Memory that is not free goes into quarantine, and stays on the books of its directory. */
  #land(lane: DirectoryLane, request: TransferRequest, free: boolean): void {
    this.#bytesInFlight -= request.length
    this.#requestsInFlight--
    lane.queueOf(request).bytesInFlight -= request.length
    // Not so what the kernel keeps: one page that hangs must not close the window for all that follow.
    if (request.role === 'write') lane.writeBytesInFlight -= request.length
    if (free) {
      this.#o.words.giveBack(request.word)
      lane.bytesInFlight -= request.length
      lane.requestsInFlight--
    } else {
      const { pinned } = request
      if (request.slot) this.#stagedBytesInFlight -= request.length
      request.slot = null
      request.pinned = null
      request.quarantined = true
      this.#quarantine.add(request.word, pinned, request.length, () => {
        lane.bytesInFlight -= request.length
        lane.requestsInFlight--
        request.quarantined = false
        // Its batch may still wait for others, and knows how it ended.
        if (request.nativeEnd !== null) this.#endStorage(request, request.nativeEnd)
        // It answered after all: a deadline that was short for a healthy disk must not keep its directory unavailable.
        if (!this.#o.layout.remote) this.#o.onDirectory(lane.index, 'answered')
      })
    }
    request.word = -1
  }

  /** Its batch is over. What the kernel still has ends when it lets go. */
  #nativeEnded(request: TransferRequest, how: 'untouched' | 'unknown' | number): void {
    request.nativeEnd = how
    if (!request.quarantined) this.#endStorage(request, how)
    else if (!request.storageEnded) this.#holding.add(request)
  }

  #endStorage(request: TransferRequest, how: 'untouched' | 'unknown' | number): void {
    if (this.#holding.size > 0) this.#holding.delete(request)
    request.endStorage(how)
  }

  #unpin(request: TransferRequest): void {
    const { pinned } = request
    if (!pinned) return
    if (request.slot) this.#stagedBytesInFlight -= request.length
    request.slot = null
    request.pinned = null
    pinned.unpin()
  }

  #leaveQueue(request: TransferRequest): void {
    if (request.left) return
    request.left = true
    this.#queued--
    this.#queuedBytes -= request.length
  }

  #settle(request: TransferRequest, result: RequestResult): void {
    if (request.settled) return
    this.#leaveQueue(request)
    if (request.word < 0) this.#unpin(request)
    this.#unsettled--
    if (!request.dispatched) request.endStorage('untouched')
    if (this.#parked.size > 0) this.#parked.delete(request)
    if (isMutation(request)) {
      const next = this.#traffic.mutated(request)
      if (next) this.#enqueue(next)
    }
    const joiners = request.role === 'read' ? this.#traffic.left(request) : null
    request.settle(result)
    if (joiners) this.#settleJoiners(request, joiners, result)
    if (this.#unsettled === 0) for (const resolve of this.#idleWaiters.splice(0)) resolve()
  }

  #settleJoiners(request: TransferRequest, joiners: readonly TransferRequest[], result: RequestResult): void {
    for (const joiner of joiners) {
      // Its caller's deadline, signal or bad luck is not theirs: one of them goes itself, and the others join it. An endpoint may have been given up for want of time
      // alone.
      if (result.failure !== null || (result.status === Status.unavailable && joiner.scope.msLeft > 2 * request.scope.msLeft + MORE_MS)) {
        this.#route(joiner)
        continue
      }
      this.#o.metrics.count('reads_joined')
      this.#settle(joiner, { ...result, bytes: null, slot: null })
    }
  }

  #wakeRoomWaiters(): void {
    for (let i = 0; i < this.#roomWaiters.length;) {
      if (this.hasRoom(this.#roomWaiters[i]!.bytes)) this.#roomWaiters.splice(i, 1)[0]!.resolve()
      else i++
    }
  }
}

/** The bytes of a write's source or of a read's target that are the caller's until the request settles. */
function callersBytes({ memory, slot, settled }: TransferRequest): Uint8Array | null {
  if (settled) return null
  switch (memory.kind) {
    case 'direct': return memory.bytes ?? null
    case 'copy-in': return memory.bytes
    case 'arena': return slot?.view() ?? null
    default: return null
  }
}

function callersSource(request: TransferRequest): CopySource { return { bytes: () => callersBytes(request), release: () => {} } }

function isMutation({ role }: TransferRequest): boolean { return role === 'write' || role === 'delete' }

function metricsOp({ role }: TransferRequest): MetricsOp { return role === 'check' || role === 'other' ? 'exists' : role }

function withKey(error: HiCacheError, request: TransferRequest): HiCacheError {
  return new HiCacheError(error.code, error.message, { key: request.key, cause: error.cause, ...(error.errno === undefined ? {} : { errno: error.errno }), ...(error.http === undefined ? {} : { http: error.http }) })
}

/** The error of an operation that the system failed. */
export function ioError(errno: number, key: string, action: string): HiCacheError {
  const name = errnoName(errno)
  return new HiCacheError('ERR_IO', `${action} the page ${quote(key)} failed: ${name}${IO_REMEDIES[name] ?? ''}.`, { key, errno: name })
}

const IO_REMEDIES: Readonly<Record<string, string>> = {
  ENOSPC: ' (the file system is full: free space, or configure the l3 cleaner)',
  EDQUOT: ' (the quota is used up)',
  EROFS: ' (the file system is read-only)',
  EACCES: ' (the directory does not let this user write)',
  EIO: ' (the device reports an error: look at the kernel log)',
  ENOENT: ' (the storage directory is gone)',
  EPROTONOSUPPORT: ' (the file was written by a newer version of this package and is left alone)'
}
