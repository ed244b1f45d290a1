/** Memory whose release waits while a transfer holds it. */
export interface Pinnable {
  pin(): void
  unpin(): void
}
