// What else uses the blocks of a file: swap space and loop devices.
import { stat } from 'node:fs/promises'
import { listLoops } from './loop.js'
import type { FileFacts } from './native.js'
import { readText, splitDevice, unescapePath } from './sysfs.js'

export interface Uses {
  swap: boolean
  /** The nodes of the loop devices that show the file. */
  loops: string[]
}

/** What the kernel calls a file: its filesystem's device, and its inode there. */
type Inode = Pick<FileFacts, 'major' | 'minor' | 'inode'>

export const isSame = (a: Inode, b: Inode): boolean =>
  a.major === b.major && a.minor === b.minor && a.inode === b.inode

export const usesOf = async (file: Inode): Promise<Uses> => ({
  swap: await isSwap(file),
  loops: await loopsOf(file),
})

/** /proc/swaps (proc(5)): a header, then a line an area, which starts with its path and its type. */
async function isSwap(file: Inode): Promise<boolean> {
  const areas = ((await readText('/proc/swaps')) ?? '').split('\n').slice(1)
  for (const area of areas) {
    const [path = '', type] = area.split(/\s+/)
    if (type !== 'file') continue
    const found = await stat(unescapePath(path), { bigint: true }).catch(() => undefined)
    if (!found) continue
    const inode = { ...splitDevice(Number(found.dev)), inode: found.ino.toString() }
    if (isSame(inode, file)) return true
  }
  return false
}

/**
 * The driver is asked rather than sysfs, whose paths mean nothing in another mount namespace. Who may not
 * ask, may not map either: a plan goes on without the answer.
 */
async function loopsOf(file: Inode): Promise<string[]> {
  return (await listLoops()).filter((loop) => isSame(loop, file)).map(({ path }) => path)
}
