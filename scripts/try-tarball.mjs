// Packs the package and tries what was packed: node scripts/try-tarball.mjs [PATH-OF-A-NODE ...]
//
// The tarball is installed with --ignore-scripts in an empty project outside of the checkout. There it has to be imported, compiled against and used, on every
// Node named (and on the one that runs this), with its one binary. The last line says how many checks passed and failed.
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const nodes = [process.execPath, ...process.argv.slice(2)]
const work = mkdtempSync(join(tmpdir(), 'hicache-nixl-tarball-'))
const project = join(work, 'project')
const installed = join(project, 'node_modules', 'hicache-nixl')
const binary = join(installed, 'prebuilds', `${process.platform}-${process.arch}`, 'hicache_nixl.node')
let passed = 0
let failed = 0

function check(what, body) {
  try {
    const note = body()
    passed++
    console.log(`  ok    ${what}${note ? ` (${note})` : ''}`)
  } catch (error) {
    failed++
    console.log(`  FAIL  ${what}\n        ${error.message.replaceAll('\n', '\n        ')}`)
  }
}
function assert(condition, message) {
  if (!condition) throw new Error(message)
}
/** Runs to the end, without anything of the npm script around this one in its environment. */
function run(command, args, { cwd = project, env = {} } = {}) {
  const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^npm_(package|lifecycle|command|execpath|node_execpath)|^(NODE_OPTIONS|INIT_CWD)$/.test(name)))
  const options = { cwd, env: { ...inherited, ...env }, encoding: 'utf8', timeout: 600_000, maxBuffer: 2 ** 26, stdio: ['ignore', 'pipe', 'pipe'] }
  const { status, signal, error, stdout, stderr } = spawnSync(command, args, options)
  if (error || status !== 0) throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? signal ?? `exit status ${status}`}\n${stdout}${stderr}`.trim())
  return { stdout, stderr }
}
function filesBelow(folder) {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true })
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1)).sort()
}
const version = (node) => run(node, ['--version'], { cwd: work }).stdout.trim()

try {
  mkdirSync(project)
  // npm says the name of the tarball in JSON after whatever the scripts printed.
  const { stdout } = run('npm', ['pack', '--pack-destination', work, '--loglevel=error'], { cwd: root })
  const tarball = join(work, stdout.trim().split('\n').at(-1))
  assert(existsSync(tarball), `npm pack left no tarball: ${stdout}`)

  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'empty', version: '1.0.0', private: true }))
  run('npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline', '--loglevel=error', tarball])
  const files = filesBelow(installed)

  check('everything that is needed is packed', () => {
    const needed = [
      'LICENSE', 'README.md', 'package.json', 'binding.gyp', 'addon/addon.cc', 'schemas/config.schema.json', 'dist/lib/index.js', 'dist/lib/index.d.ts',
      'dist/lib/cli/main.js', 'dist/workers/worker.js', 'dist/workers/entry.cjs', binary.slice(installed.length + 1)
    ]
    const missing = needed.filter((file) => !files.includes(file))
    assert(missing.length === 0, `missing: ${missing.join(', ')}`)
    return `${files.length} files`
  })
  check('nothing else is packed', () => {
    const allowed = [
      /^(LICENSE|README\.md|package\.json|binding\.gyp)$/, /^dist\/(lib|workers)\/[\w./-]+\.([cm]?js|[cm]?js\.map|d\.[cm]?ts)$/, /^schemas\/[\w.-]+\.json$/, /^docs\/[\w./-]+\.md$/,
      /^addon\/(?!test\/)[\w./-]+\.(cc|h)$/, /^prebuilds\/[\w-]+\/hicache_nixl\.node$/
    ]
    const odd = files.filter((file) => !allowed.some((pattern) => pattern.test(file)) || /spec|fixture/.test(file))
    assert(odd.length === 0, `not expected: ${odd.join(', ')}`)
    assert(files.filter((file) => file.endsWith('.node')).length === 1, 'there must be one binary')
  })
  check('every compiled file has its source', () => {
    const compiled = files.filter((file) => /\.[cm]?js$/.test(file))
    const stale = compiled.filter((file) => !existsSync(join(root, file.slice('dist/'.length).replace(/js$/, 'ts'))))
    assert(stale.length === 0, `compiled from sources that are gone: ${stale.join(', ')}`)
  })
  check('no packed file names a place of the machine that packed it', () => {
    const places = [root, homedir(), work, ['..', 'shared'].join('/')]
    const naming = files.filter((file) => {
      const text = readFileSync(join(installed, file), 'latin1')
      return places.some((place) => place.length > 1 && text.includes(`${place}/`))
    })
    assert(naming.length === 0, `named in ${naming.join(', ')}`)
  })
  check('the binary needs the C library and nothing else', () => {
    const dynamic = run('readelf', ['--dynamic', '--wide', binary]).stdout
    const needed = [...dynamic.matchAll(/\(NEEDED\).*\[(.*)\]/g)].map((match) => match[1])
    const foreign = needed.filter((library) => !/^(libc|libm|libpthread|libdl|librt|ld-linux-[\w-]+)\.so\.\d+$/.test(library))
    assert(foreign.length === 0, `needs ${foreign.join(', ')}`)
    assert(!/\((RPATH|RUNPATH|TEXTREL)\)/.test(dynamic), 'has a path of its own for libraries, or text relocations')
    assert(/NODELETE/.test(dynamic), 'is not linked with -z nodelete: libuv would call code that a worker\'s exit has unloaded')
    const versions = [...run('readelf', ['--version-info', '--wide', binary]).stdout.matchAll(/GLIBC_(\d+)\.(\d+)/g)].map((match) => Number(match[1]) * 1000 + Number(match[2]))
    const newest = Math.max(...versions)
    return `${needed.join(', ')}; glibc ${Math.floor(newest / 1000)}.${newest % 1000}`
  })
  check('the binary is stripped', () => {
    assert(!/\.debug_info/.test(run('readelf', ['--sections', '--wide', binary]).stdout), 'has debugging sections')
    return `${Math.round(readFileSync(binary).length / 1024)} KiB`
  })

  // The consumer compiles against the packed declarations, every one of them checked, and what it compiles to runs below.
  check('the declarations are whole, for ESM and for CommonJS', () => {
    for (const file of ['consumer.mts', 'consumer.cts']) copyFileSync(join(root, 'scripts', 'tarball', file), join(project, file))
    writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({
      compilerOptions: {
        target: 'ES2022', lib: ['ES2023', 'ESNext.Disposable'], module: 'NodeNext', moduleResolution: 'NodeNext', strict: true, exactOptionalPropertyTypes: true,
        noUncheckedIndexedAccess: true, skipLibCheck: false, types: ['node'], typeRoots: [join(root, 'node_modules', '@types')]
      },
      include: ['consumer.mts', 'consumer.cts']
    }))
    run(process.execPath, [join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', project])
  })

  for (const node of nodes) {
    const name = `Node ${version(node)}`
    check(`${name}: import, open, use, close`, () => run(node, ['consumer.mjs']).stdout.trim())
    check(`${name}: require()`, () => { run(node, ['--disable-warning=ExperimentalWarning', 'consumer.cjs']) })
    check(`${name}: the command`, () => {
      const shown = run(node, [join('node_modules', '.bin', 'hicache-nixl'), '--version']).stdout.trim()
      assert(shown.includes(JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8')).version), `--version prints ${shown}`)
      const doctor = JSON.parse(run(node, [join('node_modules', '.bin', 'hicache-nixl'), 'doctor', '--json', '--storage-dir', work]).stdout)
      assert(typeof doctor.selected === 'string', `doctor selected ${JSON.stringify(doctor.selected)}`)
      return `${shown}, ${doctor.selected}`
    })
  }
  check('nothing but the documented entry can be imported', () => {
    const script = "import('hicache-nixl/dist/lib/error.js').then(() => process.exit(1), (error) => process.exit(error.code === 'ERR_PACKAGE_PATH_NOT_EXPORTED' ? 0 : 1))"
    run(process.execPath, ['-e', script])
  })
  check('without the binary the import works, and open() says what to do', () => {
    renameSync(binary, `${binary}.away`)
    try {
      const message = run(process.execPath, ['consumer.mjs', '--without-addon']).stdout
      assert(/node-gyp|npm run build/.test(message), `no remedy in: ${message}`)
    } finally {
      renameSync(`${binary}.away`, binary)
    }
  })
  check('with a binary of another system the import works, and open() says what to do', () => {
    renameSync(binary, `${binary}.away`)
    try {
      writeFileSync(binary, 'not an ELF file')
      const message = run(process.execPath, ['consumer.mjs', '--without-addon']).stdout
      assert(/does not load/.test(message) && /node-gyp|npm run build/.test(message), `no remedy in: ${message}`)
    } finally {
      renameSync(`${binary}.away`, binary)
    }
  })
} catch (error) {
  failed++
  console.log(`  FAIL  ${error.message}`)
} finally {
  rmSync(work, { recursive: true, force: true })
}
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed > 0 ? 1 : 0
