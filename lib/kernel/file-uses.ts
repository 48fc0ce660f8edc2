// What else uses the blocks of a file: swap, its filesystem, loop devices.
import { loopPath } from './loop.js'
import type { FileFacts, FileProbe } from './native.js'
import { identify } from './path.js'
import { unescapePath } from './sysfs.js'

export interface Uses {
  swap: boolean
  /** What its filesystem uses it for ("the journal"), if it does. */
  filesystem?: string | undefined
  /** The nodes of the loop devices that the file backs. */
  loops: string[]
}

/** A file as /proc shows it: its filesystem's device, and its inode there. */
export type Inode = Pick<FileFacts, 'major' | 'minor' | 'inode'>

export const isSameFile = (a: Inode, b: Inode): boolean =>
  a.major === b.major && a.minor === b.minor && a.inode === b.inode

/**
 * The loop driver is asked rather than sysfs, whose paths have no meaning in another mount namespace. A
 * process that may not ask it cannot map either, but its plan does without the answer.
 */
export const usesOf = async ({
  facts,
  swaps,
  filesystemFiles,
  loops,
}: FileProbe): Promise<Uses> => ({
  swap: await isSwap(facts, swaps),
  filesystem: filesystemFiles.find(({ inode }) => inode === facts.inode)?.role,
  loops: loops.filter((loop) => isSameFile(loop, facts)).map(({ number }) => loopPath(number)),
})

/** /proc/swaps (proc(5)): a header, then a line an area, which starts with its path and its type. */
async function isSwap(file: Inode, swaps: string): Promise<boolean> {
  for (const area of swaps.split('\n').slice(1)) {
    const [path = '', type] = area.split(/\s+/)
    if (type !== 'file') continue
    const found = await identify(unescapePath(path)).catch(() => undefined)
    if (!found) continue
    const inode = { major: found.fsMajor, minor: found.fsMinor, inode: found.inode }
    if (isSameFile(inode, file)) return true
  }
  return false
}
