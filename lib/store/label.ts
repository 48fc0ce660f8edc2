// The label: a block at the end of an image's last file that is no part of the image. Nobody writes to it, so it
// shows before the image is mapped from its metadata alone that its table is still the image's.
import { explainingErrors } from '../images/write-errors.js'
import { isSystemError } from '../kernel/errors.js'
import { native, result } from '../kernel/native.js'
import { DEFAULT_WAIT } from '../kernel/wait.js'
import { BackingFile } from '../plan/backing-file.js'

/** Bytes; no logical block is larger. */
export const LABEL_SIZE = 4096

const MAGIC = 'dmloop image 1\n'

/** Bytes of the longest text; zeros follow. */
const LONGEST = 128
const ZEROS = Buffer.alloc(LABEL_SIZE)

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
export const hasLabel = async (fd: number, id: string, position: number): Promise<boolean> =>
  (await readLabel(fd, position)) === id

/** The id in a label at such a place; undefined where there is none. */
export async function readLabel(fd: number, position: number): Promise<string | undefined> {
  const label = await result(native.read(fd, LABEL_SIZE, position))
  const [text, magic, id] =
    /^(.*\n)([-0-9a-f]{1,64})\n/.exec(label.toString('latin1', 0, LONGEST)) ?? []
  if (label.length !== LABEL_SIZE || text === undefined || magic !== MAGIC) return undefined
  return label.subarray(text.length).equals(ZEROS.subarray(text.length)) ? id : undefined
}

/** Appends the label of an image to its last file. */
export async function appendLabel(path: string, id: string): Promise<void> {
  await using file = await BackingFile.open(path, DEFAULT_WAIT, { writable: true })
  const { fd, size } = file
  await result(native.allocate(fd, 0, size, LABEL_SIZE), path).catch((error: unknown) => {
    // Then it is allocated when it is written.
    if (!isSystemError(error, 'EOPNOTSUPP', 'ENOTSUP', 'ENOSYS')) throw error
  })
  await writeLabel(file, id, size)
  await file.syncAndProbe()
}
