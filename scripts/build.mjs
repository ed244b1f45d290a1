// Builds what a checkout needs: generated sources, the native addon, JavaScript. `prepare` runs it at `npm ci`, and again before `npm start`
// and `npm test`, where it finds nothing to do in about two seconds.
//   node scripts/build.mjs            what is missing or stale
//   node scripts/build.mjs --force    everything
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const at = (...parts) => join(root, ...parts)
const force = process.argv.includes('--force')

function fail(message) {
  console.error(`hicache-nixl build: ${message}`)
  process.exit(1)
}

function run(what, command, args) {
  const { status, signal, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' })
  if (error) fail(`${what} could not be started: ${error.message}`)
  if (status !== 0) fail(`${what} failed${signal ? ` (${signal})` : ''}; what it said stands above.`)
}

/** Files below a folder, as paths from the root, in one order everywhere. */
function filesBelow(folder, suffix) {
  if (!existsSync(at(folder))) return []
  const entries = readdirSync(at(folder), { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile() && entry.name.endsWith(suffix))
  return files.map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1)).sort()
}

const modified = (path) => existsSync(at(path)) ? statSync(at(path)).mtimeMs : Number.NaN
/** False when one of the outputs is missing (NaN compares false) or older than one of the inputs. */
const fresh = (outputs, inputs) => outputs.every((output) => inputs.every((input) => modified(output) >= modified(input)))

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major < 20 || (major === 20 && minor < 19)) fail(`Node ${process.versions.node} is too old: 20.19 is the oldest that works.`)
}

function checkDevDependencies() {
  const needed = ['typescript', 'node-gyp', 'node-addon-api', 'assemblyscript', 'ajv', 'esbuild', 'json-schema-to-typescript']
  const missing = needed.filter((name) => !existsSync(at('node_modules', name)))
  if (missing.length > 0) fail(`not installed: ${missing.join(', ')}. A checkout builds with its development dependencies: run \`npm ci\` without --omit=dev.`)
}

function checkTools() {
  const folders = (process.env.PATH ?? '').split(delimiter)
  const inPath = (name) => name.includes('/') ? existsSync(name) : folders.some((folder) => existsSync(join(folder, name)))
  const tools = [
    { name: process.env.CXX?.split(' ')[0] || 'g++', debian: 'g++' },
    { name: process.env.MAKE || 'make', debian: 'make' },
    { name: process.env.npm_config_python || process.env.PYTHON || 'python3', debian: 'python3' }
  ]
  const missing = tools.filter(({ name }) => !inPath(name))
  if (missing.length > 0) {
    fail(`the native addon needs ${missing.map(({ name }) => name).join(', ')}, not found in PATH. On Debian: apt-get install ${missing.map(({ debian }) => debian).join(' ')}`)
  }
}

function generate() {
  run('the key kernel', process.execPath, [join('scripts', 'build-kernel.mjs')])
  const outputs = ['validator', 'schema', 'types'].map((part) => join('lib', 'config', `config-${part}.generated.ts`))
  const inputs = [join('scripts', 'build-schema.mjs'), join('schemas', 'config.schema.json'), 'package-lock.json']
  if (force || !fresh(outputs, inputs)) run('the configuration validator', process.execPath, [join('scripts', 'build-schema.mjs')])
}

/** make knows which objects are stale. What it does not know is kept in a stamp: the Node it was configured for, and the list of sources. */
function buildAddon() {
  const binary = join('build', 'Release', 'hicache_nixl.node')
  const stamp = join('build', 'configured-for')
  const sources = filesBelow('addon', '.cc')
  const inputs = [...sources, ...filesBelow('addon', '.h'), 'binding.gyp', stamp]
  const configuration = createHash('sha256').update(JSON.stringify([
    process.version, process.arch, process.execPath, process.env.CXX, process.env.CC, process.env.CXXFLAGS, root, sources,
    readFileSync(at('binding.gyp'), 'utf8'), readFileSync(at('node_modules', 'node-addon-api', 'package.json'), 'utf8')
  ])).digest('hex')
  const configured = !force && existsSync(at('build', 'Makefile')) && existsSync(at(stamp)) && readFileSync(at(stamp), 'utf8') === configuration
  if (configured && fresh([binary], inputs)) return

  checkTools()
  // Node's headers lie beside the binary in nearly every distribution of it. Only where they do not, node-gyp downloads them.
  const prefix = join(dirname(process.execPath), '..')
  const headers = existsSync(join(prefix, 'include', 'node', 'node_api.h')) ? [`--nodedir=${prefix}`] : []
  if (headers.length === 0 && !process.env.npm_config_nodedir && !configured) {
    console.error(`hicache-nixl build: ${join(prefix, 'include', 'node')} has no headers of Node, so node-gyp downloads them. ` +
      'Without a network, set npm_config_nodedir to a folder that has them under include/node.')
  }
  const gyp = (...commands) => {
    const program = at('node_modules', 'node-gyp', 'bin', 'node-gyp.js')
    run('the native addon', process.execPath, [program, ...commands, '--jobs', String(availableParallelism()), '--loglevel=warn', ...headers])
  }
  if (!configured) {
    gyp('clean')
    gyp('configure')
    mkdirSync(at('build'), { recursive: true })
    writeFileSync(at(stamp), configuration)
  }
  gyp('build')
}

function compileTypeScript() {
  // x.ts becomes x.js, x.cts becomes x.cjs.
  const sources = ['lib', 'workers', 'spec'].flatMap((folder) => filesBelow(folder, 'ts')).filter((source) => /(?<!\.d)\.[cm]?ts$/.test(source))
  const scripts = new Set(sources.map((source) => join('dist', source.replace(/ts$/, 'js'))))
  // What was compiled from a file that is gone would still be packed, or run as a spec.
  for (const output of filesBelow('dist', '')) {
    const script = output.replace(/\.map$/, '').replace(/\.d\.([cm]?)ts$/, '.$1js')
    if (/\.[cm]?js$/.test(script) && !scripts.has(script)) rmSync(at(output))
  }
  // The compiler's own record says nothing about outputs that somebody removed.
  const record = join('dist', '.tsbuildinfo')
  const excluded = join('dist', 'lib', 'keys', 'kernel', 'assembly')
  const complete = [...scripts].every((script) => script.startsWith(excluded) || existsSync(at(script)))
  if (force || !complete) rmSync(at(record), { force: true })
  run('the TypeScript compiler', process.execPath, [at('node_modules', 'typescript', 'bin', 'tsc'), '--incremental', '--tsBuildInfoFile', record])
}

checkNode()
checkDevDependencies()
generate()
buildAddon()
compileTypeScript()
