import { readFileSync } from 'node:fs'
import { expect } from 'chai'
import { COMMANDS } from '../../lib/cli/registry.js'
import { cli, cliJson } from './cli-process.js'

describe('command line: usage', () => {
  it('without a command shows the commands on stderr and ends with 2', async () => {
    const { code, stdout, stderr } = await cli([])
    expect(code).to.equal(2)
    expect(stdout.toString()).to.equal('')
    for (const { path } of COMMANDS) expect(stderr).to.include(path.join(' '))
  })

  it('--help, -h and help show them on stdout and end with 0', async () => {
    for (const flag of ['--help', '-h', 'help']) {
      const { code, stdout, stderr } = await cli([flag])
      expect([code, stderr]).to.deep.equal([0, ''])
      expect(stdout.toString()).to.include('doctor').and.include('Exit codes: 0 done, 1 found something wrong, 2 wrong usage or configuration.')
    }
  })

  for (const { path, summary } of COMMANDS) {
    it(`${path.join(' ')} --help shows its usage, whatever else is on the line`, async () => {
      const { code, stdout, stderr } = await cli([...path, '--no-such-option', '--help'])
      expect([code, stderr]).to.deep.equal([0, ''])
      expect(stdout.toString()).to.match(new RegExp(`^${summary.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}\\.\n`)).and.include(`hicache-nixl ${path.join(' ')}`).and.include('--json')
      expect(Math.max(...stdout.toString().split('\n').map(line => line.length)), 'the longest line').to.be.at.most(104)
    })
  }

  it('help COMMAND is COMMAND --help', async () => {
    expect((await cli(['help', 'put'])).stdout.toString()).to.equal((await cli(['put', '--help'])).stdout.toString())
  })

  it('--version shows the version of package.json', async () => {
    const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as { version: string }
    expect((await cli(['--version'])).stdout.toString()).to.equal(`${version}\n`)
  })

  for (const [args, message] of [
    [['lss'], 'unknown command "lss". Did you mean ls?'],
    [['verifi'], 'unknown command "verifi". Did you mean verify?'],
    [['frobnicate'], 'unknown command "frobnicate". See hicache-nixl --help.'],
    [['config'], 'config needs one of: check, show'],
    [['config', 'chek'], 'unknown command "config chek". Did you mean config check?'],
    [['--json', 'ls'], 'the command comes first; found "--json". See hicache-nixl --help.'],
    [['ls', '--storage-dri', '/x'], 'unknown option --storage-dri. Did you mean --storage-dir?'],
    [['ls', '--storage', '/x'], 'unknown option --storage. Did you mean --storage-dir?'],
    [['ls', '-x'], 'unknown option -x. Known short options: -k, -q, -h.'],
    [['ls', '--json=yes'], 'option --json takes no value; found "yes"'],
    [['ls', '--config', '--json'], 'option --config needs CONFIG; found "--json". Write --config=--json if that is the value.'],
    [['ls', '--config'], 'option --config needs CONFIG'],
    [['ls', '--storage-layout', 'fil'], 'option --storage-layout must be file or segment; found "fil". Did you mean file?'],
    [['ls', '--capacity', '1000'], 'option --capacity must be from 3145728 to 1125899906842624; found 1000'],
    [['ls', '--capacity', 'much'], 'option --capacity must be a size in bytes (65536, 64KiB, 1.5GiB); found "much"'],
    [['ls', '--policy', 'fifo'], 'option --policy must be prefix-aware or lru; found "fifo"'],
    [['ls', '--fsync', 'bach'], 'option --fsync must be never or batch; found "bach". Did you mean batch?'],
    [['ls', '--model-name', 'a', '--model-name', 'b'], 'option --model-name was given twice, as "a" and as "b"'],
    [['ls', '--tp-rank', 'one'], 'option --tp-rank must be a whole number; found "one"'],
    [['ls', '--tp-size', '0'], 'option --tp-size must be at least 1; found 0'],
    [['ls', '--workers', '65'], 'option --workers must be from 1 to 64; found 65'],
    [['ls', 'a', 'b'], 'ls does not take the argument "b". Usage: hicache-nixl ls [PREFIX]'],
    [['get'], 'usage: hicache-nixl get KEY [-o FILE|-]'],
    [['rm'], 'usage: hicache-nixl rm KEY...'],
    [['put', 'k', '--shape', '2,2'], 'option --shape needs --dtype'],
    [['put', 'k', '--dtype', 'float16', '--shape', '2,x'], 'option --shape must be whole numbers above 0 with commas; found "2,x"'],
    [['put', 'k', '/no/such/file'], 'cannot read /no/such/file: '],
    [['verify', '--bytes-per-second', 'fast'], 'option --bytes-per-second must be a size in bytes (65536, 64KiB, 1.5GiB); found "fast"'],
    [['metrics', '--port', '65536'], 'option --port must be from 0 to 65535; found 65536'],
    [['clear', '--model-name', 'm'], 'clear removes every page of the model "m". Repeat it with --yes to do so.'],
    [['get', 'k', '--json', '-o', '-'], '--json and -o - both want stdout. Give -o a file.'],
  ] as const) {
    it(`refuses: ${args.join(' ')}`, async () => {
      const { code, stdout, stderr } = await cli(args)
      expect(code).to.equal(2)
      expect(stderr).to.match(/^hicache-nixl: ERR_USAGE: [^\n]*\n$/)
      expect(stderr).to.include(message)
      if (!(args as readonly string[]).includes('--json')) expect(stdout.toString()).to.equal('')
    })
  }

  it('an error is a JSON object too with --json, and the same line on stderr', async () => {
    const { code, json, stderr } = await cliJson<{ error: { code: string; message: string } }>(['ls', '--nope'])
    expect(code).to.equal(2)
    expect(json).to.deep.equal({ error: { code: 'ERR_USAGE', message: 'unknown option --nope' } })
    expect(stderr).to.equal('hicache-nixl: ERR_USAGE: unknown option --nope\n')
  })

  it('an error shows its stack only with HICACHE_NIXL_DEBUG', async () => {
    expect((await cli(['ls', '--nope'])).stderr).to.not.include('    at ')
    expect((await cli(['ls', '--nope'], { env: { HICACHE_NIXL_DEBUG: '1' } })).stderr).to.include('    at ')
  })
})
