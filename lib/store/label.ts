// The label: a block at the end of an image's last file that is no part of the image. Nobody writes to it, so it
// shows before the image is mapped from its metadata alone that its table is still the image's.
import { read } from 'node:fs'
import { promisify } from 'node:util'
import { explainingErrors } from '../images/write-errors.js'
import { native, result } from '../kernel/native.js'

const readBytes = promisify(read)

/** Bytes; no logical block is larger. */
export const LABEL_SIZE = 4096

const MAGIC = 'dmloop image 1\n'

/** The bytes of the label of the image with an id. */
export function labelOf(id: string): Buffer {
  const label = Buffer.alloc(LABEL_SIZE)
  label.write(`${MAGIC}${id}\n`)
  return label
}

/** Writes the label of an image to an open file. */
export async function writeLabel(
  { fd, path }: { fd: number; path: string },
  id: string,
  position: number,
): Promise<void> {
  const { bytes, buffer } = native.newWriteBuffer(LABEL_SIZE)
  bytes.set(labelOf(id))
  await explainingErrors(path, result(native.write(fd, buffer, LABEL_SIZE, position), path))
}

/** Whether the label of an image is at a place of an open file or disk, which may take direct reads only. */
export async function hasLabel(fd: number, id: string, position: number): Promise<boolean> {
  // Where direct reads may write to.
  const { bytes } = native.newWriteBuffer(LABEL_SIZE)
  const { bytesRead } = await readBytes(fd, bytes, 0, LABEL_SIZE, position)
  return bytesRead === LABEL_SIZE && labelOf(id).equals(bytes)
}
