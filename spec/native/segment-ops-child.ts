/** A worker thread that starts operations, says so, and waits for its end. */
import { parentPort, workerData } from 'node:worker_threads'
import { type Ask, Rig, type SharedPart } from './rig.js'

const { shared, holdFd, asks } = workerData as { shared: SharedPart; holdFd: number; asks: Ask[] }
const rig = new Rig({ directory: shared.directory, shared, holdFd, drainMs: 100 })
const { words, answers } = rig.start(asks)
void answers
while (words.every(word => rig.state(word) === 'queued')) await new Promise(resolve => { setImmediate(resolve) })
parentPort!.postMessage('begun')
