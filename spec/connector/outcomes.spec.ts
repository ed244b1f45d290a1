import { execFileSync } from 'node:child_process'
import { copyFile, mkdir, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { expect } from 'chai'
import type { HiCacheNixl, ReadOutcome, Target } from '../../lib/index.js'
import { bytes, same, tensor } from '../support/content.js'
import { describeLayouts } from '../support/layouts.js'
import { filesBelow, flipByte, pagePath } from '../support/page-files.js'
import { workbench } from '../support/workbench.js'

const SUFFIX = '_m_0_1'
const PAGE = 9000

function brief(outcomes: readonly ReadOutcome<Target>[]): string[] {
  return outcomes.map(outcome => outcome.status === 'miss' ? outcome.reason : outcome.status)
}

describe('outcomes of a mixed batch', () => {
  const bench = workbench('file')
  let directory: string
  let cache: HiCacheNixl
  beforeEach(async () => {
    directory = await bench.directory()
    cache = await bench.open({ storageDir: directory, modelName: 'm' })
  })
  const fileOf = (key: string): string => pagePath(directory, key + SUFFIX)
  /** Stores `good-0`, each of `keys`, `good-1`. */
  async function store(...keys: string[]): Promise<string[]> {
    const all = ['good-0', ...keys, 'good-1']
    expect(await cache.batchSet(all, all.map(key => bytes(PAGE, key)))).to.deep.equal(all.map(() => true))
    return all
  }
  /** With and without targets: damaged pages miss with that reason, and the good ones beside them come whole. */
  async function expectMisses(keys: readonly string[], reasons: Readonly<Record<string, string>>): Promise<void> {
    const wanted = keys.map(key => reasons[key] ?? 'hit')
    const targets = keys.map(key => [key, new Uint8Array(PAGE)] as const)
    const into = await cache.read(targets)
    expect(brief(into), 'with targets').to.deep.equal(wanted)
    into.forEach((outcome, i) => { if (outcome.ok) expect(same(targets[i]![1], bytes(PAGE, keys[i]!))).to.equal(true) })
  }

  it('damage of every kind is a miss of that page alone', async () => {
    const keys = await store('flipped-first', 'flipped-middle', 'flipped-last', 'flipped-record', 'truncated', 'cut-record', 'grown', 'empty', 'zeroed', 'absent')
    await flipByte(fileOf('flipped-first'), 0)
    await flipByte(fileOf('flipped-middle'), 4096)
    await flipByte(fileOf('flipped-last'), PAGE - 1)
    await flipByte(fileOf('flipped-record'), -4096 + 30)
    await truncate(fileOf('truncated'), 5000)
    await truncate(fileOf('cut-record'), 12_288)
    await truncate(fileOf('grown'), 12_288 + 4096 + 4096)
    await truncate(fileOf('empty'), 0)
    await writeFile(fileOf('zeroed'), new Uint8Array(12_288 + 4096))
    await cache.delete('absent')
    const outcomes = await cache.read(keys.map(key => [key, new Uint8Array(PAGE)] as const))
    const by = Object.fromEntries(outcomes.map((outcome, i) => [keys[i]!, brief([outcome])[0]]))
    // What is not of the length that was asked for and has no record that holds is a page of another writer, of another length.
    expect(by).to.deep.equal({
      'good-0': 'hit', 'flipped-first': 'corrupt', 'flipped-middle': 'corrupt', 'flipped-last': 'corrupt', 'flipped-record': 'corrupt',
      truncated: 'length', 'cut-record': 'length', grown: 'length', empty: 'corrupt', zeroed: 'length', absent: 'absent', 'good-1': 'hit'
    })
    // None of them is there for a lookup that must not promise it, except those that only a reading of the payload can tell.
    expect(await cache.exists('flipped-record')).to.equal(false)
    expect(await cache.exists('empty')).to.equal(false)
  })
  it('a page whose check fails is removed, and a later write stores it again', async () => {
    const keys = await store('bad')
    await flipByte(fileOf('bad'), 77)
    await expectMisses(keys, { bad: 'corrupt' })
    expect((await filesBelow(directory)).some(name => name.endsWith(`/bad${SUFFIX}`))).to.equal(false)
    expect(await cache.exists('bad')).to.equal(false)
    expect(await cache.set('bad', bytes(PAGE, 'bad'))).to.equal(true)
    await expectMisses(keys, {})
  })
  it('a damaged page is replaced by a write, never taken for already there', async () => {
    await store('bad')
    await flipByte(fileOf('bad'), 4000)
    const [outcome] = await cache.write([['bad', bytes(PAGE, 'new')]])
    expect(outcome).to.include({ status: 'stored' })
    expect(same(await cache.get('bad'), bytes(PAGE, 'new'))).to.equal(true)
  })
  it('files that changed places are misses by identity, with each other and with another length', async () => {
    const keys = await store('left', 'right')
    await rename(fileOf('left'), `${directory}/swap`)
    await rename(fileOf('right'), fileOf('left'))
    await rename(`${directory}/swap`, fileOf('right'))
    await expectMisses(keys, { left: 'identity', right: 'identity' })
    expect(await cache.batchExists(['good-0', 'left'])).to.equal(1)
    // Whole pages of another name are not damage: they are left alone.
    expect((await filesBelow(directory)).filter(name => /\/(left|right)_/.test(name))).to.have.length(2)
    expect(await cache.set('left', bytes(PAGE, 'left'))).to.equal(true)
    await copyFile(fileOf('left'), fileOf('right'))
    await expectMisses(keys, { right: 'identity' })
  })
  it('another fingerprint under the same name is a miss by identity; each overwrites the other', async () => {
    await store()
    const other = await bench.open({ storageDir: directory, modelName: 'm', fingerprint: 'fp8 weights' })
    expect(brief(await other.read(['good-0', ['good-1', new Uint8Array(PAGE)]]))).to.deep.equal(['identity', 'identity'])
    expect(await other.exists('good-0')).to.equal(false)
    expect(await other.delete('good-0')).to.equal(false)
    expect(await other.stat('good-0')).to.equal(null)
    expect(await other.set('good-0', bytes(PAGE, 'theirs'))).to.equal(true)
    expect(same(await other.get('good-0'), bytes(PAGE, 'theirs'))).to.equal(true)
    expect(brief(await cache.read(['good-0', 'good-1']))).to.deep.equal(['identity', 'hit'])
  })
  it('a folder, a link or a pipe in a page\'s place is an outcome of that page, and no hang', async () => {
    const keys = await store()
    for (const key of ['folder', 'link', 'pipe']) {
      await cache.set(key, bytes(10, key))
      await rm(fileOf(key))
    }
    await mkdir(fileOf('folder'))
    await symlink(fileOf('good-0'), fileOf('link'))
    execFileSync('mkfifo', [fileOf('pipe')])
    const outcomes = await cache.read([...keys, 'folder', 'link', 'pipe'])
    expect(outcomes.map(({ ok }) => ok)).to.deep.equal([true, true, false, false, false])
    // The link leads to a page of ours; following it would make one page answer for another, or for a file elsewhere.
    for (const outcome of outcomes.slice(2)) expect(outcome.status).to.equal('failed')
    expect(await cache.batchExists(['folder'])).to.equal(0)
  })
})

describeLayouts('targets that do not fit', storageLayout => {
  const bench = workbench(storageLayout)
  let directory: string
  let cache: HiCacheNixl
  beforeEach(async () => {
    directory = await bench.directory()
    cache = await bench.open({ storageDir: directory, modelName: 'm' })
  })

  it('a target of another length is a miss by length, and its neighbours come', async () => {
    const keys = ['good-0', 'long', 'good-1']
    await cache.batchSet(keys, keys.map(key => bytes(PAGE, key)))
    const outcomes = await cache.read([['good-0', new Uint8Array(PAGE)], ['long', new Uint8Array(PAGE - 1)], ['long', new Uint8Array(PAGE + 1)], ['long', new Uint8Array(3 * PAGE)], ['good-1', new Uint8Array(PAGE)]])
    expect(brief(outcomes)).to.deep.equal(['hit', 'length', 'length', 'length', 'hit'])
    expect(brief(await cache.read(keys)), 'they are still there').to.deep.equal(['hit', 'hit', 'hit'])
  })
  it('without a target the page\'s own length counts, whatever was read before', async () => {
    await cache.batchSet(['a', 'b', 'c'], [bytes(1, 'a'), bytes(100_000, 'b'), bytes(4096, 'c')])
    const reopened = await bench.open({ storageDir: directory, modelName: 'm' })
    for (const of of [cache, reopened]) {
      for (const [key, length] of [['b', 100_000], ['a', 1], ['c', 4096], ['b', 100_000]] as const) {
        expect(same(await of.get(key), bytes(length, key)), key).to.equal(true)
      }
    }
  })
  it('a target of another dtype is a miss by dtype; bytes fit every page', async () => {
    const page = tensor('bfloat16', [64], 'page')
    await cache.set('typed', page)
    expect(brief(await cache.read<Target>([
      ['typed', tensor('bfloat16', [64], 0)], ['typed', tensor('bfloat16', [8, 8], 0)], ['typed', tensor('float16', [64], 0)], ['typed', tensor('uint8', [128], 0)],
      ['typed', new Uint8Array(128)], ['typed', Buffer.alloc(128)], ['typed', new Uint16Array(64)], ['typed', new Float32Array(32)]
    ]))).to.deep.equal(['hit', 'hit', 'dtype', 'dtype', 'hit', 'hit', 'hit', 'dtype'])
  })
})
