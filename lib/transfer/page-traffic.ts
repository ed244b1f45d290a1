import type { TransferRequest } from './transfer-request.js'

/**
 * What is under way for each page: its writes and deletes, one after the other in the order of their calls, so that the last call wins; and the read that others of the same page may join.
 */
export class PageTraffic {
  /** Those that are not settled. The first is under way. */
  readonly #mutations = new Map<string, TransferRequest[]>()
  readonly #readers = new Map<string, TransferRequest>()

  /** Writes and deletes that are not settled. */
  mutations(): TransferRequest[] { return [...this.#mutations.values()].flat() }

  /** A write or delete comes. True: it may go; false: once those before it are settled. */
  mutate(request: TransferRequest): boolean {
    // A read that began before it may bring what was there before: nobody who comes after it may have that.
    this.#readers.delete(request.storedKey)
    const line = this.#mutations.get(request.storedKey)
    if (line) line.push(request)
    else this.#mutations.set(request.storedKey, [request])
    return !line
  }

  /** A write or delete is settled. Answers the one that may go now, if there is one. */
  mutated(request: TransferRequest): TransferRequest | null {
    const line = this.#mutations.get(request.storedKey)
    const place = line?.indexOf(request) ?? -1
    if (!line || place < 0) return null
    line.splice(place, 1)
    if (line.length === 0) this.#mutations.delete(request.storedKey)
    return place === 0 ? line[0] ?? null : null
  }

  /** The write or delete that says what the page will be. */
  lastMutation(storedKey: string): TransferRequest | null { return this.#mutations.size === 0 ? null : this.#mutations.get(storedKey)?.at(-1) ?? null }

  /** The read of the same bytes that `request` may join. Null: there is none; then it goes itself, and others may join it. */
  join(request: TransferRequest): TransferRequest | null {
    const leader = this.#readers.get(request.storedKey)
    if (leader && joinable(leader, request)) {
      (leader.joiners ??= []).push(request)
      return leader
    }
    // Not while a write is under way: whoever comes after that write must not get what was there before it.
    if (!this.#mutations.has(request.storedKey)) this.#readers.set(request.storedKey, request)
    return null
  }

  /** Nobody may join the read any more. Answers those who did and still wait. */
  left(leader: TransferRequest): TransferRequest[] {
    if (this.#readers.get(leader.storedKey) === leader) this.#readers.delete(leader.storedKey)
    const { joiners } = leader
    leader.joiners = null
    return joiners?.filter(joiner => !joiner.settled) ?? []
  }
}

function joinable(leader: TransferRequest, request: TransferRequest): boolean {
  if (leader.settled || leader.length !== request.length || leader.flagsAsked !== request.flagsAsked || leader.directory !== request.directory) return false
  // A foreground read does not wait until a background one has its turn.
  return leader.dispatched || leader.scope.priority === request.scope.priority || request.scope.priority === 'background'
}
