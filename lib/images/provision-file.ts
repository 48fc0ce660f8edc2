// Makes a file that is there mappable, in place: what it reads stays the same.
import { statfs } from 'node:fs/promises'
import debug from 'debug'
import { withDeadline } from '../kernel/deadline.js'
import { DmloopError, dmloopError, isSystemError, problem } from '../kernel/errors.js'
import { FALLOCATE, native, result, type ExtentFacts } from '../kernel/native.js'
import { EXTENT_FLAGS, type DmloopCode } from '../kernel/policy.js'
import { openLocked, type FileLock } from '../file-lock.js'
import { whileExclusive } from '../guard.js'
import { BackingFile } from '../plan/backing-file.js'
import { ExtentTable } from '../plan/extents.js'
import { assertUnmapped } from '../plan/overlap.js'
import { limitedProgress } from '../plan/progress.js'
import { sliceFiles } from '../plan/range.js'
import { judgeExtents, judgeFile } from '../plan/verdict.js'
import { recoverFiles } from '../recovery.js'
import { tryDirectIo } from './direct-io.js'
import { parseProvisionOptions, type ProvisionOptions, type ProvisionRequest } from './options.js'
import { explainingErrors, explainWriteError } from './write-errors.js'

const log = debug('dmloop:provision')

/** Bytes that are changed between two checks of the signal and the lease. */
const STEP = 64 << 20

/** What provisioning mends. */
const MENDED = new Set<DmloopCode>([
  'DMLOOP_HOLE',
  'DMLOOP_UNWRITTEN_EXTENT',
  'DMLOOP_SHARED_EXTENT',
  'DMLOOP_INLINE_DATA',
])

/**
 * Makes a file mappable where it is: zeros are written into its holes and into what was allocated but never
 * written, shared extents become its own (on xfs), and data inside the inode moves out of it. The file reads
 * as before, at any moment, and keeps its size. Nobody else may have it open; it needs root.
 *
 * Rejects with DMLOOP_FILE_IN_USE; with DMLOOP_NO_SPACE, and then nothing was allocated; with
 * DMLOOP_ALREADY_MAPPED; with what else keeps the file from being mapped, as planFile tells; with the system's
 * error when a call fails, and with the signal's reason when aborted. A second call continues.
 */
export async function provisionFile(file: string, options?: ProvisionOptions): Promise<void> {
  const request = parseProvisionOptions(file, options)
  request.signal?.throwIfAborted()
  await withDeadline(request, (signal) => provision({ ...request, signal }))
}

async function provision(request: ProvisionRequest): Promise<void> {
  const { lock, identity } = await lockReleased(request)
  await using _ = lock
  await using file = await BackingFile.open(request.file, request, { writable: true })
  if (file.identity !== identity) {
    throw dmloopError('DMLOOP_FILE_CHANGED', { file: file.path }, 'was replaced meanwhile')
  }
  await file.flock(request)
  await whileExclusive(file, async (assertExclusive) => {
    await file.syncAndProbe()
    await assertUnmapped(file)
    const check = async (): Promise<void> => {
      request.signal?.throwIfAborted()
      await assertExclusive()
    }
    await tryDirectIo(file.fd, file.path, file.filesystem)
    await mend(file, check, request)
    log('%s is provisioned', file.path)
  })
}

/** Releases what a mapping has left of the file, and keeps the lock: the file is closed, to be opened alone. */
async function lockReleased(
  request: ProvisionRequest,
): Promise<{ lock: FileLock; identity: string | undefined }> {
  const locked = await openLocked([request.file], request)
  const { lock } = locked
  await using files = locked.files
  try {
    await recoverFiles(locked, request)
    return { lock, identity: files.identities[0] }
  } catch (error) {
    await lock[Symbol.asyncDispose]()
    throw error
  }
}

async function mend(
  file: BackingFile,
  check: () => Promise<void>,
  { onProgress }: ProvisionRequest,
): Promise<void> {
  await moveInlineData(file)
  const before = await readExtents(file, MENDED)
  const total = sum(rangesOf(before, 'zeros')) + sum(rangesOf(before, 'shared'))
  const report = limitedProgress(onProgress, total)
  await assertSpace(file, sum(rangesOf(before, 'holes')) + sum(rangesOf(before, 'shared')))
  await allocateHoles(file, before, check)

  let done = 0
  const change = async (
    kind: 'zeros' | 'shared',
    step: (offset: number, length: number) => Promise<void>,
  ): Promise<void> => {
    for (const { offset, length } of stepsOf(rangesOf(before, kind))) {
      await check()
      await step(offset, length)
      done += length
      report(done)
    }
  }
  await change('shared', (offset, length) => unshare(file, offset, length))
  await change('zeros', (offset, length) =>
    explainingErrors(file.path, result(native.writeZeros(file.fd, offset, length), file.path)),
  )
  await file.syncAndProbe()
  await readExtents(file, new Set())
}

