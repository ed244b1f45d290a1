/** A value as an error shows it: what it is, and short. */
export function describe(value: unknown): string {
  switch (typeof value) {
    case 'string': {
      if (value.length <= 80) return JSON.stringify(value)
      return `${JSON.stringify(value.slice(0, 80))} and ${value.length - 80} more characters`
    }
    case 'number': return Object.is(value, -0) ? '-0' : String(value)
    case 'bigint': return `the bigint ${value}`
    case 'boolean': case 'undefined': return String(value)
    case 'object': {
      if (value === null) return 'null'
      return Array.isArray(value) ? `an array of ${value.length}` : `a ${Object.prototype.toString.call(value).slice(8, -1)}`
    }
    default: return `a ${typeof value}`
  }
}
