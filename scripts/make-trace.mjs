// Makes a trace of chat requests for `hicache-nixl replay`: node scripts/make-trace.mjs [--requests N] [--seed N] > FILE
//
// One JSON object a line, in the form of the published traces of chat services: milliseconds since the start, tokens of the prompt and of the answer, and the ids
// of the prompt's blocks of 512 tokens. Equal ids mean an equal prefix. Every conversation starts with the one system prompt, a turn's prompt is the one
// before with its answer and the next question, and the last, partial block of a prompt has an id of its own. The same arguments give the same bytes.
import { parseArgs } from 'node:util'

const { values } = parseArgs({ options: { requests: { type: 'string', default: '600' }, seed: { type: 'string', default: '1' } } })
const requests = Number(values.requests)
const BLOCK_TOKENS = 512

// A linear congruential generator is random enough here, and the same everywhere.
let state = (Number(values.seed) ^ 0x9e3779b9) >>> 0
function random() {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0
  return state / 2 ** 32
}
/** Many short ones and a few long ones, as people write. */
const tokens = (mean) => Math.max(1, Math.round(-Math.log(1 - random()) * mean))

let nextId = 1
let timestamp = 0
const conversations = []
const lines = []
while (lines.length < requests) {
  timestamp += Math.round(-Math.log(1 - random()) * 300)
  // A third of the requests go on with a conversation, mostly with a recent one.
  let conversation = random() < 0.35 && conversations.length > 0 ? conversations[Math.max(0, conversations.length - 1 - Math.floor(tokens(20)))] : undefined
  if (!conversation) {
    // Block 0 is the system prompt, the same for all.
    conversation = { full: [0], length: BLOCK_TOKENS }
    conversations.push(conversation)
  }
  conversation.length += tokens(3000)
  while ((conversation.full.length + 1) * BLOCK_TOKENS <= conversation.length) conversation.full.push(nextId++)
  const ids = [...conversation.full]
  if (ids.length * BLOCK_TOKENS < conversation.length) ids.push(nextId++)
  const answer = tokens(350)
  lines.push(JSON.stringify({ timestamp, input_length: conversation.length, output_length: answer, hash_ids: ids }))
  conversation.length += answer
}
process.stdout.write(`${lines.join('\n')}\n`)
