import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The compiled command line, as package.json's bin has it. */
export const MAIN = fileURLToPath(new URL('../../lib/cli/main.js', import.meta.url))

export interface CliResult { readonly code: number | null; readonly signal: NodeJS.Signals | null; readonly stdout: Buffer; readonly stderr: string }

export interface CliOptions { readonly input?: Uint8Array; readonly env?: NodeJS.ProcessEnv; readonly cwd?: string }

/** What every run gets of the environment: nothing that a developer's shell may have set. */
export const CLEAN_ENV: NodeJS.ProcessEnv = { PATH: process.env.PATH, HOME: process.env.HOME, TMPDIR: process.env.TMPDIR }

/** Runs `hicache-nixl ...args` to its end. */
export async function cli(args: readonly string[], { input, env = {}, cwd }: CliOptions = {}): Promise<CliResult> {
  const child = spawn(process.execPath, [MAIN, ...args], { env: { ...CLEAN_ENV, ...env }, cwd, stdio: 'pipe' })
  const stdout: Buffer[] = []
  const stderr: Buffer[] = []
  child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk))
  child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk))
  // A command that does not read its stdin may be gone before all of it is written.
  child.stdin.on('error', () => { /* see above */ })
  child.stdin.end(input)
  return await new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => resolve({ code, signal, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr).toString() }))
  })
}

/** The same, with stdout read as the one JSON object of --json. */
export async function cliJson<T = Record<string, unknown>>(args: readonly string[], options?: CliOptions): Promise<{ code: number | null; json: T; stderr: string }> {
  const { code, stdout, stderr } = await cli([...args, '--json'], options)
  try {
    return { code, json: JSON.parse(stdout.toString()) as T, stderr }
  } catch {
    throw new Error(`stdout is not one JSON value: ${JSON.stringify(stdout.toString())}; stderr: ${stderr}`)
  }
}

/** A fresh directory for `use`, removed afterwards. */
export async function inDirectory<T>(use: (directory: string) => Promise<T>): Promise<T> {
  const directory = mkdtempSync(join(tmpdir(), 'hicache-cli-'))
  try {
    return await use(directory)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}
