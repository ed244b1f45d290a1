/**
 * What every syntax is read into: values that remember where they stood. Tables are Maps, so that a key called
 * `__proto__` or `constructor` is a key like any other.
 */

/** Line and column count from 1. */
export interface Place { readonly line: number; readonly column: number }

export interface ParsedScalar { readonly kind: 'scalar'; readonly value: string | number | boolean | null; readonly place?: Place }
/** Something that no key can take: a date, a function. `what` names it for the message. */
export interface ParsedOther { readonly kind: 'other'; readonly what: string; readonly place?: Place }
export interface ParsedList { readonly kind: 'list'; readonly items: ParsedValue[]; readonly place?: Place }
export interface ParsedEntry { readonly keyPlace?: Place; readonly value: ParsedValue }
export interface ParsedTable { readonly kind: 'table'; readonly entries: Map<string, ParsedEntry>; readonly place?: Place }
export type ParsedValue = ParsedScalar | ParsedOther | ParsedList | ParsedTable

/** Deeper than any configuration, shallow enough for the stack. */
export const DEPTH_MAX = 32

/** A text that is not of its syntax. The message never quotes the text: a secret may stand there. */
export class SyntaxProblem extends Error {
  readonly place: Place | undefined
  constructor(message: string, place?: Place) {
    super(message)
    this.place = place
  }
}

/** Spreads a place into an object without making the property `undefined` (exactOptionalPropertyTypes). */
export function placed(place: Place | undefined): { place?: Place } {
  return place === undefined ? {} : { place }
}

const SHOWN_CHARACTERS_MAX = 60

/** How a message shows what was found. Not for secrets. */
export function describeFound(value: unknown): string {
  if (value === null) return 'nothing (null)'
  switch (typeof value) {
    case 'string': {
      // By code points, so that no surrogate pair is cut in two.
      const characters = Array.from(value)
      return characters.length <= SHOWN_CHARACTERS_MAX ? JSON.stringify(value)
        : `${JSON.stringify(characters.slice(0, SHOWN_CHARACTERS_MAX).join(''))}... (${characters.length} characters)`
    }
    case 'number': case 'boolean': return String(value)
    default: return describeKind(value)
  }
}

/** The kind of a value alone, for keys whose value is never shown. */
export function describeKind(value: unknown): string {
  if (value === null) return 'nothing (null)'
  if (Array.isArray(value)) return 'a list'
  switch (typeof value) {
    case 'string': return 'a string'
    case 'number': return 'a number'
    case 'boolean': return 'a boolean'
    case 'object': return 'a table'
    default: return `a ${typeof value}`
  }
}
