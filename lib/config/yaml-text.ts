import { LineCounter, isAlias, isMap, isNode, isScalar, isSeq, parseDocument, type YAMLError } from 'yaml'
import { DEPTH_MAX, SyntaxProblem, placed, type ParsedEntry, type ParsedValue, type Place } from './parsed-value.js'

/**
 * Reads YAML 1.2 with positions. What surprises in YAML is refused where it stands: two equal keys, anchors and aliases, tags, several
 * documents, YAML 1.1 (where `no` is false). In 1.2 `no`, `yes`, `on` and `off` are strings, which no boolean key takes.
 */
export function parseYamlText(text: string): ParsedValue {
  const lines = new LineCounter()
  const place = (offset: number | undefined): Place | undefined => {
    if (offset === undefined) return undefined
    const { line, col } = lines.linePos(offset)
    return { line: Math.max(line, 1), column: Math.max(col, 1) }
  }
  // prettyErrors would quote the line at fault, and with it a secret. logLevel prints nothing here; silent would let a second document pass.
  const document = parseDocument(text, { version: '1.2', schema: 'core', uniqueKeys: true, lineCounter: lines, prettyErrors: false, logLevel: 'error' })
  if (document.directives.yaml.version !== '1.2') {
    throw new SyntaxProblem('expected YAML 1.2, found a %YAML directive for another version', { line: 1, column: 1 })
  }
  const error = document.errors[0] ?? document.warnings[0]
  if (error !== undefined) throw new SyntaxProblem(messageOf(error), place(error.pos[0]))
  return valueOf(document.contents, place, 0)
}

/** The parser's own messages may quote the text: these do not. */
const MESSAGES: Partial<Record<YAMLError['code'], string>> = {
  DUPLICATE_KEY: 'the key is given twice',
  BAD_INDENT: 'the indentation does not fit',
  TAB_AS_INDENT: 'a tab stands in the indentation: YAML takes spaces only',
  MULTIPLE_DOCS: 'expected one document, found several',
  MISSING_CHAR: 'a quote, bracket, comma, colon or space is missing',
  BAD_ALIAS: 'anchors and aliases are not taken: write the value out',
  MULTILINE_IMPLICIT_KEY: 'a key must end with : on its own line',
  BLOCK_AS_IMPLICIT_KEY: 'two keys stand on one line',
  TAG_RESOLVE_FAILED: 'tags are not taken: write the value without one',
  BAD_DQ_ESCAPE: 'an escape that YAML does not know',
  BAD_SCALAR_START: 'this character cannot begin a value: write the value in quotes',
}
function messageOf(error: YAMLError): string {
  return MESSAGES[error.code] ?? `not YAML (${error.code.toLowerCase().replaceAll('_', ' ')})`
}

function valueOf(node: unknown, placeOf: (offset: number | undefined) => Place | undefined, depth: number): ParsedValue {
  if (node === null || node === undefined) return { kind: 'scalar', value: null }
  if (!isNode(node)) return { kind: 'other', what: 'something that is not a value' }
  const place = placeOf(node.range?.[0])
  if (depth > DEPTH_MAX) throw new SyntaxProblem(`nested more than ${DEPTH_MAX} deep`, place)
  if (isAlias(node) || node.anchor !== undefined) throw new SyntaxProblem('anchors and aliases are not taken: write the value out', place)
  if (node.tag !== undefined && !/^tag:yaml\.org,2002:(?:str|int|float|bool|null|map|seq)$/.test(node.tag)) {
    throw new SyntaxProblem('tags are not taken: write the value without one', place)
  }
  if (isScalar(node)) {
    const value = node.value
    return value === null || typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean'
      ? { kind: 'scalar', value, ...placed(place) } : { kind: 'other', what: 'a date or binary data', ...placed(place) }
  }
  if (isSeq(node)) return { kind: 'list', items: node.items.map((item) => valueOf(item, placeOf, depth + 1)), ...placed(place) }
  if (!isMap(node)) return { kind: 'other', what: 'something that is not a value', ...placed(place) }
  const entries = new Map<string, ParsedEntry>()
  for (const { key, value } of node.items) {
    const keyPlace = placeOf(isNode(key) ? key.range?.[0] : undefined) ?? place
    if (!isScalar(key) || key.anchor !== undefined) throw new SyntaxProblem('expected a plain key', keyPlace)
    // `3fs` and `64` read alike whether YAML took them for a string or for a number.
    const name = typeof key.value === 'string' ? key.value : key.source ?? String(key.value)
    if (entries.has(name)) throw new SyntaxProblem('the key is given twice', keyPlace)
    const parsed = valueOf(value, placeOf, depth + 1)
    entries.set(name, {
      ...(keyPlace === undefined ? {} : { keyPlace }),
      value: parsed.place === undefined && keyPlace !== undefined ? { ...parsed, place: keyPlace } : parsed,
    })
  }
  return { kind: 'table', entries, ...placed(place) }
}
