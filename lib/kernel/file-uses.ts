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

/** A file as fstat(2) and /proc have it: the number of its filesystem, and its inode there. */
export type Inode = Pick<FileFacts, 'major' | 'minor' | 'inode' | 'filesystem'>

export const isSameFile = (a: Omit<Inode, 'filesystem'>, b: Omit<Inode, 'filesystem'>): boolean =>
  a.major === b.major && a.minor === b.minor && a.inode === b.inode

/** A swap area (proc(5), /proc/swaps): its size and what is in use, in KiB. */
interface SwapArea {
  path: string
  type: string
  size: number
  used: number
  priority: number
}

/** The areas that the kernel has: a header, then a line an area. */
export const parseSwaps = (swaps: string): SwapArea[] =>
  swaps
    .split('\n')
    .slice(1)
    .filter((line) => line !== '')
    .map((line) => {
      const [path = '', type = '', size, used, priority] = line.split(/\s+/)
      return {
        path: unescapePath(path),
        type,
        size: Number(size),
        used: Number(used),
        priority: Number(priority),
      }
    })

/** The area that a file is, as far as its path leads this process to it. */
export async function findSwapArea(
  file: Inode,
  areas: readonly SwapArea[],
): Promise<SwapArea | undefined> {
  for (const area of areas.filter(({ type }) => type === 'file')) {
    const found = await identify(area.path).catch(() => undefined)
    if (!found) continue
    const inode = { major: found.fsMajor, minor: found.fsMinor, inode: found.inode }
    if (isSameFile(inode, file)) return area
  }
  return undefined
}

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
  swap: (await findSwapArea(facts, parseSwaps(swaps))) !== undefined,
  filesystem: filesystemFiles.find(({ inode }) => inode === facts.inode)?.role,
  loops: loops.filter((loop) => isSameFile(loop, facts)).map(({ number }) => loopPath(number)),
})
