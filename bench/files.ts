// Files in many pieces to measure with.
import { fragmentedFile, makeHost, oneSegment } from '../test/vm/lab.js'

/** How many extents; at a million the file has a gigabyte. */
export const SIZES = [1, 1000, 100_000, 1_000_000]

/** Small blocks, so that a million of them fit into memory. */
const BLOCK = 1024

/** Blocks: more than the filesystem keeps free in one place, where a smaller file would go in one piece. */
const LEAST = 20_000

/** A filesystem with a file of about so many extents, each a block that borders on no other of the file. */
export function fragmentedHost(extents: number): { file: string; remove: () => void } {
  const mkfs = `-b ${BLOCK} -O ^has_journal`
  const host = makeHost('ext4', oneSegment(), { name: 'host', mkfs })
  const file = `${host.path}/image`
  fragmentedFile(file, Math.max(extents, LEAST) * BLOCK, extents, 1, BLOCK)
  return {
    file,
    remove() {
      host.remove()
    },
  }
}
