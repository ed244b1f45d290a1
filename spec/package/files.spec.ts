import { execFileSync } from 'node:child_process'
import { lstatSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { projectFiles, ROOT, text } from './checkout.js'

/** As text, or null for what is none. */
function textOf(path: string): string | null {
  if (!lstatSync(join(ROOT, path)).isFile()) return null
  const content = text(path)
  return content.includes('\0') ? null : content
}

/** Where a pattern stands in the files of the project, as `file:line: what`. */
function places(pattern: RegExp, files: readonly string[] = projectFiles()): string[] {
  return files.flatMap(path => (textOf(path) ?? '').split('\n').flatMap((line, index) => pattern.test(line) ? [`${path}:${index + 1}: ${line.trim().slice(0, 120)}`] : []))
}

const escaped = (literal: string): string => literal.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&')

describe('files of the project', () => {
  it('name no place of the machine that they were written on', () => {
    // In pieces, because this file is one of them.
    const folders = [homedir(), ['', 'work', 'main'].join('/'), ['..', 'shared'].join('/'), ['', 'tmp', 'bash_jobs'].join('/')].filter(folder => folder.length > 1)
    // A checkout right below the root may have a name that stands for other things too.
    if (ROOT.lastIndexOf('/') > 0) folders.push(ROOT)
    expect(places(new RegExp(folders.map(folder => `(?<![\\w.-])${escaped(folder)}(?![\\w-])`).join('|')))).to.deep.equal([])
  })

  it('name no package registry', () => {
    const hosts = ['registry\\.[a-z]', ['npmjs', 'org'].join('\\.'), ['npmjs', 'com'].join('\\.'), ['deb', 'debian', 'org'].join('\\.'), ['pypi', 'org'].join('\\.')]
    // A name of the cache's own registry of memory or metrics is followed by a method, not by a host: only addresses count.
    expect(places(new RegExp(`https?://[^\\s'"]*(${hosts.join('|')})`))).to.deep.equal([])
    expect(projectFiles().filter(path => /(^|\/)\.npmrc$/.test(path))).to.deep.equal([])
  })

  it('are written, not built: nothing that a build makes is among them', () => {
    const built = projectFiles().filter(path => /^(dist|build|prebuilds|node_modules)\/|\.(node|o|a|so|tgz|wasm|generated\.ts)$/.test(path))
    expect(built).to.deep.equal([])
    // A build leaves only what git ignores.
    const ignored = execFileSync('git', ['check-ignore', 'dist/', 'build/', 'prebuilds/', 'node_modules/', 'lib/config/config-types.generated.ts'], { cwd: ROOT, encoding: 'utf8' })
    expect(ignored.trim().split('\n')).to.have.lengthOf(5)
  })

  it('have clean lines: no tabs, no spaces at the end, a newline at the end of the file', () => {
    const sources = projectFiles().filter(path => /\.(ts|mjs|js|cc|h|gyp)$/.test(path) || path === '.ci/run')
    expect(places(/\t|[ \r]$/, sources)).to.deep.equal([])
    expect(sources.filter(path => !/[^\n]\n$/.test(text(path)))).to.deep.equal([])
  })

  it('contain no spec that is left out or runs alone', () => {
    const marked = /\b(describe|it|specify|context)\.(only|skip)\s*\(|\b(xit|xdescribe|fit|fdescribe)\s*\(/
    expect(places(marked, projectFiles().filter(path => path.endsWith('.spec.ts')))).to.deep.equal([])
  })
})
