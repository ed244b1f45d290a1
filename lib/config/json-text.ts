import { DEPTH_MAX, SyntaxProblem, type ParsedEntry, type ParsedValue, type Place } from './parsed-value.js'

/**
 * Reads JSON with positions. JSON.parse has none, its messages quote the text (and with it a secret), and it lets the last of two equal
 * keys win in silence.
 *
 * `singleQuoted` also takes the form of the connector's README, which is how Python prints a dictionary: strings in single quotes, True, False and
 * None, a comma after the last element. Strict JSON is RFC 8259.
 */
export function parseJsonText(text: string, options: { singleQuoted: boolean }): ParsedValue {
  return new JsonReader(text, options.singleQuoted).document()
}

const ESCAPES: ReadonlyMap<string, string> = new Map([
  ['"', '"'], ['\\', '\\'], ['/', '/'], ['b', '\b'], ['f', '\f'], ['n', '\n'], ['r', '\r'], ['t', '\t'],
])
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y
const WORD = /[A-Za-z_][A-Za-z0-9_]*/y

class JsonReader {
  readonly #text: string
  readonly #singleQuoted: boolean
  #at = 0
  #line = 1
  #lineStart = 0

  constructor(text: string, singleQuoted: boolean) {
    this.#text = text
    this.#singleQuoted = singleQuoted
  }

  document(): ParsedValue {
    this.#space()
    const value = this.#value(0)
    this.#space()
    if (this.#at < this.#text.length) this.#fail('expected the end of the text after the value')
    return value
  }

  #place(): Place { return { line: this.#line, column: this.#at - this.#lineStart + 1 } }

  #fail(message: string, place = this.#place()): never {
    throw new SyntaxProblem(this.#at >= this.#text.length ? `${message}, found the end of the text` : message, place)
  }

  #space(): void {
    for (; this.#at < this.#text.length; this.#at++) {
      const character = this.#text[this.#at]
      if (character === '\n') {
        this.#line++
        this.#lineStart = this.#at + 1
      } else if (character !== ' ' && character !== '\t' && character !== '\r') return
    }
  }

  #value(depth: number): ParsedValue {
    if (depth > DEPTH_MAX) this.#fail(`nested more than ${DEPTH_MAX} deep`)
    const place = this.#place()
    const character = this.#text[this.#at]
    if (character === '{') return this.#table(place, depth)
    if (character === '[') return this.#list(place, depth)
    if (character === '"' || character === '\'') return { kind: 'scalar', value: this.#string(), place }
    NUMBER.lastIndex = WORD.lastIndex = this.#at
    const number = NUMBER.exec(this.#text)?.[0]
    if (number !== undefined) {
      this.#at += number.length
      if (/[0-9A-Za-z_.+-]/.test(this.#text[this.#at] ?? '')) this.#fail('expected a number as JSON writes it', place)
      return { kind: 'scalar', value: Number(number), place }
    }
    const word = WORD.exec(this.#text)?.[0]
    const constant = word === undefined ? undefined : this.#constant(word)
    if (word === undefined || constant === undefined) {
      this.#fail('expected a value: a string in quotes, a number, true, false, null, { or [')
    }
    this.#at += word.length
    return { kind: 'scalar', value: constant, place }
  }

  #constant(word: string): boolean | null | undefined {
    if (word === 'true' || (this.#singleQuoted && word === 'True')) return true
    if (word === 'false' || (this.#singleQuoted && word === 'False')) return false
    if (word === 'null' || (this.#singleQuoted && word === 'None')) return null
    return undefined
  }

  #table(place: Place, depth: number): ParsedValue {
    const entries = new Map<string, ParsedEntry>()
    this.#at++
    for (let first = true; ; first = false) {
      this.#space()
      if (this.#text[this.#at] === '}' && (first || this.#singleQuoted)) break
      const keyPlace = this.#place()
      const quote = this.#text[this.#at]
      if (quote !== '"' && quote !== '\'') this.#fail(first ? 'expected a key in quotes or }' : 'expected a key in quotes')
      const key = this.#string()
      if (entries.has(key)) this.#fail(`the key ${JSON.stringify(key)} is given twice`, keyPlace)
      this.#space()
      if (this.#text[this.#at] !== ':') this.#fail('expected : after the key')
      this.#at++
      this.#space()
      entries.set(key, { keyPlace, value: this.#value(depth + 1) })
      this.#space()
      if (this.#text[this.#at] === '}') break
      if (this.#text[this.#at] !== ',') this.#fail('expected , or }')
      this.#at++
    }
    this.#at++
    return { kind: 'table', entries, place }
  }

  #list(place: Place, depth: number): ParsedValue {
    const items: ParsedValue[] = []
    this.#at++
    for (let first = true; ; first = false) {
      this.#space()
      if (this.#text[this.#at] === ']' && (first || this.#singleQuoted)) break
      items.push(this.#value(depth + 1))
      this.#space()
      if (this.#text[this.#at] === ']') break
      if (this.#text[this.#at] !== ',') this.#fail('expected , or ]')
      this.#at++
    }
    this.#at++
    return { kind: 'list', items, place }
  }

  #string(): string {
    const start = this.#place()
    const quote = this.#text[this.#at]!
    if (quote === '\'' && !this.#singleQuoted) this.#fail('expected double quotes: JSON has no single ones')
    this.#at++
    for (let value = ''; ; this.#at++) {
      const character = this.#text[this.#at]
      if (character === undefined) this.#fail('a string has no closing quote', start)
      if (character === quote) {
        this.#at++
        return value
      }
      if (character < ' ') this.#fail('a control character stands in a string: write it as an escape')
      value += character === '\\' ? this.#escape() : character
    }
  }

  /** Ends on the last character of the escape. */
  #escape(): string {
    const place = this.#place()
    const character = this.#text[++this.#at] ?? ''
    if (character === 'u') {
      const hex = this.#text.slice(this.#at + 1, this.#at + 5)
      if (!/^[0-9a-fA-F]{4}$/.test(hex)) this.#fail('expected four hexadecimal digits after \\u', place)
      this.#at += 4
      return String.fromCharCode(parseInt(hex, 16))
    }
    const plain = character === '\'' && this.#singleQuoted ? '\'' : ESCAPES.get(character)
    if (plain === undefined) this.#fail('an escape that JSON does not know', place)
    return plain
  }
}
