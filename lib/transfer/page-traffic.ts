import type { TransferRequest } from './transfer-request.js'

/**
 * What is under way for each page: its writes and deletes, one after the other in the order of their calls, so that the last call wins; and the read that others of the same page may join.
 */
export class PageTraffic {
  /** Those that are not settled; almost always one. Of several the first is under way. */
  readonly #mutations = new Map<string, TransferRequest | TransferRequest[]>()
  readonly #readers = new Map<string, TransferRequest>()

  /** Writes and deletes that are not settled. */
  mutations(): TransferRequest[] { return [...this.#mutations.values()].flat() }

  /** A write or delete comes. True: it may go; false: once those before it are settled. */
  mutate(request: TransferRequest): boolean {
    // A read that began before it may bring what was there before: nobody who comes after it may have that.
    if (this.#readers.size > 0) this.#readers.delete(request.storedKey)
    const line = this.#mutations.get(request.storedKey)
    if (line === undefined) this.#mutations.set(request.storedKey, request)
    else if (Array.isArray(line)) line.push(request)
    else this.#mutations.set(request.storedKey, [line, request])
    return line === undefined
  }

  /** A write or delete is settled. Answers the one that may go now, if there is one. */
  mutated(request: TransferRequest): TransferRequest | null {
    const line = this.#mutations.get(request.storedKey)
    if (line === request) {
      this.#mutations.delete(request.storedKey)
      return null
    }
    if (!Array.isArray(line)) return null
    const place = line.indexOf(request)
    if (place < 0) return null
    line.splice(place, 1)
    if (line.length === 1) this.#mutations.set(request.storedKey, line[0]!)
    return place === 0 ? line[0]! : null
  }

  /** The write or delete that says what the page will be. */
  lastMutation(storedKey: string): TransferRequest | null {
    const line = this.#mutations.size === 0 ? undefined : this.#mutations.get(storedKey)
    return Array.isArray(line) ? line.at(-1)! : line ?? null
  }

  /** The read of the same bytes that `request` may join. Null: there is none; then it goes itself, and others may join it. */
  join(request: TransferRequest): TransferRequest | null {
    const leader = this.#readers.get(request.storedKey)
    if (leader && joinable(leader, request)) {
      (leader.joiners ??= []).push(request)
      return leader
    }
    // Not while a write is under way: whoever comes after that write must not get what was there before it.
    if (this.#mutations.size === 0 || !this.#mutations.has(request.storedKey)) {
      this.#readers.set(request.storedKey, request)
      request.leads = true
    }
    return null
  }

  /** Nobody may join the read any more. Answers those who did and still wait, null when nobody does. */
  left(leader: TransferRequest): TransferRequest[] | null {
    if (leader.leads) {
      leader.leads = false
      if (this.#readers.get(leader.storedKey) === leader) this.#readers.delete(leader.storedKey)
    }
    const { joiners } = leader
    if (!joiners) return null
    leader.joiners = null
    return joiners.filter(joiner => !joiner.settled)
  }
}

function joinable(leader: TransferRequest, request: TransferRequest): boolean {
  if (leader.settled || leader.length !== request.length || leader.flagsAsked !== request.flagsAsked || leader.directory !== request.directory) return false
  // A foreground read does not wait until a background one has its turn.
  return leader.dispatched || leader.scope.priority === request.scope.priority || request.scope.priority === 'background'
}
