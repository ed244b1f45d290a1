// Tries the memory of GPUs on a machine that has one, with no network and no Node but the one that runs this: node scripts/try-gpu.mjs [options]
//
//   --dir FOLDER     where the data lie: on the disk that is to be measured (default: below the temporary files)
//   --pages N --page-bytes N --rounds N --threads N     of the comparison (default: 128 pages of 4 MiB, 5 rounds, 16 threads)
//   --json FILE      the JSON object goes there, too
//   --stand-ins      over the stand-ins of the specs: tries this script, and says nothing about speed or about NVIDIA's libraries
//
// Needs: this checkout with node_modules and dist/ (`npm run build` on another machine), g++, NVIDIA's driver; libcufile, nvidia-fs, python3 with torch where they are to be tried.
// THIS SCRIPT HAS NOT BEEN RUN ON HARDWARE YET, only over the stand-ins.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { availableParallelism, cpus, totalmem, tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const { values } = parseArgs({
  options: {
    dir: { type: 'string' }, pages: { type: 'string' }, 'page-bytes': { type: 'string' }, rounds: { type: 'string' }, threads: { type: 'string' }, json: { type: 'string' },
    'stand-ins': { type: 'boolean', default: false }
  }
})
const standIns = values['stand-ins']
const number = (text, otherwise) => text === undefined ? otherwise : Number(text)
const pages = number(values.pages, standIns ? 16 : 128)
const pageBytes = number(values['page-bytes'], standIns ? 1 << 20 : 4 << 20)
const rounds = number(values.rounds, standIns ? 2 : 5)
const threads = number(values.threads, 16)
for (const value of [pages, pageBytes, rounds, threads]) if (!Number.isSafeInteger(value) || value < 1) throw new Error('The numbers are whole, from 1.')
const parent = values.dir === undefined ? tmpdir() : resolve(values.dir)
mkdirSync(parent, { recursive: true })
const work = mkdtempSync(join(parent, 'hicache-try-gpu-'))
const env = { ...process.env, CXX: process.env.CXX ?? 'g++' }
const say = (text) => { console.error(text) }

function run(command, args, timeout = 120_000) {
  const { status, signal, error, stdout, stderr } = spawnSync(command, args, { cwd: root, env, encoding: 'utf8', timeout, killSignal: 'SIGKILL', maxBuffer: 1 << 26 })
  return { ok: status === 0, status, stdout: stdout ?? '', why: error?.message ?? (status === 0 ? '' : `${signal ?? `exit status ${status}`}: ${(stderr ?? '').trim().slice(-2000)}`) }
}
const read = (path) => {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return null
  }
}

// What is there ---------------------------------------------------------------------------------------------------------------------------

/** libcufile of a Python package, which no linker's path has. */
function cufileOfPython() {
  const folders = run('python3', ['-c', 'import json, site, sys; print(json.dumps(sys.path + site.getsitepackages() + [site.getusersitepackages()]))'])
  if (!folders.ok) return null
  for (const folder of new Set(JSON.parse(folders.stdout))) {
    for (const place of ['nvidia/cufile/lib', 'nvidia/cu13/lib', 'nvidia/cu12/lib']) {
      const lib = join(folder, place)
      const name = existsSync(lib) ? readdirSync(lib).find((file) => /^libcufile\.so(\.0)?$/.test(file)) : undefined
      if (name !== undefined) return join(lib, name)
    }
  }
  return null
}

