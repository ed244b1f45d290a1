import { createHash } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { HiCacheError } from '../../error.js'
import { checkKey } from '../../keys/index.js'
import { quote, type Target } from '../../memory/tensor.js'
import { ioError } from '../../transfer/batcher.js'
import type { CallOptions, CallScope } from '../../transfer/call-scope.js'
import type { ObjectRequest, ObjectResponse } from '../../transfer/native-binding.js'
import { errnoName } from '../../transfer/errno.js'
import { Flag, Op, Status } from '../../transfer/protocol.js'
import { TransferRequest, type RequestMemory, type RequestResult } from '../../transfer/transfer-request.js'
import { FileLayout } from '../file-layout.js'
import type { MissReason, ReadOutcome, WriteOutcome } from '../outcome.js'
import type { PageInfo } from '../page-info.js'
import type { GcReport, PageStore, PageToRead, PageToWrite, VerifyOptions, VerifyReport } from '../page-store.js'
import { TIMEOUT_MS_MAX, hit, keyOf, misfit, missReason, throwIfAborted, unavailableError, type StoreParts } from '../store-parts.js'
import type { ObjectLayout } from './object-layout.js'
import { deleteBody, fitsXml, parseDeleteErrors, parseListing, parseUploads, type ListedObject } from './object-listing.js'
import type { ObjectPlace } from './object-place.js'
import { refusalError, refusalOf, refusalOfMeta, sayRefusal, textOfMeta } from './object-refusal.js'
import { SeenPages } from './seen-pages.js'

/** A read without a target that finds another length than expected, or a page that was replaced under it, tries again; a page that keeps changing is given up. */
const READ_TRIES_MAX = 4
/** Keys that one look-up asks about at a time, and pages that a listing checks at a time. */
const KEYS_AT_ONCE = 128
/** Pages that verify() reads at a time: each waits for the distance to the server. */
const READS_AT_ONCE = 8
/** From this size on asking whether a page is there costs less than sending it in vain. */
const COMPARE_BYTES = 1024 * 1024
/** Pages that failed their check and were not written since; those above are only sent in vain once. */
const BAD_PAGES_MAX = 65_536
/** S3's own limits on a listing's page and on one DeleteObjects. */
const LIST_KEYS = '1000'
const DELETE_KEYS_MAX = 1000
/** Multipart uploads that nobody has ended for so long are leftovers of writers that died. */
const UPLOAD_MS_MAX = 24 * 60 * 60 * 1000

/** Of a look-up: what it is and how long, not only whether it is there. NIXL answers that with a look at the bytes. */
const LOOK_INSIDE = Flag.force

const HEALTH_CAUSE = 'object-store'

/** An object of this namespace, and what its check answered. */
interface OwnObject { readonly storedKey: string; readonly object: ListedObject; readonly result: RequestResult & { failure: null } }

/** One object per key in a bucket that many machines may share, each with a header of ours that says whose it is and what it holds. */
export class ObjectStore implements PageStore {
  readonly name = 'object'
  readonly #o: StoreParts
  readonly #layout: ObjectLayout
  readonly #place: ObjectPlace
  readonly #seen = new SeenPages()
  /** Pages that failed their check: what is there must be overwritten, whatever it says of itself. */
  readonly #bad = new Set<string>()
  readonly #readFlags: number
  /** Payload bytes of the page last read or written: what a read without a target expects first. */
  #lengthHint = 0
  #deletesMany = true
  #refused = false

  constructor(parts: StoreParts, layout: ObjectLayout, place: ObjectPlace) {
    this.#o = parts
    this.#layout = layout
    this.#place = place
    this.#readFlags = parts.settings.acceptUnverified ? Flag.acceptUnverified : 0
  }

  start(): Promise<void> { return Promise.resolve() }
  stop(): Promise<void> { return Promise.resolve() }

  close(): Promise<void> {
    this.#place.close()
    this.#seen.clear()
    return Promise.resolve()
  }

