/** One turn of one user: the prompt is all that was said before, and the new message; the answer follows it. */
export interface ChatTurn {
  readonly turn: number
  readonly user: string
  /** Token ids of system prompt, history and message. */
  readonly prompt: Uint32Array
  /** The prompt and the answer's tokens: what there are keys and values for once the turn is over. */
  readonly whole: Uint32Array
}

export interface ChatOptions {
  readonly users: readonly string[]
  readonly turns: number
  readonly systemTokens: number
}

const VOCABULARY = 128_000

/**
 * A small chat service's day: several users with one system prompt, each with a conversation that grows. Always the same tokens, so that two runs of the
 * demo show the same hits.
 */
export class ChatWorkload {
  private state = 0x2545f491

  constructor(private readonly options: ChatOptions) {}

  /** Turn by turn, the users one after the other. */
  *turns(): Generator<ChatTurn> {
    const system = this.tokens(this.options.systemTokens)
    const histories = new Map(this.options.users.map(user => [user, system]))
    for (let turn = 1; turn <= this.options.turns; turn++) {
      for (const user of this.options.users) {
        const prompt = joined(histories.get(user)!, this.tokens(60 + this.below(180)))
        const whole = joined(prompt, this.tokens(100 + this.below(250)))
        histories.set(user, whole)
        yield { turn, user, prompt, whole }
      }
    }
  }

  private tokens(count: number): Uint32Array { return Uint32Array.from({ length: count }, () => this.below(VOCABULARY)) }

  private below(limit: number): number {
    this.state ^= this.state << 13
    this.state ^= this.state >>> 17
    this.state ^= this.state << 5
    return (this.state >>> 0) % limit
  }
}

function joined(first: Uint32Array, second: Uint32Array): Uint32Array {
  const both = new Uint32Array(first.length + second.length)
  both.set(first)
  both.set(second, first.length)
  return both
}
