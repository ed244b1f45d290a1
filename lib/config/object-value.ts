import { DEPTH_MAX, SyntaxProblem, type ParsedEntry, type ParsedValue } from './parsed-value.js'

/** Reads a configuration given as an object: own enumerable properties; those that are undefined count as left out. */
export function parseObject(value: unknown, depth = 0): ParsedValue {
  if (depth > DEPTH_MAX) throw new SyntaxProblem(`nested more than ${DEPTH_MAX} deep, or it contains itself`)
  if (value === null || typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') return { kind: 'scalar', value }
  if (typeof value === 'bigint') return { kind: 'scalar', value: Number(value) }
  if (Array.isArray(value)) return { kind: 'list', items: value.map((item) => parseObject(item, depth + 1)) }
  // Not by the prototype: the object may come from another realm, or have none.
  if (typeof value !== 'object' || Object.prototype.toString.call(value) !== '[object Object]') {
    return { kind: 'other', what: value === undefined ? 'nothing (undefined)' : `a ${Object.prototype.toString.call(value).slice(8, -1)}` }
  }
  const entries = new Map<string, ParsedEntry>()
  for (const [key, item] of Object.entries(value)) {
    if (item !== undefined) entries.set(key, { value: parseObject(item, depth + 1) })
  }
  return { kind: 'table', entries }
}