  gauges(): Readonly<Record<string, number>> { return { object_pages_remembered: this.#seen.size } }

  write(scope: CallScope, pages: readonly PageToWrite[], _stride: number, end: (index: number, outcome: WriteOutcome) => void): void {
    pages.forEach((page, i) => { this.#writePage(scope, page, outcome => { end(i, outcome) }) })
  }

  read(scope: CallScope, pages: readonly PageToRead[], _stride: number, end: (index: number, outcome: ReadOutcome<Target>, length: number) => void): void {
    pages.forEach((page, i) => { this.#readPage(scope, page, (outcome, length) => { end(i, outcome, length) }) })
  }

  leading(keys: readonly string[], tails: readonly string[], scope: CallScope): number | Promise<number> {
    for (const key of keys) checkKey(key, tails[tails.length - 1])
    if (scope.aborted) return 0
    const known = keys.findIndex(key => !tails.every(tail => this.#isSeen(key + tail)))
    const from = known < 0 ? keys.length : known
    this.#o.metrics.lookups(from * tails.length, from * tails.length)
    return from === keys.length ? from : this.#leadingFrom(from, keys, tails, scope)
  }

  async remove(storedKeys: readonly string[], scope: CallScope): Promise<boolean> {
    this.#checkPlace('Deleting')
    const pending = storedKeys.map(storedKey => this.#delete(scope, storedKey, Flag.acceptUnverified))
    this.#watch(scope)
    return (await Promise.all(pending)).some(Boolean)
  }

  /** Told by the identity in their headers: never another model's, never an object without a header. */
  async clear(options?: CallOptions): Promise<{ deleted: number }> {
    let deleted = 0
    let keys: string[] = []
    for await (const { storedKey } of this.#ownObjects(options)) {
      keys.push(storedKey)
      if (keys.length < DELETE_KEYS_MAX) continue
      deleted += await this.#deleteMany(keys, options)
      keys = []
    }
    return { deleted: deleted + await this.#deleteMany(keys, options) }
  }

  async * entries(): AsyncGenerator<PageInfo, void, undefined> {
    for await (const own of this.#ownObjects()) yield this.#pageInfo(own.storedKey, own.result, own.object)
  }

  async stat(storedKey: string, scope: CallScope): Promise<PageInfo | null> {
    this.#checkPlace('Asking about an object')
    const pending = this.#one(scope, 'exists', { op: Op.pageCheck, storedKey, flags: this.#readFlags | LOOK_INSIDE, fromStorage: true })
    this.#watch(scope)
    const result = await pending
    if (result.failure !== null || (result.status !== Status.ok && result.status !== Status.unverified)) return null
    const key = this.#layout.objectKeyOf(storedKey)
    const { status, headers } = await this.#client({ method: 'HEAD', key, timeoutMs: scope.msLeft }, `Asking about ${quote(storedKey)}`, [404])
    if (status === 404) return null
    return this.#pageInfo(storedKey, result, { key, size: Number(headers['content-length']), modifiedAt: new Date(headers['last-modified'] ?? NaN) })
  }

  async verify({ bytesPerSecond = Infinity, drop = false, onProgress, signal }: VerifyOptions): Promise<VerifyReport> {
    const report: VerifyReport = { pages: 0, bytes: 0, ok: 0, corrupt: 0, unverified: 0, missing: 0 }
    const options: CallOptions = { ...(signal ? { signal } : {}), priority: 'background' }
    const began = performance.now()
    let pending: OwnObject[] = []
    const verifyPending = async (): Promise<void> => {
      const checked = pending
      pending = []
      await Promise.all(checked.map(own => this.#verifyOne(own, report, drop, options)))
      if (checked.length > 0) onProgress?.({ pages: report.pages, bytes: report.bytes })
      const ahead = report.bytes / bytesPerSecond * 1000 - (performance.now() - began)
      if (ahead > 1) await delay(Math.min(ahead, TIMEOUT_MS_MAX), undefined, signal ? { signal } : {}).catch(() => { throwIfAborted(signal) })
    }
    for await (const own of this.#ownObjects({ ...options, damaged: true })) {
      throwIfAborted(signal)
      pending.push(own)
      if (pending.length === READS_AT_ONCE) await verifyPending()
    }
    await verifyPending()
    return report
  }

  /** Ends multipart uploads of this namespace's names that were begun more than a day ago: their parts cost room that no listing shows. */
  async gc(): Promise<GcReport> {
    // Nobody could end uploads, and nobody else is known to begin any.
    if (this.#place.refusal !== null) return { leftovers: 0, evictedPages: 0, evictedBytes: 0 }
    let leftovers = 0
    let next: { key: string; id: string } | null = { key: '', id: '' }
    while (next) {
      const { key, id }: { key: string; id: string } = next
      const { body } = await this.#client({
        method: 'GET', key: '', timeoutMs: this.#o.settings.timeoutMs, query: {
          uploads: '', prefix: this.#layout.prefix, 'encoding-type': 'url', 'max-uploads': LIST_KEYS, ...(key === '' ? {} : { 'key-marker': key, 'upload-id-marker': id })
        }
      }, 'Listing uploads')
      const page = parseUploads(body)
      for (const upload of page.uploads) {
        if (this.#ownName(upload.key) === null || !(Date.now() - upload.initiatedAt.getTime() > UPLOAD_MS_MAX)) continue
        await this.#client({ method: 'DELETE', key: upload.key, query: { uploadId: upload.id }, timeoutMs: this.#o.settings.timeoutMs }, 'Ending an upload', [404])
        leftovers++
      }
      next = page.next
    }
    if (leftovers > 0) this.#o.metrics.count('leftovers_removed', leftovers)
    return { leftovers, evictedPages: 0, evictedBytes: 0 }
  }

  // Pages ------------------------------------------------------------------------------------------------------------------------------

  #writePage(scope: CallScope, page: PageToWrite, end: (outcome: WriteOutcome) => void): void {
    const { key, storedKey, directory, length, memory } = page
    if (this.#o.unavailable(directory)) return end({ ok: false, status: 'rejected', key, error: unavailableError(this.#o, directory, key) })
    this.#lengthHint = length
    const flags = this.#bad.has(storedKey) ? Flag.replace : length >= COMPARE_BYTES || this.#isSeen(storedKey) ? Flag.compareFirst : 0
    this.#o.batcher.submit(new TransferRequest({
      op: Op.pageWrite, flags, directory, storedKey, key, memory, length, meta: this.#layout.metaOf(page.dtype, page.shape), scope,
      onResult: result => {
        if (result.failure !== null) return end({ ok: false, status: result.failure, key, error: result.error })
        this.#hear(result)
        if (result.status === Status.ok || result.status === Status.alreadyThere) {
          this.#bad.delete(storedKey)
          this.#seen.add(storedKey)
          return end({ ok: true, status: result.status === Status.ok ? 'stored' : 'already-there', key, byteLength: length })
        }
        end({ ok: false, status: result.status === Status.unavailable ? 'rejected' : 'failed', key, error: this.#failure(result, key, 'Writing') })
      }
    }))
  }

  #readPage(scope: CallScope, page: PageToRead, end: (outcome: ReadOutcome<Target>, length: number) => void): void {
    const { key, storedKey, directory, exactLength } = page
    const unchecked = page.unchecked || this.#o.uncheckedReads
    if (this.#o.unavailable(directory)) return end({ ok: false, status: 'miss', key, reason: 'unavailable' }, 0)
    let tries = 0
    let measured = false
    let epoch = this.#seen.epoch

    const miss = (reason: MissReason): void => {
      if (reason === 'corrupt') this.#markBad(storedKey)
      if (reason === 'absent' || reason === 'corrupt' || reason === 'identity') this.#seen.forget(storedKey)
      end({ ok: false, status: 'miss', key, reason }, 0)
    }
    const readNow = (length: number): void => {
      tries++
      epoch = this.#seen.epoch
      this.#o.batcher.submit(new TransferRequest({
        op: Op.pageRead, flags: this.#readFlags | (unchecked ? Flag.skipChecksum : 0), directory, storedKey, key, memory: page.memory, length,
        meta: FileLayout.noMeta, scope,
        onResult: result => { done(length, result) }
      }))
    }
    const done = (length: number, result: RequestResult): void => {
      if (result.failure !== null) return end({ ok: false, status: result.failure, key, error: result.error }, 0)
      this.#hear(result)
      if (result.status === Status.length) {
        // With a target the page does not fit. Without one, this is its real length.
        if (exactLength !== null || tries >= READ_TRIES_MAX) return miss('length')
        if (result.length === 0 && this.#place.lengthsUnknown && !measured) return measure()
        if (result.length === 0 || result.length === length) return miss('length')
        this.#lengthHint = result.length
        return readNow(result.length)
      }
      // Replaced while its parts were read: what replaced it is whole.
      if (result.status === Status.stale && tries < READ_TRIES_MAX) return readNow(length)
      if (result.status === Status.unavailable) return miss('unavailable')
      const reason = missReason(result.status)
      if (reason) return miss(reason)
      if (result.status === Status.error || result.status === Status.refused) return end({ ok: false, status: 'failed', key, error: this.#failure(result, key, 'Reading') }, 0)
      this.#lengthHint = length
      const verified = result.status === Status.ok
      const meta = verified && result.meta ? FileLayout.decodeMeta(result.meta) : null
      const unfit = meta ? misfit(page, meta, length) : null
      if (unfit) return miss(unfit)
      this.#seen.add(storedKey, epoch)
      end(hit(page, result, meta ?? { dtype: 'uint8', shape: [length] }, this.#o.arena, verified && !unchecked), length)
    }
    const measure = (): void => {
      measured = true
      this.#o.batcher.submit(new TransferRequest({
        op: Op.pageCheck, flags: this.#readFlags | LOOK_INSIDE, directory, storedKey, key, memory: { kind: 'none' }, length: 0, meta: FileLayout.noMeta, scope,
        onResult: result => {
          const there = result.failure === null && (result.status === Status.ok || result.status === Status.unverified)
          // Half a page that NIXL called whole has no record either: what nobody has asked for in this length is taken for a page only where it says that it is one.
          if (there && result.status === Status.unverified && this.#place.lengthsUnknown) return miss('length')
          if (there && result.length > 0) return readNow(result.length)
          done(0, result)
        }
      }))
    }
    const start = exactLength ?? this.#lengthHint
    if (start > 0) readNow(start)
    else measure()
  }

  async #leadingFrom(from: number, keys: readonly string[], tails: readonly string[], scope: CallScope): Promise<number> {
    for (let at = from; at < keys.length; at += KEYS_AT_ONCE) {
      const pending = keys.slice(at, at + KEYS_AT_ONCE).map(key => tails.map(tail => this.#isThere(key + tail, scope)))
      this.#watch(scope)
      const there = await Promise.all(pending.map(async names => (await Promise.all(names)).every(Boolean)))
      const miss = there.indexOf(false)
      if (miss >= 0) return at + miss
    }
    return keys.length
  }

  async #isThere(storedKey: string, scope: CallScope): Promise<boolean> {
    if (this.#isSeen(storedKey)) {
      this.#o.metrics.lookups(1, 1)
      return true
    }
    if (this.#o.unavailable(0)) return false
    const epoch = this.#seen.epoch
    const result = await this.#one(scope, 'exists', { op: Op.pageCheck, storedKey, flags: this.#readFlags })
    const there = result.failure === null && (result.status === Status.ok || result.status === Status.unverified)
    if (there) this.#seen.add(storedKey, epoch)
    return there
  }

  /** Is it there, as far as this process knows without asking? What is being deleted is not, whatever was seen before. */
  #isSeen(storedKey: string): boolean { return this.#seen.has(storedKey) && this.#o.batcher.underWay(storedKey) !== 'delete' }

  async #delete(scope: CallScope, storedKey: string, flags: number): Promise<boolean> {
    if (this.#o.unavailable(0)) return false
    this.#seen.deleted(storedKey)
    const result = await this.#one(scope, 'delete', { op: Op.pageDelete, storedKey, flags })
    // Once more: what was asked while it went may have seen it.
    this.#seen.deleted(storedKey)
    const gone = result.failure === null && result.status === Status.ok
    if (gone) this.#bad.delete(storedKey)
    return gone
  }

  #markBad(storedKey: string): void {
    if (this.#bad.size < BAD_PAGES_MAX) this.#bad.add(storedKey)
  }

  /** One request by itself. The scope must be watched by the caller, after its last request. `op`: what the metrics count it as; null: housekeeping. */
  #one(scope: CallScope, op: 'read' | 'exists' | 'delete' | null, init: { op: number; storedKey: string; flags: number; memory?: RequestMemory; length?: number; fromStorage?: boolean }): Promise<RequestResult> {
    const began = performance.now()
    return new Promise<RequestResult>(resolve => {
      this.#o.batcher.submit(new TransferRequest({
        op: init.op, flags: init.flags, directory: 0, storedKey: init.storedKey,
        memory: init.memory ?? { kind: 'none' }, length: init.length ?? 0, meta: FileLayout.noMeta, scope, fromStorage: init.fromStorage ?? false,
        onResult: result => {
          if (result.failure === null) this.#hear(result)
          const good = result.failure === null && (result.status === Status.ok || result.status === Status.unverified)
          const outcome = good ? (op === 'delete' ? 'deleted' : 'hit') : result.failure ?? missReason(result.status) ?? (result.status === Status.unavailable ? 'unavailable' : 'failed')
          if (op) this.#o.metrics.page(op, outcome, init.length ?? 0, (performance.now() - began) / 1000)
          resolve(result)
        }
      }))
    })
  }

  /** Starts the clock of a call, after its last request was submitted. */
  #watch(scope: CallScope): void { scope.watch(this.#o.batcher.cancel) }

  /** What an answer says about the store itself. */
  #hear(result: RequestResult & { failure: null }): void {
    if (result.status === Status.refused) {
      const refusal = refusalOfMeta(result.errno, result.meta)
      this.#place.hear(refusal)
      this.#refused = true
      this.#o.metrics.count('object_requests_refused')
      this.#o.health.raise(HEALTH_CAUSE, `${this.#place.name} refuses requests: ${sayRefusal(refusal)}.`)
    } else if (result.status === Status.unavailable) {
      this.#o.metrics.count('object_requests_unavailable')
    } else if (this.#refused && result.status !== Status.cancelled && result.status !== Status.error) {
      this.#refused = false
      this.#o.health.clear(HEALTH_CAUSE)
    }
  }

  /** The error of a page that the store would not, or could not, serve. */
  #failure(result: RequestResult & { failure: null }, key: string, action: string): HiCacheError {
    if (result.status === Status.refused) return refusalError(refusalOfMeta(result.errno, result.meta), `${action} the page ${quote(key)}`, this.#place.name, key)
    if (result.status !== Status.unavailable) return ioError(result.errno, key, action)
    const text = [...(result.errno > 0 ? [String(result.errno)] : []), textOfMeta(result.meta)].filter(part => part !== '').join(' ')
    return new HiCacheError('ERR_REJECTED', `${action} the page ${quote(key)} failed: ${this.#place.name} does not answer, however often it is asked${text === '' ? '' : `: ${text.replace(/\.$/, '')}`}.`, {
      key, ...(result.errno > 0 ? { http: { status: result.errno, code: refusalOfMeta(result.errno, result.meta).code } } : {})
    })
  }

  /** @throws {HiCacheError} ERR_PLUGIN_UNAVAILABLE: objects can only be moved here. */
  #checkPlace(action: string): void {
    const { name, refusal } = this.#place
    if (refusal !== null) throw new HiCacheError('ERR_PLUGIN_UNAVAILABLE', `${action} is not possible in ${name}: ${refusal}.`)
  }

  // Listings ---------------------------------------------------------------------------------------------------------------------------

  /** Objects of this namespace. With `damaged`, also those named like ours whose header does not hold or is not there. */
  async * #ownObjects(options: CallOptions & { damaged?: boolean } = {}): AsyncGenerator<OwnObject, void, undefined> {
    const { damaged = false, ...call } = options
    const flags = damaged ? Flag.acceptUnverified : 0
    let next: string | null = ''
    while (next !== null && this.#o.stage() !== 'closed') {
      const token: string = next
      const { body } = await this.#client({
        method: 'GET', key: '', timeoutMs: call.timeoutMs ?? this.#o.settings.timeoutMs,
        query: { 'list-type': '2', prefix: this.#layout.prefix, 'max-keys': LIST_KEYS, 'encoding-type': 'url', ...(token === '' ? {} : { 'continuation-token': token }) }
      }, 'Listing', [], call)
      const page = parseListing(body)
      next = page.next
      const named = page.objects.flatMap(object => {
        const storedKey = this.#ownName(object.key)
        return storedKey === null ? [] : [{ storedKey, object }]
      })
      for (let at = 0; at < named.length; at += KEYS_AT_ONCE) {
        const chunk = named.slice(at, at + KEYS_AT_ONCE)
        const scope = this.#o.scope(call)
        const pending = chunk.map(({ storedKey }) => this.#one(scope, null, { op: Op.pageCheck, storedKey, flags: flags | LOOK_INSIDE, fromStorage: true }))
        this.#watch(scope)
        const results = await Promise.all(pending)
        for (let i = 0; i < chunk.length; i++) {
          const result = results[i]!
          const { storedKey } = chunk[i]!
          // A listing that leaves pages out in silence would be believed.
          if (result.failure !== null) throw result.error
          // What a newer version wrote is not ours to list, to judge or to clear.
          if (result.status === Status.error && errnoName(result.errno) === 'EPROTONOSUPPORT') continue
          if (result.status === Status.unavailable || result.status === Status.refused || result.status === Status.error) throw this.#failure(result, keyOf(storedKey, this.#o.names.suffix), 'Checking')
          if (result.status === Status.ok || (damaged && (result.status === Status.corrupt || result.status === Status.unverified))) yield { ...chunk[i]!, result }
        }
      }
    }
  }

  /** The stored key of an object that is named like this namespace's pages; null for others. Whose it really is says its header. */
  #ownName(objectKey: string): string | null {
    const { prefix } = this.#layout
    const { suffix } = this.#o.names
    if (!objectKey.startsWith(prefix)) return null
    const storedKey = objectKey.slice(prefix.length)
    if (storedKey === '' || storedKey.includes('/')) return null
    return storedKey.endsWith(suffix) || storedKey.includes(`${suffix}_`) ? storedKey : null
  }

  async #verifyOne({ storedKey, object, result: checked }: OwnObject, report: VerifyReport, drop: boolean, options: CallOptions): Promise<void> {
    const scope = this.#o.scope(options)
    let bytes = object.size
    let found: 'ok' | 'corrupt' | 'unverified' | 'missing' = checked.status === Status.unverified ? 'unverified' : 'corrupt'
    if (checked.status === Status.ok && checked.length > 0) {
      const pending = this.#one(scope, 'read', { op: Op.pageRead, storedKey, flags: 0, memory: { kind: 'arena' }, length: checked.length, fromStorage: true })
      this.#watch(scope)
      const result = await pending
      bytes = checked.length
      if (result.failure === null && result.status === Status.ok) found = 'ok'
      // Replaced since it was listed, by a page that was checked when it was written.
      else if (result.failure === null && (result.status === Status.absent || result.status === Status.length || result.status === Status.stale)) found = 'missing'
      // Out of time or out of room says nothing about the page: better no report than a wrong one.
      else if (result.failure !== null) throw result.error
      else if (result.status !== Status.corrupt) throw this.#failure(result, keyOf(storedKey, this.#o.names.suffix), 'Reading')
    }
    report.pages++
    report.bytes += bytes
    report[found]++
    if (found !== 'corrupt') return
    this.#markBad(storedKey)
    this.#seen.forget(storedKey)
    if (!drop) return
    // A header that does not hold names nobody: the object's name is ours, and only then is it removed.
    const removal = this.#o.scope(options)
    const pending = this.#delete(removal, storedKey, checked.status === Status.corrupt ? Flag.force : 0)
    this.#watch(removal)
    await pending
  }

  /** Deletes pages that were found to be ours a moment ago; answers how many went. */
  async #deleteMany(storedKeys: readonly string[], options: CallOptions | undefined): Promise<number> {
    const together = this.#deletesMany ? storedKeys.filter(fitsXml) : []
    const left = this.#deletesMany ? storedKeys.filter(storedKey => !fitsXml(storedKey)) : [...storedKeys]
    let deleted = 0
    if (together.length > 0) {
      const failed = await this.#deleteTogether(together, options)
      if (failed === null) left.push(...together)
      else deleted += together.length - failed
    }
    for (let at = 0; at < left.length; at += KEYS_AT_ONCE) {
      const scope = this.#o.scope(options)
      const pending = left.slice(at, at + KEYS_AT_ONCE).map(storedKey => this.#delete(scope, storedKey, 0))
      this.#watch(scope)
      for (const gone of await Promise.all(pending)) if (gone) deleted++
    }
    return deleted
  }

  /** By one request; answers how many of them could not be deleted. null: this server cannot delete many at once. */
  async #deleteTogether(storedKeys: readonly string[], options: CallOptions | undefined): Promise<number | null> {
    const body = deleteBody(storedKeys.map(storedKey => this.#layout.objectKeyOf(storedKey)))
    const response = await this.#client({
      method: 'POST', key: '', query: { delete: '' }, body, timeoutMs: options?.timeoutMs ?? this.#o.settings.timeoutMs,
      headers: { 'content-type': 'application/xml', 'content-md5': createHash('md5').update(body).digest('base64') }
    }, 'Deleting', [400, 405, 501], options)
    for (const storedKey of storedKeys) {
      this.#seen.deleted(storedKey)
      this.#bad.delete(storedKey)
    }
    if (response.status >= 300) {
      const refusal = refusalOf(response)
      const cannot = response.status !== 400 || ['InvalidRequest', 'MalformedXML', 'NotImplemented', 'MethodNotAllowed', 'InvalidArgument'].includes(refusal.code)
      if (!cannot) {
        this.#place.hear(refusal)
        throw refusalError(refusal, 'Deleting', this.#place.name)
      }
      this.#o.logger.debug('The object store cannot delete many objects at once: they go one by one.', { answered: sayRefusal(refusal) })
      this.#deletesMany = false
      return null
    }
    const failed = parseDeleteErrors(response.body).length
    for (let i = 0; i < storedKeys.length - failed; i++) this.#o.metrics.page('delete', 'deleted', 0, 0)
    return failed
  }

  /** One request of the client's, with a call's signal. Answers of the given statuses are taken, beside successes. */
  async #client(request: ObjectRequest, action: string, statuses: readonly number[] = [], options?: CallOptions): Promise<ObjectResponse> {
    const work = this.#place.request(request, action, statuses)
    return options === undefined ? await work : await this.#o.within(work, options)
  }

  #pageInfo(storedKey: string, result: RequestResult & { failure: null }, object: ListedObject): PageInfo {
    const meta = result.status === Status.ok && result.meta ? FileLayout.decodeMeta(result.meta) : null
    return {
      key: keyOf(storedKey, this.#o.names.suffix),
      storedKey,
      bytes: result.length,
      dtype: meta?.dtype ?? null,
      shape: meta?.shape ?? null,
      writtenAt: object.modifiedAt,
      // Object stores do not say when an object was read.
      accessedAt: object.modifiedAt,
      verified: result.status === Status.ok,
      allocatedBytes: object.size,
      directory: this.#place.name
    }
  }
}
