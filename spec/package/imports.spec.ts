import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { dirname, join, normalize } from 'node:path'
import { expect } from 'chai'
import { filesBelow, importsOf, manifest, packageOf, ROOT, text } from './checkout.js'

/** What is installed from the package: the compiled library and its worker. */
const compiled = ['dist/lib', 'dist/workers'].flatMap(folder => filesBelow(folder, 'js').map(file => join(folder, file)))
const sources = ['lib', 'workers'].flatMap(folder => filesBelow(folder, 'ts').map(file => join(folder, file)))

/** Who may import whom, by the folder below lib: arrows run one way, and the command line stands on top of the public surface. */
const ARROWS: Readonly<Record<string, readonly string[]>> = {
  cli: ['index', 'connector', 'config', 'memory', 'observe', 'selection', 'storage', 'transfer', 'error'],
  index: ['connector', 'config', 'selection', 'keys', 'memory', 'observe', 'storage', 'transfer', 'error'],
  connector: ['config', 'selection', 'keys', 'memory', 'observe', 'storage', 'transfer', 'error'],
  selection: ['config', 'storage', 'transfer', 'error'],
  storage: ['config', 'keys', 'memory', 'observe', 'transfer', 'error'],
  transfer: ['memory', 'observe', 'workers', 'error'],
  memory: ['transfer', 'error'],
  observe: ['error'],
  config: ['error'],
  keys: ['error'],
  workers: ['transfer'],
  error: []
}
const isOptionalPeer = (file: string, name: string): boolean => manifest.peerDependenciesMeta?.[name]?.optional === true && file === 'dist/lib/storage/object/object-credentials.js'
const area = (file: string): string => file.startsWith('workers/') ? 'workers' : file.split('/')[1]!.replace(/\.ts$/, '')

describe('imports of what is packed', () => {
  it('are found at all', () => {
    expect(compiled).to.include('dist/lib/index.js')
    expect(importsOf(text('dist/lib/connector/hicache-nixl.js'))).to.include('../error.js')
    expect(importsOf(text('dist/lib/transfer/worker-pool.js'))).to.include('piscina')
  })

  it('name a dependency, a module of Node by its full name, or a file that is packed too', () => {
    const wrong: string[] = []
    for (const file of compiled) {
      for (const specifier of importsOf(text(file))) {
        const name = packageOf(specifier)
        if (name !== null) {
          if (builtinModules.includes(specifier)) wrong.push(`${file}: ${specifier} lacks node:`)
          // An optional peer may be absent: it is imported where that is met, and nowhere else.
          else if (!(name in manifest.dependencies) && !isOptionalPeer(file, name)) wrong.push(`${file}: ${name} is no dependency`)
        } else if (specifier.startsWith('.')) {
          const target = normalize(join(dirname(file), specifier))
          if (!/^dist\/(lib|workers)\//.test(target)) wrong.push(`${file}: ${specifier} is not packed`)
          else if (!existsSync(join(ROOT, target))) wrong.push(`${file}: ${specifier} is not there`)
        }
      }
    }
    expect(wrong).to.deep.equal([])
  })

  it('need types of dependencies and of Node only', () => {
    const declarations = ['dist/lib', 'dist/workers'].flatMap(folder => filesBelow(folder, 'ts').map(file => join(folder, file)))
    const wrong = declarations.flatMap(file => importsOf(text(file)).map(packageOf).filter(name => name !== null && !(name in manifest.dependencies)).map(name => `${file}: ${String(name)}`))
    expect(wrong).to.deep.equal([])
  })

  it('use every dependency', () => {
    const used = new Set(compiled.flatMap(file => importsOf(text(file)).map(packageOf)))
    expect(Object.keys(manifest.dependencies).filter(name => !used.has(name))).to.deep.equal([])
  })

  it('use every development dependency', () => {
    const files = [
      ...['scripts', 'spec'].flatMap(folder => ['.mjs', '.ts'].flatMap(suffix => filesBelow(folder, suffix).map(file => join(folder, file)))),
      'eslint.config.js', 'package.json', 'binding.gyp', 'tsconfig.json'
    ]
    // package.json names each of them once, in its own list.
    const everything = files.map(file => file === 'package.json' ? JSON.stringify(manifest.scripts) : text(file)).join('\n')
    const types = (name: string): boolean => name.startsWith('@types/') && new RegExp(`"types": \\[[^\\]]*"${name.slice('@types/'.length)}"`).test(text('tsconfig.json'))
    const unused = Object.keys(manifest.devDependencies).filter(name => !types(name) && !everything.includes(name))
    // chai has its types beside it in a package of their own; tsc is the command of typescript, eslint that of eslint.
    expect(unused.filter(name => name !== '@types/chai')).to.deep.equal([])
  })

  it('run one way through the house', () => {
    const wrong: string[] = []
    for (const file of sources) {
      for (const specifier of importsOf(text(file))) {
        if (!specifier.startsWith('.')) continue
        const target = normalize(join(dirname(file), specifier))
        if (!/^(lib|workers)\//.test(target)) continue
        const [from, to] = [area(file), area(target.replace(/\.js$/, '.ts'))]
        if (from !== to && !(ARROWS[from] ?? []).includes(to)) wrong.push(`${file} imports ${target}`)
      }
    }
    expect(wrong).to.deep.equal([])
  })

  it('lead from a service to the library, never to the command line', () => {
    const reached = new Set<string>()
    const visit = (file: string): void => {
      if (reached.has(file)) return
      reached.add(file)
      for (const specifier of importsOf(text(file))) if (specifier.startsWith('.')) visit(normalize(join(dirname(file), specifier)))
    }
    visit('dist/lib/index.js')
    expect([...reached].filter(file => file.startsWith('dist/lib/cli/'))).to.deep.equal([])
    expect([...reached]).to.include('dist/lib/connector/hicache-nixl.js')
  })
})

describe('public surface', () => {
  /** What a fresh process prints, with the checkout as its place: the package can import itself by its name there. */
  function inProcess(script: string, ...flags: string[]): string {
    return execFileSync(process.execPath, [...flags, '-e', script], { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim()
  }

  it('is what lib/index.ts exports: these names, and no default', () => {
    const names = JSON.parse(inProcess("import('hicache-nixl').then(all => console.log(JSON.stringify(Object.keys(all).sort())))")) as string[]
    expect(names).to.deep.equal([
      'DeviceMemory', 'HiCacheError', 'HiCacheNixl', 'NixlBackendConfig', 'NixlBackendSelection', 'NixlFileManager', 'NixlRegistration', 'namespaceSeed', 'pageHashes'
    ])
  })

  it('has no other way in', () => {
    const code = inProcess("import('hicache-nixl/dist/lib/error.js').then(() => console.log('imported'), error => console.log(error.code))")
    expect(code).to.equal('ERR_PACKAGE_PATH_NOT_EXPORTED')
  })

  it('can be had by require(): nothing awaits at the top of a module', () => {
    expect(inProcess("console.log(typeof require('hicache-nixl').HiCacheNixl.open)", '--disable-warning=ExperimentalWarning')).to.equal('function')
  })

  it('does nothing on import: no output, no thread, no addon, and the process ends', () => {
    const state = inProcess(`import('hicache-nixl').then(() => {
      const { sharedObjects, workers } = process.report.getReport()
      const state = { threads: workers.length, addon: sharedObjects.some(path => path.endsWith('hicache_nixl.node')) }
      // Reached only where nothing keeps the process alive.
      process.once('beforeExit', () => { console.log(JSON.stringify(state)) })
    })`)
    expect(JSON.parse(state)).to.deep.equal({ threads: 0, addon: false })
  })
})
