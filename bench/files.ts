// Files in many pieces to measure with.
import { fragmentedFile, randomFile } from '../test/made-files.js'
import { measuredHost } from './host.js'

/** Small blocks, so that a million of them fit into memory. */
const BLOCK = 1024

/** Blocks: more than the filesystem keeps free in one place, where a smaller file would go in one piece. */
const LEAST = 20_000

/** Bytes that go in one piece on any filesystem. */
const ONE_PIECE = 4 << 20

/** A file to measure with, on a filesystem of its own. */
export interface MeasuredFile {
  file: string
  remove: () => void
}

/**
 * A filesystem with a file of about so many extents, each a block that borders on no other of the file: a
 * million of them take a gigabyte, and an emulated processor a quarter of an hour.
 */
export async function fragmentedHost(extents: number, filesystem = 'ext4'): Promise<MeasuredFile> {
  const { path, remove } = await measuredHost(filesystem, BLOCK)
  const file = `${path}/image`
  if (extents === 1) randomFile(file, ONE_PIECE)
  else fragmentedFile(file, Math.max(extents, LEAST) * BLOCK, extents, 1, BLOCK)
  return { file, remove }
}
