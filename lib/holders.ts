// Who has a device open, as far as this process can see.
import { readdir, readFile, stat } from 'node:fs/promises'
import { deviceName, mountsOf, splitDevice } from './sysfs.js'

interface Node {
  major: number
  minor: number
}

async function processHolds(pid: string, { major, minor }: Node): Promise<boolean> {
  const descriptors = await readdir(`/proc/${pid}/fd`).catch(() => [])
  for (const descriptor of descriptors) {
    const open = await stat(`/proc/${pid}/fd/${descriptor}`).catch(() => undefined)
    if (!open?.isBlockDevice()) continue
    const device = splitDevice(open.rdev)
    if (device.major === major && device.minor === minor) return true
  }
  return false
}

/** Mounts, devices on top, swap and processes that hold a device, each as a phrase for people. */
export async function holdersOf(node: Node): Promise<string[]> {
  const device = deviceName(node.major, node.minor)
  const mounts = (await mountsOf(device)).map((mount) => `the mount ${mount.mountPoint}`)
  const above = await readdir(`/sys/dev/block/${device}/holders`).catch(() => [])
  const processes: string[] = []
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    if (!(await processHolds(pid, node))) continue
    const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '')
    processes.push(`process ${pid} (${name.trim()})`)
  }
  return [...mounts, ...above.map((name) => `the device ${name}`), ...processes]
}
