// Makes an image larger where it is. Nothing of what is added is mapped until it is complete and recorded.
import debug from 'debug'
import { invalidValue, outOfRange } from '../kernel/errors.js'
import { native, result } from '../kernel/native.js'
import { DEFAULT_WAIT } from '../kernel/wait.js'
import { openLocked } from '../file-lock.js'
import { whileExclusive } from '../guard.js'
import { explainingErrors } from '../images/write-errors.js'
import { tryDirectIo } from '../images/direct-io.js'
import { BackingFile } from '../plan/backing-file.js'
import { limitedProgress, type ProgressListener } from '../plan/progress.js'
import { recoverFiles } from '../recovery.js'
import { DiskFinder } from './disk-name.js'
import { assertSameFiles, keepFiles, labelPlace } from './kept-files.js'
import { LABEL_SIZE, writeLabel } from './label.js'
import type { ImageMetadata } from './metadata.js'
import { changed, deviationsOf, storedTable } from './stored-table.js'

const log = debug('dmloop:grow-image')

export interface Growth {
  /** Bytes of the image. */
  size: number
  /** Whether a device has its blocks. */
  mapped: boolean
  /** Writes its metadata. */
  write: (metadata: ImageMetadata) => Promise<void>
  onProgress: ProgressListener | undefined
  signal: AbortSignal | undefined
}

/** Bytes that are written between two looks at the signal and the lease. */
const STEP = 64 << 20

/**
 * Grows the last file of an image by a multiple of 4096 bytes. The old label stays until the place of the new one is
 * recorded: whenever the process is killed, the image as it was can be mapped.
 */
export async function growImage(
  paths: readonly string[],
  metadata: ImageMetadata,
  growth: Growth,
): Promise<void> {
  const { size } = growth
  if (size < metadata.size) {
    throw outOfRange('size', `at least the ${metadata.size} bytes that the image has`, size)
  }
  const added = size - metadata.size
  if (added % LABEL_SIZE !== 0) {
    throw invalidValue('size', `that of the image and a multiple of ${LABEL_SIZE}`, size)
  }
  if (added === 0) return
  await whileUnguarded(paths, metadata, growth, async (last) => {
    try {
      await extend(last, metadata, growth)
    } catch (error) {
      await shrink(last, metadata, growth)
      throw error
    }
  })
  log('%s has %d bytes', paths.at(-1), size)
}

/** Gives an image the size back that it had before a process was killed while it grew. */
export async function undoGrowth(
  paths: readonly string[],
  metadata: ImageMetadata,
  growth: Pick<Growth, 'mapped' | 'write'>,
): Promise<void> {
  await whileUnguarded(paths, metadata, growth, (last) => shrink(last, metadata, growth))
  log('%s has %d bytes again', paths.at(-1), metadata.size)
}

/** The last file of an image, open for writing, and for nobody else. */
interface LastFile {
  file: BackingFile
  /** Where the image's bytes end in it, and the label begins, when the image has the size that is recorded. */
  end: number
  assertExclusive: () => Promise<void>
}

/** Runs a step on the last file of an image, which it can write to, and records the image as it is then. */
async function whileUnguarded(
  paths: readonly string[],
  metadata: ImageMetadata,
  { mapped, write }: Pick<Growth, 'mapped' | 'write'>,
  step: (last: LastFile) => Promise<void>,
): Promise<void> {
  const path = paths.at(-1) ?? ''
  await write({ ...metadata, state: 'resizing' })
  const end = await unguard(paths, metadata, mapped)
  const finish = async (): Promise<void> => {
    const blocks = await keepFiles(paths, { ...DEFAULT_WAIT, mapped })
    await assertUnmoved(path, metadata, { ...metadata, ...blocks })
    await write({ ...metadata, ...blocks, state: 'ready' })
  }
  try {
    await using file = await BackingFile.open(path, DEFAULT_WAIT, { writable: true })
    assertSameFiles([file], { files: metadata.files.slice(-1) })
    await whileExclusive(file, (assertExclusive) => step({ file, end, assertExclusive }))
  } catch (error) {
    await finish().catch((failure: unknown) => {
      if (error instanceof Error) error.cause ??= failure
    })
    throw error
  }
  await finish()
}

/** Lets this process write to the last file, whose mark stays. Returns where the image's bytes end in it. */
async function unguard(
  paths: readonly string[],
  metadata: ImageMetadata,
  mapped: boolean,
): Promise<number> {
  const locked = await openLocked(paths, DEFAULT_WAIT)
  await using files = locked.files
  await using _ = locked.lock
  if (!mapped) await recoverFiles(locked, DEFAULT_WAIT)
  assertSameFiles(files.list, metadata)
  const file = files.list.at(-1)
  if (file) await result(native.setImmutable(file.fd, false), file.path)
  const others = files.list.slice(0, -1).reduce((sum, { size }) => sum + size, 0)
  return metadata.size - others
}

async function extend(
  { file, end, assertExclusive }: LastFile,
  metadata: ImageMetadata,
  { size, onProgress, signal, write }: Growth,
): Promise<void> {
  const { fd, path, filesystem } = file
  const added = size - metadata.size
  const start = end + LABEL_SIZE
  const report = limitedProgress(onProgress, added)
  const zeros = async (offset: number, length: number): Promise<void> => {
    signal?.throwIfAborted()
    await assertExclusive()
    await explainingErrors(path, result(native.writeZeros(fd, offset, length), path))
  }
  await explainingErrors(path, result(native.allocate(fd, 0, start, added), path))
  await tryDirectIo(fd, path, filesystem)
  for (let done = 0; done < added; done += STEP) {
    const length = Math.min(STEP, added - done)
    await zeros(start + done, length)
    report(done + length)
  }
  await writeLabel(file, metadata.id, end + added)
  await file.syncAndProbe()
  const label = await labelPlace(
    [file],
    end + added,
    await storedTable(metadata, new DiskFinder(DEFAULT_WAIT)),
  )
  await write({ ...metadata, state: 'resizing', label })
  await zeros(end, LABEL_SIZE)
  await result(native.sync(fd), path)
}

/** Undoes as much of `extend` as was done. */
async function shrink(
  { file, end }: LastFile,
  metadata: ImageMetadata,
  { write }: Pick<Growth, 'write'>,
): Promise<void> {
  await writeLabel(file, metadata.id, end)
  await file.syncAndProbe()
  const label = await labelPlace(
    [file],
    end,
    await storedTable(metadata, new DiskFinder(DEFAULT_WAIT)),
  )
  await write({ ...metadata, state: 'resizing', label })
  await result(native.truncate(file.fd, end + LABEL_SIZE), file.path)
  await result(native.sync(file.fd), file.path)
}

/** Throws DMLOOP_FILE_CHANGED where the blocks that an image had before are no longer its first ones. */
async function assertUnmoved(
  file: string,
  before: ImageMetadata,
  now: ImageMetadata,
): Promise<void> {
  const finder = new DiskFinder(DEFAULT_WAIT)
  const [old, table] = [await storedTable(before, finder), await storedTable(now, finder)]
  const [moved] = deviationsOf(old, table)
  if (moved && moved.offset < before.size) throw changed(file, 'has moved', moved)
}
