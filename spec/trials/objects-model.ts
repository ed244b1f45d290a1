/** A version that is none: the page is not there. */
export const ABSENT = 0

/** A read under way, all that it may find, and how many changes of the page were under way or began meanwhile. */
export interface OpenRead { readonly key: string; readonly cache: number; readonly allowed: Set<number>; changes: number }

interface Page { possible: Set<number>; changing: number | null; readonly reads: Set<OpenRead> }

/**
 * What every page of a store may be, by what its caches said: a change that was acknowledged is what there is, one that failed may have been done or not. A page is changed
 * by one at a time, and read by anybody.
 */
export class ObjectsModel {
  readonly #pages = new Map<string, Page>()

  constructor(keys: readonly string[]) {
    for (const key of keys) this.#pages.set(key, { possible: new Set([ABSENT]), changing: null, reads: new Set() })
  }

  isChanging(key: string): boolean { return this.#page(key).changing !== null }
  possible(key: string): ReadonlySet<number> { return this.#page(key).possible }

  /** A write of this version begins, or a delete (ABSENT). */
  begin(key: string, version: number): void {
    const page = this.#page(key)
    if (page.changing !== null) throw new Error(`${key} is being changed already.`)
    page.changing = version
    for (const read of page.reads) {
      read.allowed.add(version)
      read.changes++
    }
  }

  end(key: string, acknowledged: boolean): void {
    const page = this.#page(key)
    if (acknowledged) page.possible = new Set([page.changing!])
    else page.possible.add(page.changing!)
    page.changing = null
  }

  /** A read that begins while another one of its cache runs may be answered by that one. */
  read(key: string, cache: number): OpenRead {
    const page = this.#page(key)
    const allowed = new Set(page.possible)
    let changes = 0
    if (page.changing !== null) {
      allowed.add(page.changing)
      changes++
    }
    for (const other of page.reads) {
      if (other.cache !== cache) continue
      for (const version of other.allowed) allowed.add(version)
      changes += other.changes
    }
    const read = { key, cache, allowed, changes }
    page.reads.add(read)
    return read
  }

  /** What a read has found; null: it could not tell. Answers what is wrong with that. */
  found(read: OpenRead, version: number | null): string | null {
    const page = this.#page(read.key)
    page.reads.delete(read)
    if (version === null) return null
    if (!read.allowed.has(version)) return `${read.key} was ${say(version)}, and can only be ${[...read.allowed].map(say).join(' or ')}`
    // What it is, it stays until it is changed.
    if (read.changes === 0) page.possible = new Set([version])
    return null
  }

  #page(key: string): Page { return this.#pages.get(key)! }
}

function say(version: number): string { return version === ABSENT ? 'absent' : `version ${version}` }
