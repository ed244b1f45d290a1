import type { Arena } from './arena.js'
import type { Pinnable } from './pinnable.js'

/**
 * A range of the arena with an owner. It goes back when nobody holds it: neither a caller (an arena tensor) nor a transfer.
 * `pins` counts the transfers whose memory the kernel may still touch, so a release during a transfer is deferred by itself.
 */
export class Slot implements Pinnable {
  readonly offset: number
  /** Bytes asked for; the slot itself is rounded up to 4096. */
  readonly bytes: number
  readonly #arena: Arena
  #pins = 0
  #held = false

  constructor(arena: Arena, offset: number, bytes: number) {
    this.#arena = arena
    this.offset = offset
    this.bytes = bytes
  }

  get pinned(): boolean { return this.#pins > 0 }
  get held(): boolean { return this.#held }

  view(): Uint8Array { return new Uint8Array(this.#arena.buffer, this.offset, this.bytes) }

  pin(): void { this.#pins++ }
  unpin(): void {
    if (this.#pins === 0) throw new RangeError('A slot was unpinned more often than pinned.')
    this.#pins--
    this.#free()
  }

  /** The caller has it now. */
  hold(): void {
    this.#held = true
    this.#arena.noteHeld(this, 1)
  }
  /** The caller gives it back; a transfer in flight keeps it a little longer. */
  letGo(): void {
    if (!this.#held) return
    this.#held = false
    this.#arena.noteHeld(this, -1)
    this.#free()
  }

  #free(): void {
    if (this.#pins === 0 && !this.#held) this.#arena.free(this)
  }
}
