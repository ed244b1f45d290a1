const WAYS = 4
const SMALLEST = 256

/**
 * What is remembered of pages that were given up: 32 bits of identity and 32 bits that the owner packs. A set of four places
 * for each identity, of which the oldest is overwritten: 8 bytes a place, no order to keep.
 */
export class GhostTable {
  private identities = new Uint32Array(SMALLEST)
  private values = new Uint32Array(SMALLEST)
  /** Nothing has been noted yet, as while a store is opened. */
  private empty = true

  get room(): number { return this.identities.length }

  /** The value noted for an identity, which is forgotten with this; -1 when it is not known. */
  take(identity: number): number {
    if (identity === 0 || this.empty) return -1
    const start = this.setOf(identity)
    for (let place = start; place < start + WAYS; place++) {
      if (this.identities[place] !== identity) continue
      this.identities[place] = 0
      return this.values[place]!
    }
    return -1
  }

  /** Notes a page. `ageOf` orders values: the oldest of its set goes when there is no room. Answers the value pushed out, or -1. */
  add(identity: number, value: number, ageOf: (value: number) => number): number {
    this.empty = false
    const start = this.setOf(identity)
    let oldest = start
    let age = -1
    for (let place = start; place < start + WAYS; place++) {
      const held = this.identities[place]!
      if (held === 0 || held === identity) {
        oldest = place
        break
      }
      const itsAge = ageOf(this.values[place]!)
      if (itsAge > age) {
        age = itsAge
        oldest = place
      }
    }
    const lost = this.identities[oldest] === 0 ? -1 : this.values[oldest]!
    this.identities[oldest] = identity
    this.values[oldest] = value
    return lost
  }

  /** Makes room for at least `places`; what was noted stays. */
  grow(places: number): void {
    if (places <= this.room) return
    let room = this.room
    while (room < places) room *= 2
    const { identities, values } = this
    this.identities = new Uint32Array(room)
    this.values = new Uint32Array(room)
    for (let place = 0; place < identities.length; place++) {
      if (identities[place] !== 0) this.add(identities[place]!, values[place]!, () => 0)
    }
  }

  private setOf(identity: number): number {
    return (Math.imul(identity, 0x9e3779b1) >>> 0) % (this.room / WAYS) * WAYS
  }
}
