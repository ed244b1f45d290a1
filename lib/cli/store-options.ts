import { configSchema } from '../config/config-schema.generated.js'
import type { OpenOptions } from '../index.js'
import type { OptionSpecs, Options } from './command.js'

const { minimum, maximum } = configSchema.properties.capacity
/** What a capacity may be. */
export const CAPACITY = { min: minimum, max: maximum } as const

/** Which store a command works on. */
export const STORE_OPTIONS: OptionSpecs = {
  config: { type: 'string', value: 'CONFIG', help: 'Configuration: FILE or @FILE (.toml, .json, .yaml), or an inline text. Default: none, the built-in defaults.' },
  'storage-dir': {
    type: 'string', multiple: true, value: 'DIR',
    help: 'Storage directory; repeat it for several. Default: SGLANG_HICACHE_NIXL_BACKEND_STORAGE_DIR, else /tmp/hicache_storage.',
  },
  'storage-layout': { type: 'string', choices: ['file', 'segment'], help: 'Layout of the store. Default: the configuration\'s, else what the directory holds.' },
  capacity: { type: 'string', value: 'SIZE', help: 'Bytes on the disk of the segment layout, in each storage directory. Default: the configuration\'s, else all but a tenth of the file system.' },
  policy: { type: 'string', choices: ['prefix-aware', 'lru'], help: 'Which page of the segment layout makes room for a new one. Default: the configuration\'s, else prefix-aware.' },
  fsync: { type: 'string', choices: ['never', 'batch'], help: 'Whether writes of the segment layout are on the disk when they are answered. Default: the configuration\'s, else never.' },
  'directory-scheme': { type: 'string', choices: ['bucketed', 'flat'], help: 'Where a page file lies in its directory. Default: bucketed.' },
  'object-prefix': { type: 'string', value: 'PREFIX', help: 'Stands before every stored key in the name of its object (plugin obj). Default: the configuration\'s, else none.' },
  plugin: { type: 'string', choices: ['auto', '3fs', 'posix', 'gds_mt', 'gds', 'obj'], help: 'Storage plugin; wins over the configuration\'s selector.' },
  agent: { type: 'string', choices: ['auto', 'embedded', 'nixl'], help: 'Native agent. Default: the configuration\'s, else auto.' },
  engine: { type: 'string', choices: ['auto', 'io_uring', 'aio', 'posix_aio'], help: 'Engine of the POSIX plugin; wins over the configuration.' },
  workers: { type: 'string', value: 'N', help: 'Worker threads, 1 to 64.' },
}

/** Whose pages: these make up the namespace. */
export const IDENTITY_OPTIONS: OptionSpecs = {
  'model-name': { type: 'string', value: 'NAME', help: 'Model name; part of every stored key.' },
  'tp-rank': { type: 'string', value: 'N', help: 'Tensor-parallel rank. Default 0.' },
  'tp-size': { type: 'string', value: 'N', help: 'Tensor-parallel size. Default 1.' },
  'pp-rank': { type: 'string', value: 'N', help: 'Pipeline-parallel rank. Default 0.' },
  'pp-size': { type: 'string', value: 'N', help: 'Pipeline-parallel size. Default 1.' },
  'cp-rank': { type: 'string', value: 'N', help: 'Context-parallel rank. Default 0.' },
  'cp-size': { type: 'string', value: 'N', help: 'Context-parallel size. Default 1.' },
  mla: { type: 'boolean', help: 'The model is an MLA model: its keys carry no rank.' },
  fingerprint: { type: 'string', value: 'TEXT', help: 'Fingerprint of weights, dtype and page size; part of every page\'s identity.' },
}

/** A bare file name is no configuration text; on a command line it is meant as `@name`. */
export function configText(text: string): string {
  return /^\s*[@{]/.test(text) || text.trim() === '' ? text : `@${text}`
}

/**
 * What these options say, as options of HiCacheNixl.open(). What was not given is left out, so that the configuration decides. `specs`: the command's own; an
 * option that means something else there, like the capacity of a replay, is that command's to pass on.
 */
export function openOptionsOf(options: Options, specs: OptionSpecs): OpenOptions {
  const isOfStore = (name: string): boolean => specs[name] === STORE_OPTIONS[name]
  const out: Record<string, unknown> = {}
  const put = (name: string, value: unknown): void => { if (value !== undefined) out[name] = value }
  const config = options.string('config')
  if (config !== undefined) out.config = configText(config)
  const directories = options.strings('storage-dir')
  if (directories.length > 0) out.storageDir = directories
  put('storageLayout', options.string('storage-layout'))
  if (isOfStore('capacity')) put('capacity', options.bytes('capacity', CAPACITY))
  if (isOfStore('policy')) put('evictionPolicy', options.string('policy'))
  if (isOfStore('fsync')) put('fsync', options.string('fsync'))
  put('directoryScheme', options.string('directory-scheme'))
  put('objectPrefix', options.string('object-prefix'))
  put('plugin', options.string('plugin'))
  put('agent', options.string('agent'))
  if (isOfStore('engine')) put('engine', options.string('engine'))
  if (isOfStore('workers')) put('workers', options.integer('workers', { min: 1, max: 64 }))
  put('modelName', options.string('model-name'))
  for (const [name, option] of [['tpRank', 'tp-rank'], ['ppRank', 'pp-rank'], ['cpRank', 'cp-rank']] as const) put(name, options.integer(option))
  for (const [name, option] of [['tpSize', 'tp-size'], ['ppSize', 'pp-size'], ['cpSize', 'cp-size']] as const) put(name, options.integer(option, { min: 1 }))
  if (options.flag('mla')) out.isMlaModel = true
  put('fingerprint', options.string('fingerprint'))
  return out
}
