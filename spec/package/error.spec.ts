import { expect } from 'chai'
import { describe as described } from '../../lib/error.js'

describe('a wrong value in a message', () => {
  it('is told by what it is, and short', () => {
    class Page { readonly payload = 'secret' }
    const values: [unknown, string][] = [
      [undefined, 'undefined'], [null, 'null'], [true, 'true'], [-0, '-0'], [1.5, '1.5'], [Number.NaN, 'NaN'], [7n, 'the bigint 7'], ['a "b"\n', '"a \\"b\\"\\n"'],
      ['x'.repeat(80), `"${'x'.repeat(80)}"`], ['x'.repeat(100), `"${'x'.repeat(80)}" and 20 more characters`],
      [[1, 2], 'an array of 2'], [{ secret: 1 }, 'an object (Object)'], [new Page(), 'an object (Page)'], [Object.create(null), 'an object (no class)'], [Object.create({ constructor: 5 }), 'an object (no class)'],
      [new Map(), 'a Map'], [new Date(0), 'a Date'], [new SharedArrayBuffer(8), 'a SharedArrayBuffer'], [Buffer.from('secret'), 'a Uint8Array of 6 bytes'],
      [new Uint16Array(4), 'a Uint16Array of 8 bytes'], [new DataView(new ArrayBuffer(3)), 'a DataView of 3 bytes'], [() => 'secret', 'a function'], [Symbol('secret'), 'a symbol']
    ]
    for (const [value, expected] of values) expect(described(value)).to.equal(expected)
  })
})
