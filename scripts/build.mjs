// Builds everything a checkout needs: generated sources, the native addon, JavaScript. `prepare` runs it after `npm ci`.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { cpus } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const bin = (name) => join(root, 'node_modules', '.bin', name)
function run(command, args, env = {}) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } })
  if (error) throw error
  if (status !== 0) process.exit(status ?? 1)
}

// Generated: WebAssembly key kernel, configuration validators and types.
for (const script of ['build-kernel.mjs', 'build-schema.mjs']) {
  if (existsSync(join(root, 'scripts', script))) run(process.execPath, [join('scripts', script)])
}

// Node's headers lie beside the binary in every distribution of it: no download.
const prefix = join(dirname(process.execPath), '..')
const headers = existsSync(join(prefix, 'include', 'node', 'node_api.h')) ? [`--nodedir=${prefix}`] : []
run(bin('node-gyp'), ['rebuild', '--jobs', String(cpus().length), ...headers, ...(process.env.CI ? [] : ['--loglevel=warn'])])

run(bin('tsc'), [])