/** fallocate(2) moves it (ext4_convert_inline_data, fs/ext4/inline.c; f2fs_convert_inline_inode, fs/f2fs/inline.c). */
async function moveInlineData(file: BackingFile): Promise<void> {
  const isInline = judgeFile(file, WRITABLE).some(({ code }) => code === 'DMLOOP_INLINE_DATA')
  if (!isInline) return
  const allocate = native.allocate(file.fd, FALLOCATE.keepSize, 0, file.size)
  await explainingErrors(file.path, result(allocate, file.path))
  await file.syncAndProbe()
  await file.flushJournal()
}

const WRITABLE = { readOnly: false }

/** What is mapped of a file, and its extents. */
interface FileExtents {
  facts: ExtentFacts
  /** Bytes. */
  length: number
}

/** Throws all that keeps the file from being mapped, but for what is going to be mended. */
async function readExtents(
  file: BackingFile,
  allowed: ReadonlySet<DmloopCode>,
): Promise<FileExtents> {
  const all = { offset: 0, length: undefined, guard: 'none' } as const
  const { slices, blockSize, problems } = sliceFiles([file], all)
  problems.push(...judgeFile(file, WRITABLE))
  assertNone(problems)
  const length = slices[0]?.length ?? 0
  const { fd, path, addressCall } = file
  const facts = await result(native.walkExtents(fd, addressCall, 0, length, blockSize), path)
  const found = judgeExtents(path, facts, { holes: 'reject' })
  assertNone(found.filter(({ code }) => !allowed.has(code)))
  return { facts, length }
}

function assertNone(problems: ReturnType<typeof judgeFile>): void {
  const [first] = problems
  if (first) throw new DmloopError(first, problems)
}

/** Bytes of a file. */
interface Range {
  offset: number
  length: number
}

/** The ranges without an extent; those that read as zeros, with and without; those that are shared. */
type Kind = 'holes' | 'zeros' | 'shared'

function* rangesOf({ facts, length }: FileExtents, kind: Kind): Iterable<Range> {
  let end = 0
  for (const extent of new ExtentTable([{ ...facts, fileStart: 0 }])) {
    const start = Math.min(extent.logical, length)
    if (kind !== 'shared' && start > end) yield { offset: end, length: start - end }
    end = Math.min(extent.logical + extent.length, length)
    const wanted = FLAG[kind]
    if ((extent.flags & wanted) !== 0 && end > start) yield { offset: start, length: end - start }
  }
  if (kind !== 'shared' && length > end) yield { offset: end, length: length - end }
}

const FLAG = { holes: 0, zeros: EXTENT_FLAGS.UNWRITTEN.bit, shared: EXTENT_FLAGS.SHARED.bit }

function sum(ranges: Iterable<Range>): number {
  let total = 0
  for (const { length } of ranges) total += length
  return total
}

function* stepsOf(ranges: Iterable<Range>): Iterable<Range> {
  for (const { offset, length } of ranges) {
    for (let done = 0; done < length; done += STEP) {
      yield { offset: offset + done, length: Math.min(STEP, length - done) }
    }
  }
}

/** Before anything is changed. What is left for root alone counts as well; the rest, `allocateHoles` finds. */
async function assertSpace({ fd, path }: BackingFile, bytes: number): Promise<void> {
  const { bfree, bsize } = await statfs(`/proc/self/fd/${fd}`)
  if (bytes <= bfree * bsize) return
  const detail = `needs ${bytes} bytes more, and its filesystem has ${bfree * bsize}`
  throw dmloopError('DMLOOP_NO_SPACE', { file: path }, detail)
}

/** Allocates all holes before any is written: if there is no space for one, they become holes again. */
async function allocateHoles(
  file: BackingFile,
  extents: FileExtents,
  check: () => Promise<void>,
): Promise<void> {
  const { fd, path } = file
  for (const { offset, length } of stepsOf(rangesOf(extents, 'holes'))) {
    await check()
    try {
      await result(native.allocate(fd, FALLOCATE.keepSize, offset, length), path)
    } catch (error) {
      // A filesystem that cannot allocate in advance (ext2, ext3) does when the zeros are written.
      if (isSystemError(error, 'EOPNOTSUPP', 'ENOTSUP')) return
      await punchHoles(file, extents, offset + length)
      throw explainWriteError(error, path)
    }
  }
}

async function punchHoles(
  { fd, path }: BackingFile,
  extents: FileExtents,
  end: number,
): Promise<void> {
  for (const { offset, length } of stepsOf(rangesOf(extents, 'holes'))) {
    if (offset >= end) return
    const mode = FALLOCATE.keepSize | FALLOCATE.punchHole
    await result(native.allocate(fd, mode, offset, length), path)
  }
}

async function unshare({ fd, path }: BackingFile, offset: number, length: number): Promise<void> {
  try {
    await result(native.allocate(fd, FALLOCATE.unshareRange, offset, length), path)
  } catch (error) {
    if (!isSystemError(error, 'EOPNOTSUPP', 'ENOTSUP')) throw explainWriteError(error, path)
    const found = problem('DMLOOP_SHARED_EXTENT', { file: path, offset, length })
    throw new DmloopError({ ...found, remedy: 'Make a copy: cp --reflink=never FILE COPY.' })
  }
}
