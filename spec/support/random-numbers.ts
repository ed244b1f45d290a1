/** Random whole numbers below `n`, the same in every run of a seed (mulberry32). */
export function randomNumbers(seed: number): (n: number) => number {
  let state = seed
  return n => {
    state = state + 0x6d2b79f5 | 0
    let x = Math.imul(state ^ state >>> 15, state | 1)
    x = x + Math.imul(x ^ x >>> 7, x | 61) ^ x
    return Math.floor(((x ^ x >>> 14) >>> 0) / 2 ** 32 * n)
  }
}
