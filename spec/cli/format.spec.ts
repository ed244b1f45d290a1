import { expect } from 'chai'
import { formatBytes, formatCount, formatDuration, formatMicroseconds, parseBytes } from '../../lib/cli/format.js'
import { table, visibleWidth, wrap } from '../../lib/cli/style.js'

describe('formatting', () => {
  it('shows bytes in binary units, never as 1024.0', () => {
    expect([0, 1, 1023, 1024, 65536, 2 ** 20 - 1, 1.5 * 2 ** 30, 2 ** 53].map(formatBytes))
      .to.deep.equal(['0 B', '1 B', '1023 B', '1.0 KiB', '64.0 KiB', '1.0 MiB', '1.5 GiB', '8.0 PiB'])
  })
  it('shows counts, durations and latencies', () => {
    expect([0, 999, 1000, 1234567, 12.34].map(formatCount)).to.deep.equal(['0', '999', '1,000', '1,234,567', '12.3'])
    expect([0.5, 9.94, 59.4, 187, 7500].map(formatDuration)).to.deep.equal(['0.50 s', '9.9 s', '59 s', '3 m 07 s', '2 h 05 m'])
    expect([85.4, 1250, 12_500, 2_100_000, NaN].map(formatMicroseconds)).to.deep.equal(['85 us', '1.25 ms', '12.5 ms', '2.10 s', '-'])
  })
  it('reads sizes', () => {
    expect(['65536', '64k', '64KiB', '64 kb', '1.5GiB', '2g', '0'].map(parseBytes)).to.deep.equal([65536, 65536, 65536, 65536, 1610612736, 2147483648, 0])
    expect(['', 'k', '-1', '1.5', '1e3', '64X', '0x10', '9999999999999999999'].map(parseBytes)).to.deep.equal(Array<undefined>(8).fill(undefined))
  })
  it('aligns columns by what is seen, not by escape sequences', () => {
    expect(table([['\u001b[31ma\u001b[39m', '1', 'x'], ['bbb', '22', '']], 'lrl')).to.equal('\u001b[31ma\u001b[39m     1  x\nbbb  22\n')
    expect(visibleWidth('\u001b[1mbold\u001b[22m')).to.equal(4)
    expect(wrap('one two three', 7, '  ')).to.equal('one two\n  three')
  })
})
