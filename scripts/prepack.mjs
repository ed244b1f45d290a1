// Puts the native addon where the packed package has it: prebuilds/<platform>-<arch>, without its debugging symbols. `npm pack` runs it.
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const built = join(root, 'build', 'Release', 'hicache_nixl.node')
const folder = join(root, 'prebuilds', `${process.platform}-${process.arch}`)
const shipped = join(folder, 'hicache_nixl.node')

/** Libraries of the C library itself, which are wherever the addon can be loaded at all. */
const SYSTEM = /^(libc|libm|libpthread|libdl|librt|ld-linux-[\w-]+)\.so\.\d+$/

function tool(name, args) {
  const { status, error, stdout, stderr } = spawnSync(name, args, { encoding: 'utf8' })
  if (error?.code === 'ENOENT') throw new Error(`${name} is not installed. On Debian: apt-get install binutils`)
  if (error || status !== 0) throw error ?? new Error(`${name} ${args.join(' ')}: ${stderr.trim()}`)
  return stdout
}

// A package is packed for one platform only: a binary left from another build is none of it.
rmSync(join(root, 'prebuilds'), { recursive: true, force: true })
mkdirSync(folder, { recursive: true })
copyFileSync(built, shipped)
tool('strip', ['--strip-unneeded', shipped])

const needed = [...tool('readelf', ['--dynamic', '--wide', shipped]).matchAll(/\(NEEDED\).*\[(.*)\]/g)].map((match) => match[1])
const foreign = needed.filter((library) => !SYSTEM.test(library))
if (foreign.length > 0) throw new Error(`the addon needs ${foreign.join(', ')} at run time, and a package that is only unpacked cannot bring that along: link it statically`)
