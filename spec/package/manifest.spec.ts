import { createHash } from 'node:crypto'
import { existsSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { manifest, ROOT, text } from './checkout.js'

interface LockedPackage { readonly license?: string; readonly dev?: boolean; readonly hasInstallScript?: boolean; readonly optional?: boolean; readonly resolved?: string }
const lock = JSON.parse(text('package-lock.json')) as { name: string; version: string; packages: Record<string, LockedPackage> }
const installedWithUs = Object.entries(lock.packages).filter(([path, locked]) => path !== '' && locked.dev !== true)

describe('package.json', () => {
  it('is an ES module package that npm never builds on its own', () => {
    expect(manifest.name).to.equal('hicache-nixl')
    expect(manifest.type).to.equal('module')
    expect(manifest.gypfile, 'without it npm adds an install script, and everybody who installs needs a compiler').to.equal(false)
    expect(manifest.scripts).to.not.have.any.keys('install', 'preinstall', 'postinstall')
    expect(manifest.engines.node).to.equal('>=20.19')
  })

  it('lets one module be imported, with its types', () => {
    expect(Object.keys(manifest.exports)).to.have.members(['.', './package.json'])
    expect(Object.keys(manifest.exports['.'] as object)[0], 'TypeScript takes the first condition that matches').to.equal('types')
    for (const path of [...Object.values(manifest.exports['.'] as Record<string, string>), manifest.types, ...Object.values(manifest.bin)]) {
      expect(existsSync(join(ROOT, path)), path).to.equal(true)
    }
  })

  it('has a command that the system can start', () => {
    for (const path of Object.values(manifest.bin)) expect(text(path)).to.match(/^#!\/usr\/bin\/env node\n/)
  })

  it('packs folders that are there', () => {
    // Made by prepack.
    const later = ['prebuilds']
    for (const path of manifest.files) {
      if (!path.startsWith('!') && !later.includes(path)) expect(existsSync(join(ROOT, path)), path).to.equal(true)
    }
  })

  it('agrees with the lock file, which names no address', () => {
    expect(lock.packages['']).to.deep.include({ name: manifest.name, version: manifest.version, dependencies: manifest.dependencies, devDependencies: manifest.devDependencies })
    expect(Object.values(lock.packages).filter(locked => locked.resolved !== undefined)).to.deep.equal([])
  })
})

describe('licence', () => {
  it('is Apache 2.0, in full and unchanged', () => {
    expect(manifest.license).to.equal('Apache-2.0')
    const words = text('LICENSE').replace(/\s+/g, ' ').trim()
    expect(words).to.match(/^Apache License Version 2\.0, January 2004 http:\/\/www\.apache\.org\/licenses\//)
    expect(createHash('sha256').update(text('LICENSE')).digest('hex')).to.equal('cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30')
    expect(statSync(join(ROOT, 'LICENSE')).isFile()).to.equal(true)
  })

  it('goes with those of everything that is installed with the package', () => {
    const permissive = new Set(['MIT', 'ISC', 'Apache-2.0', 'BSD-2-Clause', 'BSD-3-Clause', '0BSD', 'BlueOak-1.0.0'])
    expect(installedWithUs.filter(([, { license }]) => !permissive.has(license ?? '')).map(([path, { license }]) => `${path}: ${String(license)}`)).to.deep.equal([])
  })

  it('and nothing that is installed with the package runs a script for it', () => {
    expect(installedWithUs.filter(([, { hasInstallScript }]) => hasInstallScript).map(([path]) => path)).to.deep.equal([])
  })
})
