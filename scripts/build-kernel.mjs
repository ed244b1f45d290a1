// Compiles lib/keys/kernel/key-kernel.ts to WebAssembly and embeds it in lib/keys/kernel/kernel-wasm.ts, which is committed.
//   node scripts/build-kernel.mjs           makes the file where it is absent; a build never changes a file that is there
//   node scripts/build-kernel.mjs --write   makes it anew, after a change of the source
//   node scripts/build-kernel.mjs --check   ends 1 when the committed file is not what the source gives
import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const source = 'lib/keys/kernel/key-kernel.ts'
const target = 'lib/keys/kernel/kernel-wasm.ts'

/** tsc wants the extension `.js` in an import, asc appends `.ts` to what it reads: here the two meet, and the memory is swapped. */
const substitutes = { 'lib/keys/kernel/memory.js.ts': 'lib/keys/kernel/assembly/memory.ts' }

async function compile() {
  const { default: asc } = await import('assemblyscript/asc')
  let wasm
  const { error, stderr } = await asc.main(
    [
      source, '--outFile', 'kernel.wasm', '--baseDir', root, '-O3', '--converge', '--uncheckedBehavior', 'always', '--noAssert',
      '--runtime', 'stub', '--initialMemory', '1', '--maximumMemory', '1'
    ],
    {
      readFile: (name) => readFile(join(root, substitutes[name] ?? name), 'utf8').catch(() => null),
      writeFile: (_name, contents) => { wasm = contents },
      listFiles: () => []
    }
  )
  if (error) throw new Error(`asc did not compile ${source}.\n${stderr.toString()}`, { cause: error })
  const lines = Buffer.from(wasm).toString('base64').match(/.{1,120}/g)
  return [
    `// Made of ${source} by scripts/build-kernel.mjs, which also checks it (--check): do not edit.`,
    '',
    `/** The WebAssembly key kernel, ${wasm.length} bytes in base64. */`,
    `export const KERNEL_WASM_BASE64 = [\n${lines.map((line) => `  '${line}'`).join(',\n')}\n].join('')`,
    ''
  ].join('\n')
}

const path = join(root, target)
const mode = process.argv[2]
if (mode === '--check') {
  if (await readFile(path, 'utf8').catch(() => '') !== await compile()) {
    console.error(`${target} is not what ${source} compiles to. Run \`node scripts/build-kernel.mjs --write\` and commit the result.`)
    process.exitCode = 1
  }
} else if (mode === '--write' || !existsSync(path)) {
  await writeFile(path, await compile())
}