function lookAround() {
  const modules = read('/proc/modules')
  const cached = run('ldconfig', ['-p']).stdout.split('\n').filter((line) => /libcufile\.so|libcuda\.so/.test(line)).map((line) => line.trim())
  const toolkit = ['/usr/local/cuda/lib64', '/usr/local/cuda/targets/x86_64-linux/lib'].map((folder) => join(folder, 'libcufile.so.0')).find((path) => existsSync(path)) ?? null
  const python = cufileOfPython()
  const linked = cached.some((line) => line.startsWith('libcufile'))
  if (!env.HICACHE_NIXL_CUFILE_PATH && !linked) {
    const found = toolkit ?? python
    if (found !== null) env.HICACHE_NIXL_CUFILE_PATH = found
  }
  return {
    node: process.version, cpu: cpus()[0]?.model ?? '', cores: availableParallelism(), memoryBytes: totalmem(), kernel: (read('/proc/version') ?? '').trim(),
    procModules: modules !== null, nvidiaFs: modules?.includes('nvidia_fs ') ?? false, nvidiaFsVersion: (read('/proc/driver/nvidia-fs/version') ?? '').trim(),
    nvidiaFsNodes: existsSync('/dev') ? readdirSync('/dev').filter((name) => name.startsWith('nvidia-fs')).length : 0, udev: existsSync('/run/udev/data'),
    dataFolder: run('df', ['-T', work]).stdout.trim().split('\n').at(-1) ?? '', lockedMemory: run('bash', ['-c', 'ulimit -l']).stdout.trim(),
    gpus: run('nvidia-smi', ['--query-gpu=name,driver_version,memory.total', '--format=csv,noheader']).stdout.trim().split('\n').filter(Boolean),
    libraries: cached, cufileOfToolkit: toolkit, cufileOfPython: python, cufileUsed: env.HICACHE_NIXL_CUFILE_PATH ?? (linked ? 'of the linker' : null), cufileConfiguration: env.CUFILE_ENV_PATH_JSON ?? '/etc/cufile.json'
  }
}

// Building --------------------------------------------------------------------------------------------------------------------------------

async function buildAddon() {
  const binary = join(root, 'build', 'Release', 'hicache_nixl.node')
  if (existsSync(binary) || existsSync(join(root, 'prebuilds', `${process.platform}-${process.arch}`, 'hicache_nixl.node'))) return 'there'
  // As binding.gyp has it, without node-gyp: that needs Python and make, and headers from the network.
  const headers = [join(process.execPath, '..', '..', 'include', 'node'), ...(env.HICACHE_NODE_HEADERS ? [env.HICACHE_NODE_HEADERS] : [])].find((folder) => existsSync(join(folder, 'node_api.h')))
  if (headers === undefined) throw new Error('There is no built addon and there are no headers of Node: carry build/Release/hicache_nixl.node, or name the headers\' folder in HICACHE_NODE_HEADERS.')
  const sources = readdirSync(join(root, 'addon'), { recursive: true }).filter((name) => name.endsWith('.cc') && !name.startsWith('test/')).map((name) => join('addon', name))
  mkdirSync(dirname(binary), { recursive: true })
  say(`building the addon with g++ (${sources.length} files)`)
  const objects = join(work, 'objects')
  mkdirSync(objects)
  const flags = ['-std=c++20', '-O2', '-fPIC', '-fvisibility=hidden', '-Iaddon', `-I${join(root, 'node_modules', 'node-addon-api')}`, `-I${headers}`, '-DNAPI_VERSION=9',
    '-DNODE_ADDON_API_DISABLE_CPP_EXCEPTIONS', '-DNODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS']
  const left = [...sources]
  await Promise.all(Array.from({ length: availableParallelism() }, async () => {
    for (let source; (source = left.pop()) !== undefined;) {
      const child = spawn(env.CXX, [...flags, '-c', source, '-o', join(objects, `${source.replaceAll('/', '_')}.o`)], { cwd: root, env, stdio: ['ignore', 'ignore', 'inherit'] })
      const [status] = await once(child, 'exit')
      if (status !== 0) throw new Error(`${source} cannot be compiled: what ${env.CXX} said stands above.`)
    }
  }))
  const linked = run(env.CXX, ['-shared', '-Wl,-z,nodelete', '-static-libstdc++', '-static-libgcc', '-Wl,--exclude-libs,ALL', '-o', binary, ...readdirSync(objects).map((name) => join(objects, name)), '-lpthread', '-ldl'])
  if (!linked.ok) throw new Error(`The addon cannot be linked: ${linked.why}`)
  return 'built'
}

function buildLoops() {
  const program = join(work, 'gpu-loops')
  const built = run(env.CXX, ['-std=c++20', '-O2', '-o', program, join('scripts', 'gpu-loops.cc'), '-ldl', '-lpthread'])
  if (!built.ok) throw new Error(`scripts/gpu-loops.cc does not compile: ${built.why}`)
  return program
}

