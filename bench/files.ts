// Files in many pieces to measure with.
import { cpus } from 'node:os'
import { fragmentedFile, makeHost, oneSegment, randomFile } from '../test/vm/lab.js'

/** Small blocks, so that a million of them fit into memory. */
const BLOCK = 1024

/** Blocks: more than the filesystem keeps free in one place, where a smaller file would go in one piece. */
const LEAST = 20_000

/** Numbers of extents to measure with. An emulated processor takes a quarter of an hour for a million. */
export const sizes = (...all: number[]): number[] =>
  cpus().length > 1 ? all.filter((extents) => extents <= 100_000) : all

/** Bytes that go in one piece on any filesystem. */
const ONE_PIECE = 4 << 20

/**
 * A filesystem with a file of about so many extents, each a block that borders on no other of the file: a
 * million of them take a gigabyte.
 */
export function fragmentedHost(extents: number): { file: string; remove: () => void } {
  const mkfs = `-b ${BLOCK} -O ^has_journal`
  const host = makeHost('ext4', oneSegment(), { name: 'host', mkfs })
  const file = `${host.path}/image`
  if (extents === 1) randomFile(file, ONE_PIECE)
  else fragmentedFile(file, Math.max(extents, LEAST) * BLOCK, extents, 1, BLOCK)
  return {
    file,
    remove() {
      host.remove()
    },
  }
}
