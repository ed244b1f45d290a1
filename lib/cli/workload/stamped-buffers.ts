import { PageContent } from './page-content.js'

/**
 * Memory that many pages go through, with contents that can be checked without filling them anew for each page: noise that follows from a number, and in the first
 * and the last word of it the page's own stamp. Two words a page cost nothing in a measurement, and a page that ended up in another's place shows all the same.
 */
export class StampedBuffers {
  private readonly content: PageContent
  private readonly words: readonly Uint32Array[]
  private readonly scratch: Buffer
  private readonly last: number

  /** Each is `pageBytes` long and begins at a multiple of 4 of its buffer. */
  constructor(private readonly buffers: readonly Uint8Array[], pageBytes: number) {
    this.content = new PageContent(pageBytes)
    this.words = buffers.map(bytes => new Uint32Array(bytes.buffer, bytes.byteOffset, pageBytes / 4))
    this.scratch = Buffer.from(new ArrayBuffer(pageBytes))
    this.last = pageBytes / 4 - 1
  }

  /** Stamps of one round and one kind of pages; page numbers are below 2^24. */
  static stamp(round: number, kind: number, page: number): number { return (Math.imul(round * 8 + kind + 1, 0x9e3779b1) ^ page) >>> 0 }

  fill(contentOf: (buffer: number) => number): void { this.buffers.forEach((bytes, buffer) => this.content.fill(bytes, contentOf(buffer))) }

  clear(): void { for (const bytes of this.buffers) bytes.fill(0) }

  stamp(buffer: number, stamp: number): void {
    const words = this.words[buffer]!
    words[0] = stamp
    words[this.last] = ~stamp
  }

  /** Whose page is it? Cheap enough for each one. */
  has(buffer: number, stamp: number): boolean {
    const words = this.words[buffer]!
    return words[0] === stamp && words[this.last] === ~stamp >>> 0
  }

  /** All bytes compared. */
  wrongBytes(buffer: number, content: number, stamp: number): number {
    this.content.fill(this.scratch, content)
    const words = new Uint32Array(this.scratch.buffer, this.scratch.byteOffset, this.last + 1)
    words[0] = stamp
    words[this.last] = ~stamp
    const bytes = this.buffers[buffer]!
    if (this.scratch.compare(bytes) === 0) return 0
    return bytes.reduce((wrong, byte, index) => byte === this.scratch[index] ? wrong : wrong + 1, 0)
  }
}
