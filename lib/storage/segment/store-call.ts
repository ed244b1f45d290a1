import type { PageToRead, PageToWrite } from '../page-store.js'
import type { Landed } from './landed.js'

/** Digests of this many pages share an array: one for each set() would be most of what it allocates. */
const SLAB_WORDS = 4 * 1024
let slab = new Uint32Array(SLAB_WORDS)
let slabUsed = 0

/** A call of the store with all its pages, and what has come of them so far. */
export class StoreCall<Page extends PageToRead | PageToWrite, End> {
  readonly pages: readonly Page[]
  readonly stride: number
  readonly end: End
  /** Of page i: 4 words from digestAt(i) on. */
  readonly digests: Uint32Array
  readonly #digestsAt: number
  readonly landed: (Landed | null)[]
  /** Pages that are not answered. */
  left: number

  constructor(pages: readonly Page[], stride: number, end: End) {
    this.pages = pages
    this.stride = stride
    this.end = end
    this.left = pages.length
    const words = 4 * pages.length
    if (slabUsed + words > slab.length) {
      slab = new Uint32Array(Math.max(SLAB_WORDS, words))
      slabUsed = 0
    }
    this.digests = slab
    this.#digestsAt = slabUsed
    slabUsed += words
    this.landed = new Array<Landed | null>(pages.length).fill(null)
  }

  digestAt(i: number): number { return this.#digestsAt + 4 * i }
}
