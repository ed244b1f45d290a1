import { expect } from 'chai'
import { Progress, type ProgressOptions } from '../../lib/cli/progress.js'

/** A stream that keeps what it gets, and a clock that is set by hand. */
class Screen {
  text = ''
  ms = 0
  readonly isTTY: boolean
  readonly columns: number
  constructor(isTTY: boolean, columns = 80) {
    this.isTTY = isTTY
    this.columns = columns
  }

  write(text: string): void { this.text += text }
  progress(options: Partial<ProgressOptions> = {}): Progress {
    return new Progress({ label: 'verify', stream: this, now: () => this.ms, ...options })
  }

  /** What a terminal shows at the end: only the last drawing of each line. */
  get shown(): string { return this.text.split('\n').map(line => line.slice(line.lastIndexOf('\u001b[2K') < 0 ? 0 : line.lastIndexOf('\u001b[2K') + 4)).join('\n') }
}

describe('progress', () => {
  it('redraws one line on a terminal, not more often than ten times a second', () => {
    const screen = new Screen(true)
    const progress = screen.progress({ total: 4 * 2 ** 20 })
    for (let step = 0; step < 1000; step++) {
      screen.ms = step
      progress.update(step * 1024)
    }
    expect(screen.text.split('\r').length - 1).to.be.within(9, 11)
    expect(screen.text).to.not.include('\n')
    expect(screen.shown).to.match(/^verify .* 21 % {2}900\.0 KiB \/ 4\.0 MiB/)
  })

  it('never fills a line of the terminal to its end', () => {
    for (const columns of [20, 40, 80, 200]) {
      const screen = new Screen(true, columns)
      const progress = screen.progress({ total: 100 * 2 ** 30 })
      screen.ms = 5000
      progress.update(37 * 2 ** 30, 'hit rate 36.6 %, a long remark that may not fit')
      expect(screen.shown.length).to.be.below(columns)
    }
  })

  it('writes plain lines to a log, one every few seconds', () => {
    const screen = new Screen(false)
    const progress = screen.progress({ total: 1000, unit: 'pages' })
    for (let second = 0; second <= 30; second++) {
      screen.ms = second * 1000
      progress.update(second * 33, 'hit rate 10.0 %')
    }
    const lines = screen.text.trimEnd().split('\n')
    expect(lines).to.have.length(6)
    expect(lines[1]).to.equal('verify: 33 % 330 / 1,000 pages, 33 pages/s, 20 s left, hit rate 10.0 %')
    // eslint-disable-next-line no-control-regex -- none may be in a log
    expect(screen.text).to.not.match(/[\r\u001b]/)
  })

  it('says nothing with quiet', () => {
    for (const terminal of [true, false]) {
      const screen = new Screen(terminal)
      const progress = screen.progress({ quiet: true })
      screen.ms = 60_000
      progress.update(1)
      progress.log('a line')
      progress.finish('done')
      expect(screen.text).to.equal('')
    }
  })

  it('goes away at the end and leaves the summary, once', () => {
    const screen = new Screen(true)
    const progress = screen.progress({ total: 10 })
    progress.update(5)
    progress.finish('done')
    progress.finish('again')
    progress.update(6)
    expect(screen.shown).to.equal('done\n')
  })

  it('puts a line above the bar', () => {
    const screen = new Screen(true)
    const progress = screen.progress({ total: 10, unit: 'pages' })
    progress.update(5)
    progress.log('page x is corrupt')
    expect(screen.shown).to.match(/^page x is corrupt\nverify .*50 %/)
  })

  it('counts up where nobody knows the total', () => {
    const screen = new Screen(false)
    const progress = screen.progress({ unit: 'pages' })
    screen.ms = 10_000
    progress.add(1234)
    expect(screen.text).to.equal('verify: 1,234 pages, 123 pages/s, 10 s\n')
  })
})
