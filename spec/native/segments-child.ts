/** A writer in another process: `node segments-child.js <directory>` does what it is told by messages, until it is killed. */
import { addon } from './rig.js'
import { put, type PutPage } from './segment-records.js'

export type ChildCommand =
  | { readonly do: 'open' }
  | { readonly do: 'grant'; readonly dataBytes: number; readonly capacity: number; readonly times: number }
  | { readonly do: 'put'; readonly pages: readonly PutPage[] }
  | { readonly do: 'close' }
export type ChildAnswer = { readonly value: unknown } | { readonly code: string }

export const EXTENT = 16_384

function serve(directory: string): void {
  const { segments } = addon
  let folder = ''
  let ownerFd = -1
  const obey = async (command: ChildCommand): Promise<unknown> => {
    switch (command.do) {
      case 'open': {
        const opened = await segments.open(directory)
        folder = opened.folder
        ownerFd = opened.ownerFd
        return opened
      }
      case 'grant': {
        const answers = []
        for (let i = 0; i < command.times; i++) {
          answers.push(await segments.grant(directory, folder, { dataBytes: command.dataBytes, extentBytes: EXTENT, capacity: command.capacity, keepFreeBytes: 0, direct: false }))
        }
        return answers
      }
      case 'put': put(directory, folder, command.pages); return folder
      case 'close': await segments.closeWriter(directory, folder, ownerFd); return folder
    }
  }
  process.on('message', (command: ChildCommand) => {
    obey(command).then(value => process.send!({ value }), (error: unknown) => process.send!({ code: (error as { code: string }).code }))
  })
  process.send!({ value: 'ready' })
}

if (process.send && process.argv[2] !== undefined) serve(process.argv[2])
