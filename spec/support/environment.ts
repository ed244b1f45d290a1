import type { Workbench } from './workbench.js'

/** Sets variables of this process until the end of the spec; undefined: takes one away. For what reads them by itself, as libraries do. */
export function setEnvironment(bench: Workbench, values: Readonly<Record<string, string | undefined>>): void {
  const before = Object.fromEntries(Object.keys(values).map(name => [name, process.env[name]]))
  const set = (all: Readonly<Record<string, string | undefined>>): void => {
    for (const [name, value] of Object.entries(all)) {
      if (value === undefined) Reflect.deleteProperty(process.env, name)
      else process.env[name] = value
    }
  }
  set(values)
  bench.atEnd(() => { set(before) })
}
