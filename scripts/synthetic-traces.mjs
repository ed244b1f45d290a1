// Traces of other kinds than the one in docs/benchmarks.md, to compare eviction policies on: `node scripts/synthetic-traces.mjs FOLDER [SEED]`
// writes one file for each kind, in the format that `hicache-nixl replay` reads. The same seed gives the same traces.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { argv, exit, stderr } from 'node:process'

const REFERENCES = 120_000
let nextPage = 0
const pages = count => Array.from({ length: count }, () => nextPage++)

function randomNumbers(seed) {
  let state = seed >>> 0 || 1
  return () => {
    state = (state ^ state << 13) >>> 0
    state = (state ^ state >>> 17) >>> 0
    state = (state ^ state << 5) >>> 0
    return state / 2 ** 32
  }
}

const between = (random, least, most) => least + Math.floor(random() * (most - least + 1))

/** Ranks from 0, of which the n-th comes with a probability like 1 / n ** exponent. */
function zipf(ranks, exponent, random) {
  const sums = []
  for (let rank = 0, sum = 0; rank < ranks; rank++) sums.push(sum += 1 / (rank + 1) ** exponent)
  return () => {
    const wanted = random() * sums[ranks - 1]
    const found = sums.findIndex(sum => sum >= wanted)
    return found < 0 ? ranks - 1 : found
  }
}

function requestsOf(references, next) {
  const requests = []
  for (let count = 0; count < references;) {
    const request = next(requests.length)
    requests.push(request)
    count += request.length
  }
  return requests
}

const kinds = {
  /** Long shared system prompts, each with a question behind it that nobody asks again. */
  prompts(seed, references) {
    const random = randomNumbers(seed)
    const prompts = Array.from({ length: 40 }, () => pages(between(random, 10, 120)))
    const rank = zipf(40, 0.7, random)
    return requestsOf(references, () => [...prompts[rank()], ...pages(between(random, 1, 30))])
  },
  /** Conversations of users, some of whom talk much more than others. */
  chats(seed, references, users = 1500, exponent = 0.7) {
    const random = randomNumbers(seed)
    const open = []
    const rank = zipf(users, exponent, random)
    return requestsOf(references, () => {
      const user = rank()
      const over = open[user] === undefined || random() < 0.15 || open[user].length > 150
      open[user] = over ? pages(between(random, 1, 12)) : [...open[user], ...pages(between(random, 1, 6))]
      return open[user]
    })
  },
  /** Conversations, and every now and then a long document that is read once. */
  scans(seed, references) {
    const random = randomNumbers(seed)
    const chats = kinds.chats(seed + 1, references, 400, 0.9)
    let next = 0
    return requestsOf(references, () => random() < 0.12 ? pages(between(random, 50, 300)) : chats[next++])
  },
  /** The same 150 documents, one after the other, again and again. */
  loop(_seed, references) {
    const documents = Array.from({ length: 150 }, (_, index) => pages(10 + index * 37 % 60))
    return requestsOf(references, index => documents[index % 150])
  },
  /** Few-shot prompts that branch: six levels of four choices, some likelier than others, and a private end. */
  tree(seed, references) {
    const random = randomNumbers(seed)
    const edges = new Map()
    const rank = zipf(4, 0.8, random)
    return requestsOf(references, () => {
      const request = []
      for (let level = 0, path = ''; level < 6; level++) {
        path += rank()
        if (!edges.has(path)) edges.set(path, pages(5))
        request.push(...edges.get(path))
      }
      return [...request, ...pages(3)]
    })
  },
  /** Single pages without chains, some likelier than others. */
  single(seed, references) {
    const rank = zipf(40_000, 0.9, randomNumbers(seed))
    const all = pages(40_000)
    return requestsOf(references, () => [all[rank()]])
  },
  /** Agents that take up their chain again and again for a short while, and then never more. */
  agents(seed, references) {
    const random = randomNumbers(seed)
    const prompts = Array.from({ length: 5 }, () => pages(20))
    const active = []
    return requestsOf(references, () => {
      if (active.length < 30 || random() < 0.02) active.push({ chain: [...prompts[between(random, 0, 4)], ...pages(between(random, 2, 10))], left: between(random, 3, 40) })
      const which = Math.floor(random() * active.length)
      const agent = active[which]
      agent.chain = [...agent.chain, ...pages(between(random, 1, 4))]
      if (--agent.left <= 0) active.splice(which, 1)
      return agent.chain
    })
  },
  /** Documents, four of ten of which come once more, 300 requests later. */
  twice(seed, references) {
    const random = randomNumbers(seed)
    const later = []
    return requestsOf(references, index => {
      if (later.length > 0 && later[0].at <= index) return [...later.shift().document, ...pages(1)]
      const document = pages(between(random, 5, 40))
      if (random() < 0.4) later.push({ at: index + 300, document })
      return document
    })
  },
  /** Five of these, one after the other. */
  phases(seed, references) {
    const each = references / 6
    return ['chats', 'loop', 'prompts', 'scans', 'tree', 'chats'].flatMap((kind, index) => kinds[kind](seed + index, each))
  },
}

const [folder, seed = '7'] = argv.slice(2)
if (folder === undefined) {
  stderr.write('usage: node scripts/synthetic-traces.mjs FOLDER [SEED]\n')
  exit(2)
}
mkdirSync(folder, { recursive: true })
for (const [name, make] of Object.entries(kinds)) {
  nextPage = 0
  const requests = make(Number(seed), REFERENCES)
  writeFileSync(join(folder, `${name}.jsonl`), requests.map(ids => JSON.stringify({ hash_ids: ids }) + '\n').join(''))
}
