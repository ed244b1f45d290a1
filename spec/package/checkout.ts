import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export interface Manifest {
  readonly name: string
  readonly version: string
  readonly license: string
  readonly type: string
  readonly gypfile: boolean
  readonly engines: { readonly node: string }
  readonly os?: readonly string[]
  readonly exports: Readonly<Record<string, unknown>>
  readonly types: string
  readonly bin: Readonly<Record<string, string>>
  readonly files: readonly string[]
  readonly scripts: Readonly<Record<string, string>>
  readonly dependencies: Readonly<Record<string, string>>
  readonly devDependencies: Readonly<Record<string, string>>
  readonly peerDependenciesMeta?: Readonly<Record<string, { readonly optional?: boolean }>>
}

/** The checkout that the specs were compiled in, found from wherever their compiled files lie. */
export const ROOT = (function find(folder: string): string {
  if (readdirSync(folder).includes('package.json') && readdirSync(folder).includes('lib')) return folder
  const parent = dirname(folder)
  return find(parent === folder ? process.cwd() : parent)
})(dirname(fileURLToPath(import.meta.url)))

export function text(path: string): string { return readFileSync(join(ROOT, path), 'utf8') }

export const manifest = JSON.parse(text('package.json')) as Manifest

/** Files below a folder of the checkout that end so, as paths from the folder. */
export function filesBelow(folder: string, suffix: string): string[] {
  const entries = readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
  return entries.filter(entry => entry.isFile() && entry.name.endsWith(suffix)).map(entry => join(entry.parentPath, entry.name).slice(join(ROOT, folder).length + 1)).sort()
}

/** The files that git has, or would take: what is ignored is left out. */
export function projectFiles(): string[] {
  const listed = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard', '--deduplicate'], { cwd: ROOT, encoding: 'utf8', maxBuffer: 2 ** 26 })
  return listed.split('\0').filter(path => path !== '' && !path.endsWith('/'))
}

/** What a module imports: the specifiers of import, export ... from, import(), require() and createRequire(...)(), with comments left out. */
export function importsOf(code: string): string[] {
  const bare = code.replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '')
  const patterns = [
    /\b(?:import|export)\b[^'"`;()]*?\bfrom\s*['"]([^'"]+)['"]/g, /^\s*import\s*['"]([^'"]+)['"]/gm, /\bimport\s*\(\s*['"]([^'"]+)['"]/g,
    /\brequire(?:\.resolve)?\s*\(\s*['"]([^'"]+)['"]/g, /\bimport\.meta\.resolve\s*\(\s*['"]([^'"]+)['"]/g
  ]
  return patterns.flatMap(pattern => [...bare.matchAll(pattern)].map(match => match[1]!))
}

/** The package that a specifier names; null for a file and for Node's own modules. */
export function packageOf(specifier: string): string | null {
  if (/^(\.|\/|node:|#)/.test(specifier)) return null
  return specifier.split('/').slice(0, specifier.startsWith('@') ? 2 : 1).join('/')
}
