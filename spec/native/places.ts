import type { EngineName } from '../../lib/transfer/native-binding.js'
import { skipUnlessCi } from '../support/planned-faults.js'
import type { Workbench } from '../support/workbench.js'
import { addon, Rig, type RigOptions } from './rig.js'

/** Where the data of reads moves: through each engine, or on the pool's threads alone. */
export interface Place { readonly name: string; readonly engine: EngineName; readonly direct: boolean; readonly parent?: string; readonly reading: string }

export const PLACES: readonly Place[] = [
  { name: 'aio', engine: 'aio', direct: true, reading: 'aio.complete' },
  { name: 'io_uring', engine: 'io_uring', direct: true, reading: 'ring.complete' },
  { name: 'posix_aio', engine: 'posix_aio', direct: true, reading: 'paio.complete' },
  { name: 'the pool, buffered', engine: 'aio', direct: false, reading: 'preadv' },
  { name: 'the pool, tmpfs', engine: 'aio', direct: false, parent: '/dev/shm', reading: 'preadv' }
]

/** A rig on a new directory. Pending where the machine lacks the engine or O_DIRECT; a failure there in CI. */
export async function rigOn(place: Place, bench: Workbench, context: Mocha.Context, options: Partial<RigOptions> = {}): Promise<Rig> {
  const directory = await bench.directory(place.parent)
  if (place.direct) {
    const report = await addon.probeDirectory(directory)
    if (!report.engine) skipUnlessCi(context, `${directory}: ${report.engineReason}`)
    const engine = (await addon.probeEngines()).find(({ name }) => name === place.engine)!
    if (!engine.usable) skipUnlessCi(context, `${place.engine}: ${engine.reason}`)
  }
  const rig = new Rig({ directory, engine: place.engine, direct: place.direct, ...options })
  bench.atEnd(() => rig.end())
  return rig
}
