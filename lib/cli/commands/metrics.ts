import { ExitCode, type CommandContext, type OptionSpecs } from '../command.js'
import { DirectoryUsage } from '../directory-usage.js'
import { MetricsServer } from '../metrics-server.js'
import { smallCache } from '../small-cache.js'
import { IDENTITY_OPTIONS, STORE_OPTIONS } from '../store-options.js'

export const name = 'metrics'
export const summary = 'Print metrics, or serve them on loopback'
export const usage = '[--port N]'
export const options: OptionSpecs = {
  port: { type: 'string', value: 'N', help: 'Serve /metrics and /health on 127.0.0.1:N until interrupted; 0 takes a free port. Default: print once.' },
  'refresh-seconds': { type: 'string', value: 'N', help: 'How old the directory sizes may get; counting reads every folder. Default 60.' },
  ...STORE_OPTIONS, ...IDENTITY_OPTIONS,
}
export const details = 'Opens a cache of its own on the directories: sizes, health and plugin are those of the store, the traffic counters only its own. ' +
  'For the counters of your service, serve cache.metrics() from it.'

export async function run(context: CommandContext): Promise<number> {
  const port = context.options.integer('port', { min: 0, max: 65535 })
  const refreshSeconds = context.options.integer('refresh-seconds', { min: 1, max: 86400 }) ?? 60
  return await context.withCache(async (cache) => {
    const usage = new DirectoryUsage(cache, refreshSeconds * 1000, context.signal)
    if (port === undefined) {
      await usage.refresh()
      if (context.json) await context.output.json({ health: cache.health(), stats: cache.stats(), directories: usage.directories })
      else await context.output.write(cache.metrics() + usage.text())
      return ExitCode.done
    }
    const server = new MetricsServer(cache, usage)
    const url = await server.listen(port)
    try {
      if (context.json) await context.output.json({ url, port: Number(new URL(url).port) })
      else context.note(`serving ${url}/metrics and ${url}/health; Ctrl-C ends it`)
      if (!context.signal.aborted) {
        await new Promise<void>((resolve) => context.signal.addEventListener('abort', () => resolve(), { once: true }))
      }
      return ExitCode.done
    } finally {
      await server.close()
    }
  }, smallCache(context.options))
}
