// The processes of this machine, from /proc.
import { readdir } from 'node:fs/promises'
import type { PathFacts } from './native.js'
import { identify } from './path.js'
import { readText } from './sysfs.js'

/** "process 123 (name)". */
export async function describeProcess(pid: string): Promise<string> {
  const name = await readText(`/proc/${pid}/comm`).catch(() => undefined)
  return `process ${pid} (${name ?? ''})`
}

export const processIds = async (): Promise<string[]> =>
  (await readdir('/proc')).filter((name) => /^\d+$/.test(name))

/** Describes the processes that meet a condition, as far as this one can see. */
export async function describeProcessesWhere(
  meets: (pid: string) => Promise<boolean>,
): Promise<string[]> {
  const found: string[] = []
  for (const pid of await processIds()) {
    if (await meets(pid)) found.push(await describeProcess(pid))
  }
  return found
}

/** Everything that a process has open; nothing where this process may not read it. */
export async function* openFilesOf(pid: string): AsyncIterable<PathFacts & { descriptor: string }> {
  for (const descriptor of await readdir(`/proc/${pid}/fd`).catch(() => [])) {
    const facts = await identify(`/proc/${pid}/fd/${descriptor}`).catch(() => undefined)
    if (facts) yield { descriptor, ...facts }
  }
}
