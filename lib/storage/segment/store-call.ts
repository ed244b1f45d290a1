import type { PageToRead, PageToWrite } from '../page-store.js'
import type { Landed } from './landed.js'

/** A call of the store with all its pages, and what has come of them so far. */
export class StoreCall<Page extends PageToRead | PageToWrite, End> {
  readonly pages: readonly Page[]
  readonly stride: number
  readonly end: End
  /** Of page i: 4 words from 4 * i on. */
  readonly digests: Uint32Array
  readonly landed: (Landed | null)[]
  /** Pages that are not answered. */
  left: number

  constructor(pages: readonly Page[], stride: number, end: End) {
    this.pages = pages
    this.stride = stride
    this.end = end
    this.left = pages.length
    this.digests = new Uint32Array(4 * pages.length)
    this.landed = new Array<Landed | null>(pages.length).fill(null)
  }
}
