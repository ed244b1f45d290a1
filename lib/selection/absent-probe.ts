import type { PluginName } from '../config/schema-facts.js'
import type { PluginProbe, ProbeResult } from './plugin-probe.js'

/** A plugin that this version does not have: it says so, and what it will need. */
export class AbsentProbe implements PluginProbe {
  readonly name: PluginName
  readonly #title: string
  readonly #needs: string

  constructor(name: PluginName, title: string, needs: string) {
    this.name = name
    this.#title = title
    this.#needs = needs
  }

  probe(): Promise<ProbeResult> {
    return Promise.resolve({
      usable: false,
      reason: `${this.#title} is not built into this version of hicache-nixl`,
      remedy: `use plugin posix; ${this.#title} comes with a later version, and then needs ${this.#needs}`,
    })
  }
}
