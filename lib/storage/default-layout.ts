export type StorageLayout = 'file' | 'segment'

export interface LayoutQuestion {
  /** `storage_layout`; null when nobody set it. */
  readonly configured: StorageLayout | null
  /** The environment variable that names the directories (NixlBackendConfig.storageDirVariable). */
  readonly storageDirVariable: string | null
  /** The directories as their probes found them. */
  readonly directories: readonly { readonly path: string; readonly pageFiles: boolean }[]
}

export interface LayoutChoice {
  readonly layout: StorageLayout
  /** Why, as a sentence for a log or for `doctor`. */
  readonly reason: string
}

/**
 * Which layout a cache takes: the configured one; when that is not said, segments, except where somebody else may look for a page in a file of its own. That is
 * so in directories that hold such pages already (they would be misses), and in those that SGLang's variable names (its Python connector reads and writes
 * files there). One layout for all directories: a page's place is told by its key and their number, whichever of them was used before.
 */
export function chooseLayout({ configured, storageDirVariable, directories }: LayoutQuestion): LayoutChoice {
  if (configured !== null) return { layout: configured, reason: `storage_layout says ${configured}.` }
  const used = directories.find(({ pageFiles }) => pageFiles)
  if (used !== undefined) return { layout: 'file', reason: `${used.path} holds pages one per file already; storage_layout = "segment" would leave them unread.` }
  if (storageDirVariable !== null) {
    return { layout: 'file', reason: `${storageDirVariable} names the directories, where SGLang's Python connector keeps a file per page; storage_layout = "segment" is faster.` }
  }
  return { layout: 'segment', reason: 'storage_layout is not set, and the directories hold no page files: segments are faster.' }
}
