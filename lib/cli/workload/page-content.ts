/** Bytes of one chunk: each chunk of a page starts at its own place of the noise. */
const CHUNK_BYTES = 65536
/** A stamp of 4 bytes at the start of every line of this many bytes. */
const LINE_BYTES = 64
const LINES_PER_CHUNK = CHUNK_BYTES / LINE_BYTES
const PAGE_STEP = 0x9e3779b1 | 0
const LINE_STEP = 0x85ebca6b | 0

/** Two chunks of fixed noise, so that a chunk can start at any line of the first. */
function makeNoise(): Uint8Array {
  const words = new Uint32Array(2 * CHUNK_BYTES / 4)
  let state = 0x6b43a9b5
  for (let index = 0; index < words.length; index++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    words[index] = state
  }
  return new Uint8Array(words.buffer)
}

/**
 * Page contents that follow from a number alone, so that every byte read back can be checked without keeping what was written.
 *
 * A page is noise, copied from a table at a place that depends on the number, with a stamp in every line of 64 bytes that depends on the number and
 * on the line's place in the page. So another page's bytes, a page shifted by any distance, and lines torn from an older write all show. Copying and
 * stamping runs at memory speed (more than 10 GiB/s), where generating word by word in JavaScript would be slower than a good SSD.
 */
export class PageContent {
  readonly pageBytes: number
  private readonly noise = makeNoise()
  private readonly scratch: Buffer

  /** `pageBytes`: a multiple of 64. */
  constructor(pageBytes: number) {
    if (!Number.isSafeInteger(pageBytes) || pageBytes < LINE_BYTES || pageBytes % LINE_BYTES !== 0) {
      throw new RangeError(`pageBytes must be a positive multiple of ${LINE_BYTES}, got ${pageBytes}`)
    }
    this.pageBytes = pageBytes
    this.scratch = Buffer.from(new ArrayBuffer(pageBytes))
  }

  /** Writes the content of page `id` (a whole number from 0) into `target`, which is `pageBytes` long and starts at a multiple of 4 in its buffer. */
  fill(target: Uint8Array, id: number): void {
    if (target.byteLength !== this.pageBytes) throw new RangeError(`a target of ${target.byteLength} bytes for a page of ${this.pageBytes}`)
    const words = new Uint32Array(target.buffer, target.byteOffset, this.pageBytes / 4)
    // Ids beyond 32 bits are folded: the low half keeps ids below 2^32 apart for certain.
    let stamp = Math.imul((id >>> 0) ^ Math.imul(Math.floor(id / 0x1_0000_0000), LINE_STEP), PAGE_STEP)
    for (let start = 0; start < this.pageBytes; start += CHUNK_BYTES) {
      const length = Math.min(CHUNK_BYTES, this.pageBytes - start)
      const from = (stamp >>> 0) % LINES_PER_CHUNK * LINE_BYTES
      target.set(this.noise.subarray(from, from + length), start)
      const end = (start + length) >>> 2
      for (let word = start >>> 2; word < end; word += LINE_BYTES / 4) {
        words[word] = stamp
        stamp = (stamp + LINE_STEP) | 0
      }
    }
  }

  /** How many of `bytes` differ from the content of page `id`; bytes missing or too many count as differing. */
  wrongBytes(bytes: Uint8Array, id: number): number {
    this.fill(this.scratch, id)
    if (this.scratch.compare(bytes) === 0) return 0
    // The slow path runs only when something is wrong already.
    const common = Math.min(bytes.byteLength, this.pageBytes)
    let wrong = Math.abs(bytes.byteLength - this.pageBytes)
    for (let index = 0; index < common; index++) if (bytes[index] !== this.scratch[index]) wrong++
    return wrong
  }
}
