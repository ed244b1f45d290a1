import { closest } from '../config/spelling.js'

/** What was probably meant by a misspelt or shortened `word`, or undefined when nothing is near. */
export function suggest(word: string, candidates: Iterable<string>): string | undefined {
  const all = [...candidates]
  const begun = word.length < 3 ? [] : all.filter((candidate) => candidate.startsWith(word))
  return begun[0] ?? closest(word, all)
}
