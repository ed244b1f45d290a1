import { expect } from 'chai'
import { spawnSync } from 'node:child_process'
import { createHash, randomBytes, randomInt } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { instantiateWasmKernel, keyKernel, referenceKernel } from '../../lib/keys/kernel/kernel.js'

const sha256 = (...parts: Uint8Array[]): string => parts.reduce((hash, part) => hash.update(part), createHash('sha256')).digest('hex')
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

/** Digests by Python: hashlib.blake2b(text.encode(), digest_size=8).hexdigest(). */
const BLAKE2B: readonly (readonly [text: string, digest: string])[] = [
  ['', 'e4a6a0577479b2b4'],
  ['key1', 'b650dcad7186d1d1'],
  ['a'.repeat(127), '03d6a9be11f3f18a'],
  ['a'.repeat(128), 'f06643fe9c7e18da'],
  ['a'.repeat(129), 'e462535bb0c5a299'],
  ['a'.repeat(255), '35f2bcf2bbcfd54e'],
  ['a'.repeat(256), '78b03efd0a5ea28b'],
  ['a'.repeat(257), 'a829b62077f1ea91'],
  ['x'.repeat(1000), '9a306b894c158617'],
  [Array<string>(60).fill('page').join('_'), '1a36bfd4f768e88b'],
  ['é漢字😀', 'c77f89a6f70c8f20']
]

for (const kernel of [referenceKernel(), instantiateWasmKernel()]) {
  describe(`the key kernel as ${kernel.name}`, () => {
    it('gives the 8-byte BLAKE2b that Python gives', () => {
      for (const [text, digest] of BLAKE2B) expect(hex(kernel.blake2b64(text)), `${text.length} characters`).to.equal(digest)
    })

    it('keeps nothing of a longer text in the hash of a shorter one', () => {
      kernel.blake2b64('z'.repeat(1000))
      expect(hex(kernel.blake2b64('key1'))).to.equal('b650dcad7186d1d1')
    })

    it('refuses a text that its memory cannot hold', () => {
      expect(() => kernel.blake2b64('a'.repeat(20_000))).to.throw(RangeError, '20000 characters')
    })

    it('gives the SHA-256 of every length around a block, and of more than its memory', () => {
      for (const length of [...Array(200).keys(), 49_151, 49_152, 49_153, 98_304, 200_001]) {
        const message = randomBytes(length)
        expect(kernel.sha256(message), `${length} bytes`).to.equal(sha256(message))
      }
    })

    it('chains random pages as node:crypto does', () => {
      for (let round = 0; round < 60; round++) {
        const wordsPerPage = round < 20 ? round + 1 : randomInt(1, 400)
        const tokens = new Uint32Array(randomInt(0, 3000)).map(() => randomInt(2 ** 32))
        const prior = round % 2 === 0 ? undefined : randomBytes(32)
        const expected: string[] = []
        let last: Uint8Array | undefined = prior
        for (let at = 0; at + wordsPerPage <= tokens.length; at += wordsPerPage) {
          const page = new Uint8Array(tokens.buffer, at * 4, wordsPerPage * 4)
          const hash = last === undefined ? sha256(page) : sha256(last, page)
          expected.push(hash)
          last = Buffer.from(hash, 'hex')
        }
        expect(kernel.pageHashes(tokens, wordsPerPage, prior?.toString('hex')), `${tokens.length} tokens by ${wordsPerPage}`).to.deep.equal(expected)
      }
    })

    it('chains pages larger than its memory', () => {
      const tokens = new Uint32Array(40_000).map((_, i) => i)
      const first = sha256(new Uint8Array(tokens.buffer, 0, 80_000))
      const second = sha256(Buffer.from(first, 'hex'), new Uint8Array(tokens.buffer, 80_000, 80_000))
      expect(kernel.pageHashes(tokens, 20_000)).to.deep.equal([first, second])
    })

    it('leaves the tokens as they were', () => {
      const tokens = new Uint32Array(1000).map((_, i) => i)
      kernel.pageHashes(tokens, 7)
      expect(tokens.every((token, i) => token === i)).to.equal(true)
    })
  })
}

describe('the key kernel', () => {
  it('is the WebAssembly one', () => {
    expect(keyKernel().name).to.equal('wasm')
  })

  it('is the reference where the process has no WebAssembly, with the same answers', function () {
    this.timeout(30_000)
    const keys = fileURLToPath(new URL('../../lib/keys/index.js', import.meta.url))
    const program = `import(${JSON.stringify(keys)}).then(({ keyKernel, routePage }) =>
      console.log(JSON.stringify([keyKernel().name, routePage('key1', 3, 'bucketed')])))`
    const { stdout, stderr } = spawnSync(process.execPath, ['--jitless', '-e', program], { encoding: 'utf8' })
    expect(JSON.parse(stdout || JSON.stringify(stderr))).to.deep.equal(['js', { directory: 2, name: 'd1/key1' }])
  })

  it('rebuilds to the committed bytes', function () {
    this.timeout(120_000)
    const { status, stderr } = spawnSync(process.execPath, ['scripts/build-kernel.mjs', '--check'], { encoding: 'utf8' })
    expect(stderr).to.equal('')
    expect(status).to.equal(0)
  })
})
