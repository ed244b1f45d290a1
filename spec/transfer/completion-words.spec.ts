import { expect } from 'chai'
import { CompletionWords } from '../../lib/transfer/completion-words.js'
import { WORD_STATE_BITS, WordState } from '../../lib/transfer/protocol.js'

const state = (words: CompletionWords, word: number): number => words.value(word) & (1 << WORD_STATE_BITS) - 1
/** What native code does: turns the value it was given into the next state. */
const native = (words: CompletionWords, word: number, from: number, to: number): boolean => {
  const base = words.value(word) & ~7
  return Atomics.compareExchange(words.shared, word, base | from, base | to) === (base | from)
}

describe('completion words', () => {
  it('are taken in a new generation each time, so that a late native hand finds another value', () => {
    const words = new CompletionWords(1)
    const word = words.take()
    expect(word).to.equal(0)
    expect(words.available).to.equal(0)
    expect(words.take()).to.equal(-1)
    const first = words.value(word)
    expect(state(words, word)).to.equal(WordState.queued)
    expect(words.isDone(word)).to.equal(false)
    native(words, word, WordState.queued, WordState.started)
    native(words, word, WordState.started, WordState.done)
    expect(words.isDone(word)).to.equal(true)
    words.giveBack(word)
    expect(words.value(words.take())).to.not.equal(first)
  })
  it('what has not begun is called off, and its memory is free', () => {
    const words = new CompletionWords(1)
    const word = words.take()
    expect(words.cancel(word)).to.equal(true)
    expect(words.isDone(word)).to.equal(true)
    expect(native(words, word, WordState.queued, WordState.started), 'native code comes too late').to.equal(false)
    expect(words.cancel(word), 'again').to.equal(true)
  })
  it('what has begun is only asked to end: its memory is free when native code says so', () => {
    const words = new CompletionWords(1)
    const word = words.take()
    native(words, word, WordState.queued, WordState.started)
    expect(words.cancel(word)).to.equal(false)
    expect(state(words, word)).to.equal(WordState.cancelling)
    expect(words.isDone(word)).to.equal(false)
    native(words, word, WordState.cancelling, WordState.done)
    expect(words.isDone(word)).to.equal(true)
    expect(words.cancel(word), 'what is over cannot be called off').to.equal(false)
    expect(state(words, word)).to.equal(WordState.done)
  })
  it('generations come round without ever being confused with a state', () => {
    const words = new CompletionWords(1)
    Atomics.store(words.shared, 0, -8 | WordState.done)
    const word = words.take()
    expect(state(words, word)).to.equal(WordState.queued)
    const seen = new Set<number>()
    for (let i = 0; i < 1000; i++) {
      seen.add(words.value(word))
      words.giveBack(word)
      words.take()
    }
    expect(seen.size).to.equal(1000)
  })
})
