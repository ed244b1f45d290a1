import { execFileSync } from 'node:child_process'
import { chmod, chown, lchown, mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { expect } from 'chai'
import { HiCacheNixl, type HiCacheError, type WriteOutcome } from '../../lib/index.js'
import { bytes, same } from '../support/content.js'
import { filesBelow } from '../support/page-files.js'
import { skipLoudly } from '../support/planned-faults.js'
import { rejection } from '../support/rejection.js'
import { childServant } from '../support/servants.js'
import { workbench } from '../support/workbench.js'

const ROOT = process.geteuid?.() === 0
const NOBODY = 65_534
const errorOf = (outcome: WriteOutcome | { ok: boolean } | undefined): HiCacheError => (outcome as { error: HiCacheError }).error

describe('storage directories', () => {
  const bench = workbench('file')

  it('one that is not there is made, with its parents, for this user alone', async () => {
    const storageDir = `${await bench.directory()}/a/b c/ü`
    const cache = await bench.open({ storageDir })
    expect(cache.directories[0]).to.include({ realPath: storageDir, writable: true, ownerUid: process.geteuid!() })
    expect(cache.directories[0]!.mode & 0o777).to.equal(0o700)
    expect(await cache.set('k', bytes(10, 1))).to.equal(true)
  })
  it('one that vanishes: writes and reads fail with ENOENT, lookups say no; when it is there again, all works again', async () => {
    const storageDir = `${await bench.directory()}/store`
    const cache = await bench.open({ storageDir })
    await cache.set('k', bytes(9000, 1))
    await rename(storageDir, `${storageDir}-away`)
    await rm(`${storageDir}-away`, { recursive: true })
    const [write] = await cache.write([['new', bytes(10, 1)]])
    expect(write).to.include({ ok: false, status: 'failed' })
    expect(errorOf(write)).to.include({ code: 'ERR_IO', errno: 'ENOENT', key: 'new' })
    expect(errorOf(write).message).to.match(/the storage directory is gone/)
    const [read] = await cache.read(['k'])
    expect(read).to.include({ ok: false })
    expect(await cache.get('k')).to.equal(null)
    expect(await cache.exists('k')).to.equal(false)
    expect(await cache.delete('k')).to.equal(false)
    await mkdir(storageDir, { mode: 0o700 })
    expect(await cache.set('k', bytes(9000, 2))).to.equal(true)
    expect(same(await cache.get('k'), bytes(9000, 2))).to.equal(true)
    expect((await filesBelow(storageDir)).length).to.equal(1)
  })
  it('a bucket that vanishes is a miss, and is made again by the next write', async () => {
    const storageDir = await bench.directory()
    const cache = await bench.open({ storageDir })
    await cache.set('k', bytes(9000, 1))
    const [page] = await filesBelow(storageDir)
    await rm(`${storageDir}/${page!.slice(0, 2)}`, { recursive: true })
    expect((await cache.read(['k']))[0]).to.include({ status: 'miss', reason: 'absent' })
    expect(await cache.set('k', bytes(9000, 2))).to.equal(true)
    expect(same(await cache.get('k'), bytes(9000, 2))).to.equal(true)
  })
  it('of several directories one vanishes: its pages fail, the others\' do not', async () => {
    const directories = await bench.directories('a', 'b')
    const cache = await bench.open({ storageDir: directories })
    const keys = Array.from({ length: 20 }, (_, i) => `k${i}`)
    await cache.batchSet(keys, keys.map(key => bytes(100, key)))
    const lost = (await filesBelow(directories[1]!)).length
    await rm(directories[1]!, { recursive: true })
    const outcomes = await cache.read(keys)
    expect(outcomes.filter(({ ok }) => !ok)).to.have.length(lost)
    expect(outcomes.filter(({ ok }) => ok)).to.have.length(20 - lost)
  })
  it('a file in a directory\'s place is refused, as path and as parent', async () => {
    const file = `${await bench.directory()}/file`
    await writeFile(file, 'a file')
    expect((await rejection(HiCacheNixl.open({ env: {}, storageDir: file }), 'ERR_CONFIG')).message).to.include(file)
    await rejection(HiCacheNixl.open({ env: {}, storageDir: `${file}/below` }), 'ERR_CONFIG')
  })
  it('the same directory under two names is refused, naming both', async () => {
    const [one] = await bench.directories('one')
    await symlink(one!, `${one!}-link`)
    const names = [one!, `${one!}-link`]
    const option = await rejection(HiCacheNixl.open({ env: {}, storageDir: names }), 'ERR_ARGUMENT')
    const variable = await rejection(HiCacheNixl.open({ env: { SGLANG_HICACHE_NIXL_BACKEND_STORAGE_DIR: names.join(', ') } }), 'ERR_CONFIG')
    for (const { message } of [option, variable]) expect(message).to.include(`"${one!}"`).and.to.include(`"${one!}-link"`)
  })
  it('a link of our own is followed', async () => {
    const [target] = await bench.directories('target')
    await symlink(target!, `${target!}-link`)
    const cache = await bench.open({ storageDir: `${target!}-link` })
    expect(await cache.set('k', bytes(10, 1))).to.equal(true)
    expect(await filesBelow(target!)).to.have.length(1)
    expect(cache.directories[0]).to.include({ realPath: target })
  })
  it('a bucket that is a link leads nowhere: its pages fail, and nothing is written through it', async () => {
    const [storageDir, elsewhere] = await bench.directories('store', 'elsewhere')
    const cache = await bench.open({ storageDir: storageDir! })
    await cache.set('k', bytes(10, 1))
    const bucket = (await filesBelow(storageDir!))[0]!.slice(0, 2)
    await cache.close()
    await rm(`${storageDir!}/${bucket}`, { recursive: true })
    await symlink(elsewhere!, `${storageDir!}/${bucket}`)
    const again = await bench.open({ storageDir: storageDir! })
    expect(await again.set('k', bytes(10, 1))).to.equal(false)
    expect(await again.get('k')).to.equal(null)
    expect(await filesBelow(elsewhere!)).to.deep.equal([])
  })
  it('a link that somebody else made is refused', async () => {
    // As another user than root this cannot be set up, but a link of root's is there on every system.
    let link = '/proc/self/root'
    if (ROOT) {
      const [target] = await bench.directories('target')
      link = `${target!}-link`
      await symlink(target!, link)
      await lchown(link, NOBODY, NOBODY)
    }
    const error = await rejection(HiCacheNixl.open({ env: {}, storageDir: link }), 'ERR_CONFIG')
    expect(error.message).to.match(/belongs to user \d+, and this process runs as user \d+/)
  })
  it('a directory that belongs to somebody else is refused', async () => {
    const storageDir = ROOT ? await bench.directory() : '/usr'
    if (ROOT) await chown(storageDir, NOBODY, NOBODY)
    const error = await rejection(HiCacheNixl.open({ env: {}, storageDir }), 'ERR_CONFIG')
    expect(error.message).to.match(/Take a directory of your own, or change its owner/)
    if (ROOT) expect(await filesBelow(storageDir)).to.deep.equal([])
  })
  it('one that becomes somebody else\'s: its pages fail, nothing is written there', async function () {
    if (!ROOT) skipLoudly(this, 'only root can give a directory away')
    const storageDir = `${await bench.directory()}/store`
    const cache = await bench.open({ storageDir })
    await cache.set('k', bytes(10, 1))
    await rm(storageDir, { recursive: true })
    await mkdir(storageDir)
    await chown(storageDir, NOBODY, NOBODY)
    const [write] = await cache.write([['k', bytes(10, 2)]])
    expect(errorOf(write)).to.include({ code: 'ERR_IO', errno: 'EPERM' })
    expect(await cache.get('k')).to.equal(null)
    expect(await filesBelow(storageDir)).to.deep.equal([])
  })
  it('a directory that is read-only opens degraded: pages are read, every write fails with the reason', async function () {
    const storageDir = await bench.directory()
    const first = await bench.open({ storageDir })
    await first.set('k', bytes(9000, 'k'))
    await first.close()
    let through: string[] = []
    if (ROOT) {
      // Permissions do not bind root; a read-only mount of its own does.
      through = ['unshare', '-rm', 'sh', '-c', `mount --bind '${storageDir}' '${storageDir}' && mount -o remount,ro,bind '${storageDir}' && exec "$0" "$@"`]
      try {
        execFileSync(through[0]!, [...through.slice(1), 'true'], { stdio: 'ignore' })
      } catch {
        skipLoudly(this, 'this machine lets nobody make a mount name space, and permissions do not bind root')
      }
    } else {
      for (const name of (await filesBelow(storageDir)).map(file => file.slice(0, 2))) await chmod(`${storageDir}/${name}`, 0o500)
      await chmod(storageDir, 0o500)
      bench.atEnd(async () => {
        await chmod(storageDir, 0o700)
        for (const name of (await filesBelow(storageDir)).map(file => file.slice(0, 2))) await chmod(`${storageDir}/${name}`, 0o700)
      })
    }
    const { servant } = childServant(bench, through)
    expect(await servant.ask({ do: 'open', options: { storageDir } })).to.deep.equal([{ path: storageDir, writable: false }])
    expect(await servant.ask({ do: 'get', keys: ['k', 'nothing'], bytes: 9000 })).to.deep.equal(['hit', 'absent'])
    expect(await servant.ask({ do: 'set', keys: ['k', 'new'], bytes: 5 })).to.deep.equal(ROOT ? ['failed EROFS', 'failed EROFS'] : ['failed EACCES', 'failed EACCES'])
    const health = await servant.ask<{ status: string; reasons: string[] }>({ do: 'health' })
    expect(health.status).to.equal('degraded')
    expect(health.reasons.join()).to.match(/cannot be written: pages are read, and every write fails/)
    expect(await servant.ask({ do: 'get', keys: ['k'], bytes: 9000 })).to.deep.equal(['hit'])
    await servant.ask({ do: 'close' })
  })
})
