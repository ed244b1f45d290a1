import { ParseError, parseTOML, type AST } from 'toml-eslint-parser'
import { DEPTH_MAX, SyntaxProblem, type ParsedEntry, type ParsedTable, type ParsedValue, type Place } from './parsed-value.js'

/** Reads TOML with positions. The parser itself refuses keys and tables that are given twice. */
export function parseTomlText(text: string): ParsedTable {
  let program: AST.TOMLProgram
  try {
    program = parseTOML(text)
  } catch (error) {
    // Its messages name the rule and quote nothing of the text but a key.
    if (error instanceof ParseError) throw new SyntaxProblem(error.message, { line: error.lineNumber, column: error.column + 1 })
    throw error
  }
  const root: ParsedTable = { kind: 'table', entries: new Map(), place: { line: 1, column: 1 } }
  for (const node of program.body[0].body) {
    if (node.type === 'TOMLKeyValue') {
      put(root, node)
      continue
    }
    if (node.kind === 'array') {
      throw new SyntaxProblem(`expected a table: [${keyText(node.key)}], found an array of tables: [[${keyText(node.key)}]]`, start(node))
    }
    const table = descend(root, node.key.keys)
    for (const pair of node.body) put(table, pair)
  }
  return root
}

const start = (node: { loc: AST.SourceLocation }): Place => ({ line: node.loc.start.line, column: node.loc.start.column + 1 })
const nameOf = (key: AST.TOMLBare | AST.TOMLQuoted): string => key.type === 'TOMLBare' ? key.name : key.value
const keyText = (key: AST.TOMLKey): string => key.keys.map(nameOf).join('.')

function descend(table: ParsedTable, keys: readonly (AST.TOMLBare | AST.TOMLQuoted)[]): ParsedTable {
  if (keys.length > DEPTH_MAX) throw new SyntaxProblem(`nested more than ${DEPTH_MAX} deep`, start(keys[0]!))
  let at = table
  for (const key of keys) {
    const name = nameOf(key)
    let entry = at.entries.get(name)
    if (entry === undefined) {
      entry = { keyPlace: start(key), value: { kind: 'table', entries: new Map<string, ParsedEntry>(), place: start(key) } }
      at.entries.set(name, entry)
    }
    // The parser has refused a table under a name that is a value.
    if (entry.value.kind !== 'table') throw new SyntaxProblem('the key is a value and a table', start(key))
    at = entry.value
  }
  return at
}

function put(table: ParsedTable, pair: AST.TOMLKeyValue, depth = 0): void {
  const last = pair.key.keys.at(-1)!
  descend(table, pair.key.keys.slice(0, -1)).entries.set(nameOf(last), { keyPlace: start(last), value: valueOf(pair.value, depth) })
}

function valueOf(node: AST.TOMLContentNode, depth: number): ParsedValue {
  const place = start(node)
  if (depth > DEPTH_MAX) throw new SyntaxProblem(`nested more than ${DEPTH_MAX} deep`, place)
  switch (node.type) {
    case 'TOMLArray': return { kind: 'list', items: node.elements.map((element) => valueOf(element, depth + 1)), place }
    case 'TOMLInlineTable': {
      const table: ParsedTable = { kind: 'table', entries: new Map(), place }
      for (const pair of node.body) put(table, pair, depth + 1)
      return table
    }
    case 'TOMLValue':
      return node.value instanceof Date || typeof node.value === 'object'
        ? { kind: 'other', what: 'a date or time', place } : { kind: 'scalar', value: node.value, place }
  }
}
