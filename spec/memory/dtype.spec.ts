import { expect } from 'chai'
import { DTYPES, carries, dtypeOfCode, dtypeOfView, elementsOf } from '../../lib/memory/dtype.js'
import { hostMemory } from '../../lib/memory/tensor.js'
import { ALL_DTYPES } from '../support/content.js'
import { thrown } from '../support/rejection.js'

describe('dtypes', () => {
  it('their numbers on the disk never change', () => {
    expect(Object.fromEntries(ALL_DTYPES.map(dtype => [dtype, DTYPES[dtype].code]))).to.deep.equal({
      uint8: 1, int8: 2, uint16: 3, int16: 4, uint32: 5, int32: 6, uint64: 7, int64: 8,
      float16: 9, bfloat16: 10, float8_e4m3fn: 11, float8_e5m2: 12, float32: 13, float64: 14, bool: 15
    })
    for (const dtype of ALL_DTYPES) expect(dtypeOfCode(DTYPES[dtype].code)).to.equal(dtype)
    expect([dtypeOfCode(0), dtypeOfCode(16)]).to.deep.equal([undefined, undefined])
  })
  it('each is carried by the typed array that the interface names', () => {
    expect(Object.fromEntries(ALL_DTYPES.map(dtype => [dtype, DTYPES[dtype].carrier.name]))).to.deep.equal({
      uint8: 'Uint8Array', int8: 'Int8Array', uint16: 'Uint16Array', int16: 'Int16Array', uint32: 'Uint32Array', int32: 'Int32Array', uint64: 'BigUint64Array', int64: 'BigInt64Array',
      float16: 'Uint16Array', bfloat16: 'Uint16Array', float8_e4m3fn: 'Uint8Array', float8_e5m2: 'Uint8Array', float32: 'Float32Array', float64: 'Float64Array', bool: 'Uint8Array'
    })
    for (const dtype of ALL_DTYPES) expect(DTYPES[dtype].carrier.BYTES_PER_ELEMENT).to.equal(DTYPES[dtype].bytes)
  })
  it('bare views mean what they are; bytes carry everything', () => {
    expect([new Float32Array(1), new BigUint64Array(1), new Uint8ClampedArray(1), Buffer.alloc(1), new DataView(new ArrayBuffer(1))].map(dtypeOfView)).to.deep.equal(['float32', 'uint64', 'uint8', 'uint8', 'uint8'])
    for (const dtype of ALL_DTYPES) {
      expect(carries(Buffer.alloc(8), dtype)).to.equal(true)
      expect(carries(new (DTYPES[dtype].carrier as Uint8ArrayConstructor)(1), dtype)).to.equal(true)
    }
    expect(carries(new Float32Array(1), 'bfloat16')).to.equal(false)
    expect(carries(new Uint16Array(1), 'int16')).to.equal(false)
  })
  it('shapes', () => {
    expect([elementsOf([]), elementsOf([3, 4]), elementsOf([0, 5]), elementsOf(new Array<number>(16).fill(2))]).to.deep.equal([1, 12, 0, 65_536])
    for (const bad of [null, 5, 'x', [-1], [1.5], [NaN], [Infinity], ['1'], [2 ** 53], [2 ** 30, 2 ** 30], new Array(17).fill(1), [1n]] as never[]) thrown(() => elementsOf(bad), 'ERR_ARGUMENT')
  })
  it('a tensor is taken apart without a copy', () => {
    const buffer = new ArrayBuffer(100)
    const { bytes, dtype, shape, tensor } = hostMemory({ dtype: 'float16', shape: [2, 5], data: new Uint16Array(buffer, 10, 10) }, 'source', 'k')
    expect({ dtype, shape, tensor }).to.deep.equal({ dtype: 'float16', shape: [2, 5], tensor: true })
    expect(bytes.buffer).to.equal(buffer)
    expect([bytes.byteOffset, bytes.byteLength]).to.deep.equal([10, 20])
  })
})