function useStandIns() {
  for (const [name, variable] of [['cuda', 'HICACHE_NIXL_CUDA_PATH'], ['cufile', 'HICACHE_NIXL_CUFILE_PATH']]) {
    const library = join(work, `lib${name}.so`)
    const built = run(env.CXX, ['-std=c++20', '-O1', '-shared', '-fPIC', '-fvisibility=hidden', '-Ispec/support/stand-ins', '-o', library, `spec/support/stand-ins/${name}.cc`, '-lpthread', '-ldl'])
    if (!built.ok) throw new Error(`The stand-in for ${name} does not compile: ${built.why}`)
    env[variable] = library
  }
  env.HICACHE_NIXL_PROC_MODULES = join(work, 'modules')
  writeFileSync(env.HICACHE_NIXL_PROC_MODULES, '')
}

// The suite's GPU part --------------------------------------------------------------------------------------------------------------------

let folders = 0
/** One scenario of the specs, in a process of its own. */
function scenario(name, task) {
  const folder = join(work, `scenario-${folders++}`)
  const ran = run(process.execPath, [join(root, 'dist', 'spec', 'support', 'gpu-child.js'), JSON.stringify({ scenario: name, folder, ...task })], 600_000)
  if (task.folder === undefined) rmSync(folder, { recursive: true, force: true })
  const last = ran.stdout.trim().split('\n').at(-1) ?? ''
  const told = last.startsWith('{') ? JSON.parse(last) : { error: ran.why || 'it said nothing' }
  return { ok: ran.ok && told.error === undefined, result: told.result, error: told.error ?? ran.why }
}

function suite() {
  const checks = []
  const check = (title, name, task) => {
    const { ok, error } = scenario(name, task)
    checks.push({ title, ok, ...(ok ? {} : { error }) })
    say(`  ${ok ? 'ok  ' : 'FAIL'}  ${title}${ok ? '' : `\n        ${error}`}`)
  }
  for (const plugin of ['posix', 'gds', 'gds_mt']) {
    for (const storageLayout of ['file', 'segment']) {
      for (const verifyVram of plugin === 'posix' ? [false] : [false, true]) check(`pages by every call: ${plugin}, ${storageLayout} layout${verifyVram ? ', verifyVram' : ''}`, 'transfers', { plugin, storageLayout, verifyVram })
    }
    check(`memory that is none, or refused: ${plugin}`, 'refusals', { plugin })
    check(`memory of somebody else in the process: ${plugin}`, 'registered', { plugin })
    check(`more than the arena holds: ${plugin}`, 'arena', { plugin })
    check(`close() while pages are staged: ${plugin}`, 'closingStaged', { plugin })
    check(`memory of another process: ${plugin}`, 'ipc', { plugin })
    check(`the process ends with transfers under way: ${plugin}`, 'exits', { plugin, parameters: { ms: 3 } })
  }
  return checks
}

// The comparison --------------------------------------------------------------------------------------------------------------------------

