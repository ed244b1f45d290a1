export interface HealthReport {
  readonly status: 'ok' | 'degraded' | 'closing' | 'closed'
  /** One sentence for each cause that stands, oldest first. */
  readonly reasons: string[]
}

/**
 * What stands between the cache and full service. A cause (`directory:/mnt/a`, `worker`, ...) is raised with a reason and cleared when it is gone;
 * raising it again replaces its reason and keeps its place. Causes are few and named by the code, so nothing here has to be bounded by time.
 */
export class Health {
  readonly #causes = new Map<string, string>()
  #stage: 'open' | 'closing' | 'closed' = 'open'

  raise(cause: string, reason: string): void { this.#causes.set(cause, reason) }

  clear(cause: string): void { this.#causes.delete(cause) }

  closing(): void { if (this.#stage === 'open') this.#stage = 'closing' }

  closed(): void { this.#stage = 'closed' }

  /** A copy: later changes do not show in it. */
  report(): HealthReport {
    const reasons = [...this.#causes.values()]
    if (this.#stage !== 'open') return { status: this.#stage, reasons }
    return { status: reasons.length === 0 ? 'ok' : 'degraded', reasons }
  }
}
