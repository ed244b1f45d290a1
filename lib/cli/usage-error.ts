/** The command line itself is wrong: unknown command or option, a value that is none. Ends with exit code 2. */
export class UsageError extends Error {
  readonly code = 'USAGE'
  /** A second line: what was probably meant, or where to read on. */
  readonly hint: string | undefined

  constructor(message: string, hint?: string) {
    super(message)
    this.hint = hint
  }

  override get name(): string { return 'UsageError' }
}
