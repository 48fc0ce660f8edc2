// What else uses the blocks of a file: swap space, its filesystem and loop devices.
import { loopPath } from './loop.js'
import type { FileFacts, Look } from './native.js'
import { identify } from './path.js'
import { unescapePath } from './sysfs.js'

export interface Uses {
  swap: boolean
  /** What it is to its own filesystem ("the journal"), if it is one of those files. */
  filesystem?: string | undefined
  /** The nodes of the loop devices that show the file. */
  loops: string[]
}

/** What the kernel calls a file: its filesystem's device, and its inode there. */
type Inode = Pick<FileFacts, 'major' | 'minor' | 'inode'>

export const isSame = (a: Inode, b: Inode): boolean =>
  a.major === b.major && a.minor === b.minor && a.inode === b.inode

/**
 * The loop driver is asked rather than sysfs, whose paths mean nothing in another mount namespace. Who may
 * not ask it, may not map either: a plan goes on without the answer.
 */
export const usesOf = async ({ facts, swaps, filesystemFiles, loops }: Look): Promise<Uses> => ({
  swap: await isSwap(facts, swaps),
  filesystem: filesystemFiles.find(({ inode }) => inode === facts.inode)?.role,
  loops: loops.filter((loop) => isSame(loop, facts)).map(({ number }) => loopPath(number)),
})

/** /proc/swaps (proc(5)): a header, then a line an area, which starts with its path and its type. */
async function isSwap(file: Inode, swaps: string): Promise<boolean> {
  for (const area of swaps.split('\n').slice(1)) {
    const [path = '', type] = area.split(/\s+/)
    if (type !== 'file') continue
    const found = await identify(unescapePath(path)).catch(() => undefined)
    if (!found) continue
    const inode = { major: found.fsMajor, minor: found.fsMinor, inode: found.inode }
    if (isSame(inode, file)) return true
  }
  return false
}
