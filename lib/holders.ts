// Who has a device open, as far as this process can see.
import { readdir } from 'node:fs/promises'
import { DmloopError, problem } from './errors.js'
import { identify } from './path.js'
import { processes } from './processes.js'
import { deviceName, mountsOf } from './sysfs.js'

interface Node {
  major: number
  minor: number
}

async function processHolds(pid: string, { major, minor }: Node): Promise<boolean> {
  const descriptors = await readdir(`/proc/${pid}/fd`).catch(() => [])
  for (const descriptor of descriptors) {
    const open = await identify(`/proc/${pid}/fd/${descriptor}`).catch(() => undefined)
    if (open?.isBlockDevice === true && open.major === major && open.minor === minor) return true
  }
  return false
}

/** Mounts, devices on top and processes that hold a device, each as a phrase for people. */
export async function holdersOf(node: Node): Promise<string[]> {
  const device = deviceName(node.major, node.minor)
  const mounts = (await mountsOf(device)).map((mount) => `the mount ${mount.mountPoint}`)
  const above = await readdir(`/sys/dev/block/${device}/holders`).catch(() => [])
  const openers: string[] = []
  for (const { pid, phrase } of await processes()) {
    if (await processHolds(pid, node)) openers.push(await phrase())
  }
  return [...mounts, ...above.map((name) => `the device ${name}`), ...openers]
}

/** That a device cannot be removed, with who has it open; `cause` is the call that said so. */
export async function stillOpen(
  path: string,
  node: Node,
  timeout: number,
  cause: Error,
): Promise<DmloopError> {
  const holders = await holdersOf(node)
  const by = holders.length === 0 ? '' : ` by ${holders.join(', ')}`
  const detail = `is still open${by} after ${timeout} ms`
  return new DmloopError(problem('DMLOOP_STILL_OPEN', { file: path }, detail), undefined, { cause })
}
