/** Edits (insert, remove, replace, swap neighbours) between two words. */
export function editDistance(a: string, b: string): number {
  let before: number[] = []
  let above = Array.from({ length: b.length + 1 }, (_, column) => column)
  for (let row = 1; row <= a.length; row++) {
    const current = [row]
    for (let column = 1; column <= b.length; column++) {
      const same = a[row - 1] === b[column - 1]
      let edits = Math.min(above[column]! + 1, current[column - 1]! + 1, above[column - 1]! + (same ? 0 : 1))
      if (row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1]) edits = Math.min(edits, before[column - 2]! + 1)
      current.push(edits)
    }
    before = above
    above = current
  }
  return above[b.length]!
}

/** Words this long are no misspelling of anything; the distance is quadratic. */
const WORD_CHARACTERS_MAX = 64

/** The candidate that was probably meant, or undefined. `storageDir` and `storage-dir` are near `storage_dir`. */
export function closest(word: string, candidates: Iterable<string>): string | undefined {
  if (word.length > WORD_CHARACTERS_MAX) return undefined
  const plain = (text: string): string => text.replace(/([a-z])([A-Z])/g, '$1_$2').replace(/[-\s]/g, '_').toLowerCase()
  let best: string | undefined
  let bestEdits = Infinity
  for (const candidate of candidates) {
    const edits = editDistance(plain(word), plain(candidate))
    if (edits < bestEdits && edits <= Math.max(1, Math.floor(candidate.length / 3))) {
      best = candidate
      bestEdits = edits
    }
  }
  return best
}
