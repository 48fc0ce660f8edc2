// The files of an image, whose guard stays while the image is not mapped: its metadata are used when nobody can look.
import { basename } from 'node:path'
import debug from 'debug'
import { DmloopError, dmloopError, isSystemError, problem, type Problem } from '../kernel/errors.js'
import { native, result } from '../kernel/native.js'
import { identify } from '../kernel/path.js'
import { SegmentTable } from '../kernel/segments.js'
import { deviceName, kernelName, mapperUuid } from '../kernel/sysfs.js'
import type { WaitLimit } from '../kernel/wait.js'
import { openLocked, type LockedFiles } from '../file-lock.js'
import { acquireGuard, readMark } from '../guard.js'
import type { BackingFile } from '../plan/backing-file.js'
import { buildPlan } from '../plan/build-plan.js'
import { parseIdentity } from '../plan/names.js'
import { newId } from '../record.js'
import { recoverFiles } from '../recovery.js'
import { LABEL_SIZE } from './label.js'
import type { ImageMetadata } from './metadata.js'
import { changed, nameHost, recordedTable } from './stored-table.js'

const log = debug('dmloop:kept-files')

/** What identifies a file within its filesystem. Throws DMLOOP_UNGUARDABLE where nothing lasts that does. */
export function handleOf({ identity, path }: BackingFile): string {
  const handle = parseIdentity(identity)?.handle
  if (handle !== undefined) return handle
  const detail = 'is on a filesystem without file handles, where it cannot be found again'
  throw dmloopError('DMLOOP_UNGUARDABLE', { file: path }, detail)
}

/** Files that are not those that the metadata are for. */
export const otherFiles = (
  files: readonly BackingFile[],
  { files: recorded }: Pick<ImageMetadata, 'files'>,
): Problem[] =>
  files.flatMap(({ identity, path }, index) => {
    if (parseIdentity(identity)?.handle === recorded[index]?.handle) return []
    const detail = 'is another file than the one that its metadata are for'
    return [problem('DMLOOP_FILE_CHANGED', { file: path }, detail)]
  })

/** Throws DMLOOP_FILE_CHANGED where a file is not the one that the metadata are for. */
export function assertSameFiles(
  files: readonly BackingFile[],
  metadata: Pick<ImageMetadata, 'files'>,
): void {
  const [other] = otherFiles(files, metadata)
  if (other) throw new DmloopError(other)
}

/**
 * Rejects with DMLOOP_DEVICE_CLAIMED where the filesystem of a folder holds its device itself, so that none of its
 * files can be mapped: before an image is written, which may take long.
 */
export async function assertNotClaimed(folder: string): Promise<void> {
  const { fsMajor, fsMinor } = await identify(folder)
  const device = deviceName(fsMajor, fsMinor)
  // What has no block device, such as btrfs, is refused for what it is.
  if ((await kernelName(device)) === undefined || (await mapperUuid(device)) !== undefined) return
  throw dmloopError('DMLOOP_DEVICE_CLAIMED', { file: folder })
}

/** What metadata say of the blocks of an image. */
export type RecordedBlocks = Pick<
  ImageMetadata,
  'size' | 'files' | 'host' | 'disks' | 'segments' | 'label'
>

/**
 * Acquires a guard that stays, and reads where the image and its label are stored. Rejects like mapFile. Of an
 * image that is mapped the guard is there, and is renewed.
 */
export async function keepFiles(
  paths: readonly string[],
  { mapped, ...limit }: WaitLimit & { mapped: boolean },
): Promise<RecordedBlocks> {
  const locked = await openLocked(paths, limit)
  await using files = locked.files
  await using _ = locked.lock
  if (!mapped) await recoverFiles(locked, limit)
  await guard(files.list)
  await settleJournals(locked)
  await files.syncAndProbe()
  return await readBlocks(files.list, limit)
}

async function guard(files: readonly BackingFile[]): Promise<void> {
  const id = (files[0] && (await readMark(files[0]))?.id) ?? newId()
  for (const [index, file] of files.entries()) {
    const first = index === 0 ? undefined : files[0]?.identity
    const next = files[index + 1]?.identity
    const mapping = { id, offset: 0, first, next, kept: LABEL_SIZE }
    if (await acquireGuard(file, 'immutable', mapping)) continue
    const detail = 'is on a filesystem where no guard stays'
    throw dmloopError('DMLOOP_UNGUARDABLE', { file: file.path }, detail)
  }
}

/**
 * Has the journal write what it still holds about the files' blocks: before the filesystem is mounted the next
 * time, the image may have been mapped and written to, and then it is replayed.
 */
async function settleJournals({ files }: LockedFiles): Promise<void> {
  await files.syncAndProbe()
  for (const { fd, path } of files.list) {
    await result(native.flushJournal(fd), path).catch((error: unknown) => {
      if (!isSystemError(error, 'EOPNOTSUPP', 'ENOTSUP')) throw error
      log('%s: %o', path, error)
    })
  }
}

/** Where an image and its label are stored; the label is behind the image's last byte. */
export async function readBlocks(
  files: readonly BackingFile[],
  limit: WaitLimit,
): Promise<RecordedBlocks> {
  const size = files.reduce((sum, file) => sum + file.size, 0) - LABEL_SIZE
  const { segments } = await planOf(files, 0, size)
  const { disks, segments: rows } = await recordedTable(segments, limit)
  return {
    size,
    files: files.map((file) => ({
      name: basename(file.path),
      handle: handleOf(file),
    })),
    host: await nameHost(files[0]?.device ?? '', limit),
    disks,
    segments: rows,
    label: await labelPlace(files, size, segments),
  }
}

/** Where the label is that begins at a byte of the files. The image's table has its disk. */
export async function labelPlace(
  files: readonly BackingFile[],
  position: number,
  image: SegmentTable,
): Promise<ImageMetadata['label']> {
  const [place] = (await planOf(files, position, LABEL_SIZE)).segments
  const disk = image.devices.indexOf(place?.device ?? '')
  if (place?.offset === undefined || disk < 0 || place.length * 512 < LABEL_SIZE) {
    throw changed(files.at(-1)?.path ?? '', 'has its last block on another disk than the others')
  }
  return { disk, sector: place.offset }
}

async function planOf(
  files: readonly BackingFile[],
  offset: number,
  length: number,
): Promise<{ segments: SegmentTable }> {
  const scope = { offset, length, readOnly: false, holes: 'reject', guard: 'immutable' } as const
  const { plan } = await buildPlan(files, scope)
  plan.assertMappable()
  return plan
}
