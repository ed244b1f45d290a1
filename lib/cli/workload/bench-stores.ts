import { join } from 'node:path'
import { UNCHECKED_READS, type UncheckedReads } from '../../connector/unchecked-reads.js'
import type { ArenaTensor, HiCacheNixl, OpenOptions, Target } from '../../index.js'
import type { CommandContext } from '../command.js'
import type { BenchPlan, StoreKind } from './bench-plan.js'

/** Of the cache, where --threads says nothing else. */
export const THREADS_DEFAULT = 16

export interface BenchStore {
  readonly kind: StoreKind
  readonly cache: HiCacheNixl
  /** Of the segment layout; null: nothing limits it. */
  readonly capacity: number | null
}

/** Opens one store of each kind inside `directory`, has `use` work with them, and closes them whatever happens. */
export async function withStores<T>(
  context: CommandContext, plan: BenchPlan, kinds: readonly StoreKind[], options: { directory: string; arenaBytes: number; capacity: number }, use: (stores: BenchStore[]) => Promise<T>,
): Promise<T> {
  const open = async (stores: BenchStore[]): Promise<T> => {
    const kind = kinds[stores.length]
    if (kind === undefined) return await use(stores)
    const capacity = kind.layout === 'segment' ? options.capacity : null
    const opened: Partial<OpenOptions> & UncheckedReads = {
      storageDir: [join(options.directory, nameOf(kind))], storageLayout: kind.layout, workers: kind.workers, modelName: 'bench', arenaBytes: options.arenaBytes, timeoutMs: 120_000,
      ...(kind.engine === 'auto' ? {} : { engine: kind.engine }), ...(plan.threads === null ? {} : { threads: plan.threads }), ...(capacity === null ? {} : { capacity }),
      ...(kind.checksum === 'on' ? {} : { [UNCHECKED_READS]: true }),
    }
    return await context.withCache(async cache => await open([...stores, { kind, cache, capacity }]), opened)
  }
  return await open([])
}

/** Names folders and arms. */
export function nameOf({ layout, engine, workers, checksum }: StoreKind): string { return `${layout}-${engine}-${workers}${checksum === 'on' ? '' : '-unchecked'}` }

/** Memory of `count` pages: in the arena, or ordinary. */
export function pageBuffers(cache: HiCacheNixl, zeroCopy: boolean, count: number, pageBytes: number): { buffers: Target[]; bytes: Uint8Array[] } {
  if (!zeroCopy) {
    const bytes = Array.from({ length: count }, () => new Uint8Array(pageBytes))
    return { buffers: bytes, bytes }
  }
  const tensors: ArenaTensor[] = Array.from({ length: count }, () => cache.allocate({ dtype: 'uint8', shape: [pageBytes] }))
  return { buffers: tensors, bytes: tensors.map(tensor => tensor.data as Uint8Array) }
}

const MIB = 2 ** 20
const ARENA_BYTES_MIN = 64 * MIB
const ARENA_BYTES_MAX = 4096 * MIB

/** What is allocated for zero copy may take two thirds of the arena; copies in flight need as much again. */
export function arenaBytesFor(count: number, pageBytes: number): number {
  return Math.min(ARENA_BYTES_MAX, Math.max(ARENA_BYTES_MIN, Math.ceil(count * pageBytes * 2.25 / 65536) * 65536))
}
