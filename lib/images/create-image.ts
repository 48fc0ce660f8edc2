import { DmloopError, dmloopError } from '../kernel/errors.js'
import { DEFAULT_WAIT } from '../kernel/wait.js'
import { openLocked } from '../file-lock.js'
import { assertUnmapped } from '../plan/overlap.js'
import { limitedProgress } from '../plan/progress.js'
import { judgeFile } from '../plan/verdict.js'
import { recoverFiles } from '../recovery.js'
import { openContent, type Content } from './content.js'
import { ImageTarget } from './image-target.js'
import { ImageWriter } from './image-writer.js'
import { NewImage } from './new-image.js'
import { parseCreateOptions, type CreateOptions, type CreateRequest } from './options.js'

/**
 * Makes an image that can be mapped at once: all its blocks are allocated, and written. It has its name when
 * it is complete, and not before. Returns the paths of its files, of which there are several where it is larger
 * than a file may be.
 *
 * Rejects with DMLOOP_IMAGE_EXISTS without `overwrite`; with DMLOOP_NO_SPACE and DMLOOP_TOO_LARGE; with
 * DMLOOP_BAD_IMAGE for content that is damaged, cut off or more than `size`; with DMLOOP_CHECKSUM_MISMATCH;
 * with DMLOOP_TOO_MANY_SEGMENTS for more than `maxExtents`; with DMLOOP_FILE_IN_USE while another call makes
 * the same image; with DMLOOP_ALREADY_MAPPED when the image that it would replace is mapped; with the system's
 * error when a call fails, the stream's when that fails, and the signal's reason when aborted. Then nothing is
 * left. What a killed process has left, the next call for the same image removes.
 */
export async function createImage(file: string, options: CreateOptions): Promise<string[]> {
  const request = parseCreateOptions(file, options)
  request.signal?.throwIfAborted()
  const target = await ImageTarget.of(request.file)
  await assertReplaceable(target, request)
  await using image = await NewImage.begin(target, request)
  const content = await contentOf(request)
  try {
    await writeContent(image, content, request)
  } finally {
    await content.pieces.return()
  }
  return await whileReplaceable(target, request, (old) => image.publish(old))
}

/** Without a source, zeros. */
async function contentOf(request: CreateRequest): Promise<Content> {
  const { from, size = 0 } = request
  if (from !== undefined) return await openContent(from, request)
  return { size, pieces: zeros(size) }
}

async function* zeros(length: number): Content['pieces'] {
  await Promise.resolve()
  yield { fill: new Uint8Array(4), length }
}

async function writeContent(
  image: NewImage,
  content: Content,
  request: CreateRequest,
): Promise<void> {
  const { sha256, signal, onProgress } = request
  const total = sizeOf(request, content.size, image.blockSize)
  if (total !== undefined) await image.allocate(total)
  const report = limitedProgress(onProgress, total)
  const writer = new ImageWriter(image, { hashed: sha256 !== undefined, signal, report })
  try {
    for await (const piece of content.pieces) await writer.write(piece)
    assertContent(request, writer)
    const size = sizeOf(request, writer.position, image.blockSize) ?? 0
    await writer.writeZeros(size - writer.position)
    await writer.end()
    await image.finish(size)
    report(size, true)
  } finally {
    await writer.drain()
  }
}

/** Bytes of the image: as asked for, or as many whole logical blocks as the content fills. */
function sizeOf(
  { file, size }: CreateRequest,
  content: number | undefined,
  blockSize: number,
): number | undefined {
  const bytes = size ?? content
  if (bytes === undefined) return undefined
  if (size === undefined) return Math.ceil(bytes / blockSize) * blockSize
  if (size % blockSize === 0) return size
  const detail = `size ${size} is not a multiple of ${blockSize} bytes`
  throw dmloopError('DMLOOP_UNALIGNED', { file }, detail)
}

function assertContent({ from, file, sha256 }: CreateRequest, writer: ImageWriter): void {
  const source = typeof from === 'string' ? from : undefined
  if (writer.position === 0) {
    throw dmloopError('DMLOOP_BAD_IMAGE', { file: source ?? file }, 'has no content')
  }
  const found = writer.digest()
  if (found === sha256) return
  const detail = `has the SHA-256 ${found}, and not ${sha256}`
  throw dmloopError('DMLOOP_CHECKSUM_MISMATCH', { file: source ?? file }, detail)
}

/** Throws what keeps an image that is there from being replaced. */
async function assertReplaceable(target: ImageTarget, request: CreateRequest): Promise<void> {
  await whileReplaceable(target, request, () => Promise.resolve())
}

/**
 * Runs a step, given the files of the image that it replaces, while nobody can map them. Rejects with DMLOOP_IMAGE_EXISTS, and with what
 * says that the image is in use.
 */
async function whileReplaceable<T>(
  target: ImageTarget,
  { overwrite, signal }: CreateRequest,
  step: (old: readonly string[]) => Promise<T>,
): Promise<T> {
  const old = await target.existing()
  const [first] = old
  if (first !== undefined && !overwrite) throw dmloopError('DMLOOP_IMAGE_EXISTS', { file: first })
  // Only root can map files. Others cannot replace one that is guarded: the kernel keeps them from it.
  if (first === undefined || process.geteuid?.() !== 0) return await step(old)
  const limit = { ...DEFAULT_WAIT, signal }
  const locked = await openLocked(old, limit)
  await using files = locked.files
  await using _ = locked.lock
  await recoverFiles(locked, limit)
  await files.probe()
  for (const file of files.list) {
    const [problem] = judgeFile(file, { readOnly: true }).filter(({ blocks }) => blocks === 'all')
    if (problem) throw new DmloopError(problem)
    await assertUnmapped(file)
  }
  return await step(old)
}
