#!/usr/bin/env node
import { ExitCode } from './command.js'
import { errorLine, runCli } from './run-cli.js'

const interrupt = new AbortController()
for (const name of ['SIGINT', 'SIGTERM'] as const) {
  process.on(name, () => {
    // The first asks the command to end in order, the second does not ask.
    if (interrupt.signal.aborted) process.exit(ExitCode.interrupted)
    interrupt.abort()
  })
}

void runCli(process.argv.slice(2), {
  stdin: process.stdin, stdout: process.stdout, stderr: process.stderr, env: process.env, signal: interrupt.signal,
}).catch((error: unknown) => {
  process.stderr.write(`${errorLine(error)}\n`)
  return ExitCode.wrong
}).then((code) => {
  process.exitCode = code
  // A read from stdin that nobody waits for, or a kernel that does not let go of a request, must not keep a finished command alive.
  setTimeout(() => process.exit(), 2000).unref()
  process.stdin.unref?.()
})
