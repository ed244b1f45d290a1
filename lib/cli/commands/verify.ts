import { ExitCode, type CommandContext, type OptionSpecs } from '../command.js'
import { formatBytes, formatCount, formatDuration } from '../format.js'
import { IDENTITY_OPTIONS, STORE_OPTIONS } from '../store-options.js'
import { table } from '../style.js'

export const name = 'verify'
export const summary = 'Read every page and check it'
export const usage = ''
export const options: OptionSpecs = {
  drop: { type: 'boolean', help: 'Remove pages that fail the check.' },
  'bytes-per-second': { type: 'string', value: 'SIZE', help: 'Read at most this much a second (64MiB, 1g), to leave the device to others. Default: no limit.' },
  ...STORE_OPTIONS, ...IDENTITY_OPTIONS,
}
export const details = 'Ends with 1 when a page is corrupt or has gone missing. "unverified" are pages of the Python connector: they have no checksum, so nothing can be said about them.'

export async function run(context: CommandContext): Promise<number> {
  const bytesPerSecond = context.options.bytes('bytes-per-second', { min: 4096 })
  return await context.withCache(async (cache) => {
    const progress = context.progress({ label: 'verify' })
    const started = performance.now()
    let counting = progress.drawsBar
    // Beside the verification, not before it: the first bytes need not wait until all pages have been listed.
    const counted = (async () => {
      let total = 0
      if (!counting) return
      for await (const { bytes } of cache.entries()) {
        if (!counting) return
        total += bytes
      }
      progress.setTotal(total)
    })().catch(() => { /* Without a total the display counts up. */ })
    try {
      const result = await cache.verify({
        drop: context.options.flag('drop'),
        signal: context.signal,
        onProgress: ({ pages, bytes }) => progress.update(bytes, `${formatCount(pages)} pages`),
        ...(bytesPerSecond === undefined ? {} : { bytesPerSecond }),
      })
      progress.finish()
      const { pages, bytes, ok, corrupt, unverified, missing } = result
      const wrong = corrupt > 0 || missing > 0
      if (context.json) {
        await context.output.json({ pages, bytes, ok, corrupt, unverified, missing })
      } else {
        const { style } = context
        const bad = (count: number): string => count > 0 ? style.red(formatCount(count)) : '0'
        await context.output.write(table([
          ['pages', formatCount(pages), formatBytes(bytes)],
          ['ok', style.green(formatCount(ok))],
          ['corrupt', bad(corrupt), corrupt > 0 && context.options.flag('drop') ? 'removed' : ''],
          ['unverified', unverified > 0 ? style.yellow(formatCount(unverified)) : '0', unverified > 0 ? 'no checksum: written by the Python connector' : ''],
          ['missing', bad(missing)],
        ], 'lr'))
        context.note(`took ${formatDuration((performance.now() - started) / 1000)}`)
      }
      return wrong ? ExitCode.wrong : ExitCode.done
    } finally {
      progress.finish()
      counting = false
      await counted
    }
  })
}