function comparison(program) {
  const files = Array.from({ length: pages }, (_, i) => join(work, `page-${i}`))
  const bytes = Buffer.alloc(pageBytes)
  for (let i = 0; i < pageBytes; i++) bytes[i] = (i * 7 + (i >> 12)) & 255
  for (const file of files) {
    const fd = openSync(file, 'w', 0o600)
    writeSync(fd, bytes)
    closeSync(fd)
  }
  run('sync', [])
  const store = join(work, 'store')
  const written = scenario('speed', { plugin: 'posix', folder: store, parameters: { pages, pageBytes, write: true } })
  if (!written.ok) throw new Error(`The pages cannot be stored: ${written.error}`)
  run('sync', [])
  const ours = (plugin, section) => () => {
    const { ok, result, error } = scenario('speed', { plugin, folder: store, config: { plugin: { [plugin]: { active: true, ...section } }, use_direct_io: true }, parameters: { pages, pageBytes } })
    return ok ? result : { error }
  }
  const loop = (arm, width) => () => {
    const { ok, stdout, why } = run(program, [arm, String(pageBytes), String(width), ...files], 600_000)
    return ok ? JSON.parse(stdout) : { error: why }
  }
  const torch = () => {
    const { ok, status, stdout, why } = run('python3', [join('scripts', 'gpu-torch.py'), String(pageBytes), ...files], 600_000)
    return ok ? JSON.parse(stdout) : { error: status === 3 ? 'python3 has no torch with CUDA' : why }
  }
  const batch = Math.min(128, pages)
  const arms = [
    ['ours, gds_mt', ours('gds_mt', { thread_count: threads })], [`C++, ${threads} threads over cuFileRead`, loop('threads', threads)], ['ours, gds', ours('gds', { batch_limit: batch })],
    [`C++, batches of ${batch}`, loop('batch', batch)], ['ours, posix (staged)', ours('posix', {})], ['torch, pread and pinned copies', torch], ['POSIX into DRAM (ceiling)', loop('posix', threads)]
  ].map(([name, go]) => ({ name, go, runs: [], errors: [], mode: null }))
  // By turns, so that whatever changes meanwhile changes for all; a round that warms up is not counted.
  for (let round = 0; round <= rounds; round++) {
    for (const arm of arms) {
      const told = arm.go()
      if (told.error !== undefined) arm.errors.push(told.error)
      else if (round > 0) arm.runs.push(told.bytes / told.seconds / 1e9)
      arm.mode ??= told.mode ?? null
    }
    say(`  round ${round} of ${rounds}`)
  }
  return arms.map(({ name, runs, errors, mode }) => {
    const sorted = runs.toSorted((a, b) => a - b)
    return { name, mode, gbPerSecond: sorted.length === 0 ? null : sorted[sorted.length >> 1], slowest: sorted[0] ?? null, fastest: sorted.at(-1) ?? null, runs: runs.length, ...(errors.length > 0 ? { error: errors[0] } : {}) }
  })
}

// -----------------------------------------------------------------------------------------------------------------------------------------

const report = { standIns, warning: standIns ? 'OVER STAND-INS: these numbers mean nothing for speed, and nothing is shown about NVIDIA\'s libraries' : null }
try {
  say('what is there')
  report.machine = lookAround()
  report.addon = await buildAddon()
  if (!existsSync(join(root, 'dist', 'spec', 'support', 'gpu-child.js'))) throw new Error('dist/ is not there: run `npm run build` where there is a network, and carry the checkout with node_modules and dist.')
  const program = buildLoops()
  if (standIns) useStandIns()
  report.selection = Object.fromEntries(['gds_mt', 'gds'].map((plugin) => {
    const { ok, result, error } = scenario('selection', { plugin })
    return [plugin, ok ? result.report ?? result.error : { error }]
  }))
  report.mode = report.selection.gds_mt.details?.mode ?? 'unavailable'
  say(`cuFile's mode: ${report.mode} (${report.selection.gds_mt.reason ?? report.selection.gds_mt.message ?? report.selection.gds_mt.error})`)
  say('the GPU part of the suite')
  report.suite = suite()
  say('the comparison')
  report.comparison = { pages, pageBytes, rounds, threads, mode: report.mode, arms: comparison(program) }
} catch (error) {
  report.error = error.message
  process.exitCode = 1
} finally {
  rmSync(work, { recursive: true, force: true })
}
if (report.suite?.some(({ ok }) => !ok)) process.exitCode = 1
console.log(JSON.stringify(report, null, 2))
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`)
if (report.comparison) {
  const cell = (value) => value === null ? '-' : value.toFixed(2)
  console.log(`\n${standIns ? 'STAND-INS, MEANINGLESS FOR SPEED. ' : ''}Into the memory of a GPU: ${pages} pages of ${pageBytes} bytes, cuFile in mode ${report.mode}, ${rounds} rounds by turns`)
  console.log('| arm | mode | GB/s (median) | slowest | fastest |\n|---|---|---|---|---|')
  for (const arm of report.comparison.arms) console.log(`| ${arm.name} | ${arm.mode ?? '-'} | ${arm.error && arm.runs === 0 ? arm.error.split('\n')[0].slice(0, 100) : cell(arm.gbPerSecond)} | ${cell(arm.slowest)} | ${cell(arm.fastest)} |`)
}
if (report.error) console.error(`try-gpu: ${report.error}`)
