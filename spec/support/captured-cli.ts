import { Readable, Writable } from 'node:stream'
import { runCli } from '../../lib/cli/run-cli.js'

export interface CliResult { readonly code: number; readonly stdout: string; readonly stderr: string }

/** Runs one command line in this process, with streams of its own. */
export async function captureCli(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<CliResult> {
  const stdout = new TextSink()
  const stderr = new TextSink()
  const code = await runCli(args, { stdin: Readable.from([]), stdout, stderr, env, signal: new AbortController().signal })
  return { code, stdout: stdout.text, stderr: stderr.text }
}

class TextSink extends Writable {
  text = ''

  override _write(chunk: Buffer | string, _encoding: BufferEncoding, done: () => void): void {
    this.text += chunk.toString()
    done()
  }
}
