import { stat as statFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { RESERVED_PREFIX, checkKey } from '../keys/index.js'
import type { Target } from '../memory/tensor.js'
import { ioError } from '../transfer/batcher.js'
import type { CallOptions, CallScope } from '../transfer/call-scope.js'
import type { ListedFile } from '../transfer/native-binding.js'
import { BLOCK_BYTES, Flag, Op, Status } from '../transfer/protocol.js'
import { TransferRequest, type RequestMemory, type RequestResult } from '../transfer/transfer-request.js'
import { FileLayout } from './file-layout.js'
import { L3Cleaner } from './l3-cleaner.js'
import type { MissReason, ReadOutcome, WriteOutcome } from './outcome.js'
import type { PageInfo } from './page-info.js'
import type { GcReport, PageStore, PageToRead, PageToWrite, VerifyOptions, VerifyReport } from './page-store.js'
import { TIMEOUT_MS_MAX, hit, keyOf, misfit, missReason, throwIfAborted, unavailableError, type StoreParts } from './store-parts.js'

/** Where writers keep their temporaries (addon/pool/page_store.h): all of them, so that an opening never lists pages. */
const TEMPORARY_FOLDER = `${RESERVED_PREFIX}-tmp`
/** A read without a target that finds another length than expected tries again with that one; a page that keeps changing is given up. */
const LENGTH_TRIES_MAX = 4
/** Keys that one look-up asks about at a time. */
const LOOKUP_KEYS = 128

/** One file per key, as SGLang's Python connector has them, each with a record block of ours behind the payload. */
export class FileStore implements PageStore {
  readonly name = 'file'
  readonly #o: StoreParts
  readonly #layout: FileLayout
  readonly #cleaner: L3Cleaner
  readonly #readFlags: number
  /** Payload bytes of the page last read or written: what a read without a target expects first. */
  #lengthHint = 0
  #firstSweep: Promise<void> = Promise.resolve()

  constructor(parts: StoreParts, layout: FileLayout) {
    this.#o = parts
    this.#layout = layout
    this.#readFlags = Flag.dropCorrupt | (parts.settings.acceptUnverified ? Flag.acceptUnverified : 0)
    const { settings, directories, names, addon, pool, metrics, logger } = parts
    this.#cleaner = new L3Cleaner({
      settings, directories, layout, suffix: names.suffix, addon, pool, metrics, logger,
      remove: (storedKey, directory) => this.#removeAny(storedKey, directory),
      touch: (storedKey, directory) => this.#touch(storedKey, directory)
    })
  }

  start(): Promise<void> {
    // Not waited for: pages can move before the last leftover is gone.
    this.#firstSweep = this.#sweep().then(() => {}, (error: unknown) => { this.#o.logger.debug('Sweeping ended early.', { error: String(error) }) })
    this.#cleaner.start()
    return Promise.resolve()
  }

  async stop(): Promise<void> { await this.#cleaner.stop() }
  async close(): Promise<void> { /* Nothing is held. */ }
  gauges(): Readonly<Record<string, number>> { return {} }

  write(scope: CallScope, pages: readonly PageToWrite[], _stride: number, end: (index: number, outcome: WriteOutcome) => void): void {
    pages.forEach((page, i) => { this.#writePage(scope, page, outcome => { end(i, outcome) }) })
  }

  read(scope: CallScope, pages: readonly PageToRead[], _stride: number, end: (index: number, outcome: ReadOutcome<Target>, length: number) => void): void {
    pages.forEach((page, i) => { this.#readPage(scope, page, (outcome, length) => { end(i, outcome, length) }) })
  }

  async leading(keys: readonly string[], tails: readonly string[], scope: CallScope): Promise<number> {
    for (const key of keys) checkKey(key, tails[tails.length - 1])
    for (let at = 0; at < keys.length; at += LOOKUP_KEYS) {
      const there = await this.#check(keys.slice(at, at + LOOKUP_KEYS).map(key => tails.map(tail => key + tail)), scope)
      const miss = there.indexOf(false)
      if (miss >= 0) return at + miss
    }
    return keys.length
  }

  async remove(storedKeys: readonly string[], scope: CallScope): Promise<boolean> {
    const pending = storedKeys.map(storedKey => this.#one(scope, 'delete', { op: Op.pageDelete, storedKey, flags: Flag.acceptUnverified }))
    this.#watch(scope)
    return (await Promise.all(pending)).some(result => result.failure === null && result.status === Status.ok)
  }

  /** Told by the identity in their records: never another model's, never a file without a record. */
  async clear(options?: CallOptions): Promise<{ deleted: number }> {
    let deleted = 0
    for await (const { storedKey } of this.#ownFiles(options)) {
      const scope = this.#o.scope(options)
      const pending = this.#one(scope, 'delete', { op: Op.pageDelete, storedKey, flags: 0 })
      this.#watch(scope)
      const result = await pending
      if (result.failure === null && result.status === Status.ok) deleted++
    }
    return { deleted }
  }

  async * entries(): AsyncGenerator<PageInfo, void, undefined> {
    for await (const { storedKey, file, directory } of this.#ownFiles()) yield this.#pageInfo(storedKey, file, directory)
  }

  async stat(storedKey: string, scope: CallScope): Promise<PageInfo | null> {
    const pending = this.#one(scope, 'exists', { op: Op.pageCheck, storedKey, flags: this.#readFlags, fromStorage: true })
    this.#watch(scope)
    const result = await pending
    if (result.failure !== null || (result.status !== Status.ok && result.status !== Status.unverified)) return null
    const directory = this.#layout.directoryOf(storedKey)
    const file = await statFile(join(this.#o.directories[directory]!.realPath, this.#layout.nameOf(storedKey))).catch(() => null)
    if (!file) return null
    return this.#pageInfo(storedKey, {
      name: storedKey, size: file.size, allocated: file.blocks * 512, accessedAt: file.atimeMs, modifiedAt: file.mtimeMs,
      record: result.status === Status.ok ? 'whole' : 'none', payloadLength: result.length, ...(result.meta ? { meta: result.meta } : {})
    }, directory)
  }

  async verify({ bytesPerSecond = Infinity, drop = false, onProgress, signal }: VerifyOptions): Promise<VerifyReport> {
    const report: VerifyReport = { pages: 0, bytes: 0, ok: 0, corrupt: 0, unverified: 0, missing: 0 }
    const began = performance.now()
    for await (const { storedKey, file } of this.#ownFiles({ ...(signal ? { signal } : {}), damaged: true })) {
      throwIfAborted(signal)
      report.pages++
      const scope = this.#o.scope({ ...(signal ? { signal } : {}), priority: 'background' })
      const length = file.payloadLength ?? 0
      if (file.record === 'whole' && length > 0) {
        const pending = this.#one(scope, 'read', { op: Op.pageRead, storedKey, flags: drop ? Flag.dropCorrupt : 0, memory: { kind: 'arena' }, length, fromStorage: true })
        this.#watch(scope)
        const result = await pending
        if (result.failure === null && result.status === Status.ok) report.ok++
        else if (result.failure === null && result.status === Status.absent) report.missing++
        // Out of time or out of room says nothing about the page: better no report than a wrong one.
        else if (result.failure !== null && result.failure !== 'failed') throw result.error
        else report.corrupt++
        report.bytes += length
      } else if (file.record === 'none') {
        report.unverified++
        report.bytes += file.size
      } else {
        report.corrupt++
        // A record that does not hold names nobody: the file's name is ours (our suffix), and only then is it removed.
        if (drop) {
          const pending = this.#one(scope, 'read', { op: Op.pageRead, storedKey, flags: Flag.dropCorrupt, memory: { kind: 'arena' }, length: Math.max(1, file.size - BLOCK_BYTES), fromStorage: true })
          this.#watch(scope)
          await pending
        }
      }
      onProgress?.({ pages: report.pages, bytes: report.bytes })
      const ahead = report.bytes / bytesPerSecond * 1000 - (performance.now() - began)
      if (ahead > 1) await delay(Math.min(ahead, TIMEOUT_MS_MAX), undefined, signal ? { signal } : {}).catch(() => { throwIfAborted(signal) })
    }
    return report
  }

  async gc(): Promise<GcReport> {
    await this.#firstSweep
    const leftovers = await this.#sweep()
    const { pages, bytes } = await this.#cleaner.pass()
    return { leftovers, evictedPages: pages, evictedBytes: bytes }
  }

  #writePage(scope: CallScope, page: PageToWrite, end: (outcome: WriteOutcome) => void): void {
    const { key, storedKey, directory, length, memory } = page
    if (this.#o.unavailable(directory)) return end({ ok: false, status: 'rejected', key, error: unavailableError(this.#o, directory, key) })
    this.#lengthHint = length
    this.#o.batcher.submit(new TransferRequest({
      op: Op.pageWrite, flags: 0, directory, storedKey, key, memory, length, meta: this.#layout.metaOf(page.dtype, page.shape), scope,
      onResult: result => {
        if (result.failure !== null) return end({ ok: false, status: result.failure, key, error: result.error })
        if (result.status === Status.ok || result.status === Status.alreadyThere) {
          this.#cleaner.noteWritten(directory, length)
          return end({ ok: true, status: result.status === Status.ok ? 'stored' : 'already-there', key, byteLength: length })
        }
        end({ ok: false, status: 'failed', key, error: ioError(result.errno, key, 'Writing') })
      }
    }))
  }

  #readPage(scope: CallScope, page: PageToRead, end: (outcome: ReadOutcome<Target>, length: number) => void): void {
    const { key, storedKey, directory, exactLength } = page
    const unchecked = page.unchecked || this.#o.uncheckedReads
    if (this.#o.unavailable(directory)) return end({ ok: false, status: 'miss', key, reason: 'unavailable' }, 0)
    let tries = 0

    const miss = (reason: MissReason): void => { end({ ok: false, status: 'miss', key, reason }, 0) }
    const readNow = (length: number): void => {
      tries++
      this.#o.batcher.submit(new TransferRequest({
        op: Op.pageRead, flags: this.#readFlags | (unchecked ? Flag.skipChecksum : 0), directory, storedKey, key, memory: page.memory, length,
        meta: FileLayout.noMeta, scope,
        onResult: result => { done(length, result) }
      }))
    }
    const done = (length: number, result: RequestResult): void => {
      if (result.failure !== null) return end({ ok: false, status: result.failure, key, error: result.error }, 0)
      if (result.status === Status.length) {
        // With a target the page does not fit. Without one, this is its real length.
        if (exactLength !== null || result.length === 0 || result.length === length || tries >= LENGTH_TRIES_MAX) return miss('length')
        this.#lengthHint = result.length
        return readNow(result.length)
      }
      const reason = missReason(result.status)
      if (reason) return miss(reason)
      if (result.status === Status.error) return end({ ok: false, status: 'failed', key, error: ioError(result.errno, key, 'Reading') }, 0)
      this.#lengthHint = length
      const verified = result.status === Status.ok
      const meta = verified && result.meta ? FileLayout.decodeMeta(result.meta) : null
      const unfit = meta ? misfit(page, meta, length) : null
      if (unfit) return miss(unfit)
      this.#cleaner.noteRead(storedKey, directory)
      end(hit(page, result, meta ?? { dtype: 'uint8', shape: [length] }, this.#o.arena, verified && !unchecked), length)
    }
    const start = exactLength ?? this.#lengthHint
    if (start > 0) return readNow(start)
    this.#o.batcher.submit(new TransferRequest({
      op: Op.pageCheck, flags: this.#readFlags, directory, storedKey, key, memory: { kind: 'none' }, length: 0, meta: FileLayout.noMeta, scope,
      onResult: result => {
        if (result.failure === null && (result.status === Status.ok || result.status === Status.unverified) && result.length > 0) return readNow(result.length)
        done(0, result)
      }
    }))
  }

  /** Are all names of each page there? */
  async #check(pages: readonly (readonly string[])[], scope: CallScope): Promise<boolean[]> {
    const pending = pages.map(names => names.map(async storedKey => {
      if (this.#o.unavailable(this.#layout.directoryOf(storedKey))) return false
      const result = await this.#one(scope, 'exists', { op: Op.pageCheck, storedKey, flags: this.#readFlags })
      return result.failure === null && (result.status === Status.ok || result.status === Status.unverified)
    }))
    this.#watch(scope)
    return await Promise.all(pending.map(async names => (await Promise.all(names)).every(Boolean)))
  }

  /** One request by itself. The scope must be watched by the caller, after its last request. */
  #one(scope: CallScope, op: 'read' | 'exists' | 'delete', init: { op: number; storedKey: string; flags: number; directory?: number; memory?: RequestMemory; length?: number; fromStorage?: boolean }): Promise<RequestResult> {
    const began = performance.now()
    return new Promise<RequestResult>(resolve => {
      this.#o.batcher.submit(new TransferRequest({
        op: init.op, flags: init.flags, directory: init.directory ?? this.#layout.directoryOf(init.storedKey), storedKey: init.storedKey,
        memory: init.memory ?? { kind: 'none' }, length: init.length ?? 0, meta: FileLayout.noMeta, scope, fromStorage: init.fromStorage ?? false,
        onResult: result => {
          const good = result.failure === null && (result.status === Status.ok || result.status === Status.unverified)
          const outcome = good ? (op === 'delete' ? 'deleted' : 'hit') : result.failure ?? missReason(result.status) ?? 'failed'
          this.#o.metrics.page(op, outcome, init.length ?? 0, (performance.now() - began) / 1000)
          resolve(result)
        }
      }))
    })
  }

  /** Starts the clock of a call, after its last request was submitted. */
  #watch(scope: CallScope): void { scope.watch(this.#o.batcher.cancel) }

  /** For the cleaner: removes a page of any namespace. */
  async #removeAny(storedKey: string, directory: number): Promise<boolean> {
    const scope = this.#o.scope({ priority: 'background' })
    const pending = this.#one(scope, 'delete', { op: Op.pageDelete, storedKey, directory, flags: Flag.force })
    this.#watch(scope)
    const result = await pending
    return result.failure === null && result.status === Status.ok
  }

  #touch(storedKey: string, directory: number): void {
    const scope = this.#o.scope({ priority: 'background' })
    this.#o.batcher.submit(new TransferRequest({
      op: Op.pageTouch, flags: 0, directory, storedKey, memory: { kind: 'none' }, length: 0, meta: FileLayout.noMeta, scope, onResult: () => {}
    }))
    this.#watch(scope)
  }

  /** Files of this namespace. With `damaged`, also those named like ours whose record does not hold or is not there. */
  async * #ownFiles(options: CallOptions & { damaged?: boolean } = {}): AsyncGenerator<{ storedKey: string; file: ListedFile; directory: number }, void, undefined> {
    const { suffix } = this.#o.names
    for (let directory = 0; directory < this.#o.directories.length; directory++) {
      for (const folder of this.#layout.folders()) {
        if (this.#o.stage() === 'closed') return
        const files = await this.#o.within(this.#o.pool.list(directory, folder, true), options)
        for (const file of files) {
          const named = file.name.endsWith(suffix) || file.name.includes(`${suffix}_`)
          const storedKey = file.identity ? this.#layout.storedKeyOf(file.identity) : options.damaged === true && named ? file.name : null
          // A record that says another name than its file's was moved there by somebody: not ours.
          if (storedKey !== null && storedKey === file.name && this.#layout.directoryOf(storedKey) === directory) yield { storedKey, file, directory }
        }
      }
    }
  }

  #pageInfo(storedKey: string, file: ListedFile, directory: number): PageInfo {
    const meta = file.meta && file.record === 'whole' ? FileLayout.decodeMeta(file.meta) : null
    return {
      key: keyOf(storedKey, this.#o.names.suffix),
      storedKey,
      bytes: file.payloadLength ?? file.size,
      dtype: meta?.dtype ?? null,
      shape: meta?.shape ?? null,
      writtenAt: new Date(file.modifiedAt),
      accessedAt: new Date(file.accessedAt),
      verified: file.record === 'whole',
      allocatedBytes: file.allocated,
      directory: this.#o.directories[directory]!.path
    }
  }

  async #sweep(): Promise<number> {
    // Each for itself: one that hangs does not keep the others from being swept.
    const swept = await Promise.all(this.#o.directories.map(async ({ writable }, directory) => {
      if (!writable) return 0
      let removed = 0
      // In the directory itself a probe may have left something; a flat one is full of pages, and is not listed for that.
      for (const folder of this.#layout.scheme === 'flat' ? [TEMPORARY_FOLDER] : [TEMPORARY_FOLDER, '']) {
        if (this.#o.stage() !== 'open') return removed
        removed += await this.#o.pool.sweep(directory, folder)
      }
      return removed
    }))
    const removed = swept.reduce((sum, one) => sum + one, 0)
    if (removed > 0) {
      this.#o.metrics.count('leftovers_removed', removed)
      this.#o.logger.info('Removed temporaries that dead writers left.', { removed })
    }
    return removed
  }
}
