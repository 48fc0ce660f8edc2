// Finding the file of a mapping again: by its identity, never by its path alone.
import { join } from 'node:path'
import debug from 'debug'
import { DmloopError, isSystemError } from './kernel/errors.js'
import { readFilesystemIds, type FilesystemIds } from './kernel/filesystems.js'
import { native, result } from './kernel/native.js'
import type { DmloopCode } from './kernel/policy.js'
import type { SegmentTable } from './kernel/segments.js'
import { deviceName, mapperUuid, mountsOf } from './kernel/sysfs.js'
import { NO_WAIT, type WaitLimit } from './kernel/wait.js'
import { BackingFile, hasHandles } from './plan/backing-file.js'
import { ownMark } from './plan/mark.js'
import { parseIdentity } from './plan/names.js'
import { compareStorage, hasBlocks } from './plan/overlap.js'

const log = debug('dmloop:locate')

/**
 * The open file; or that its filesystem no longer has it; or that its filesystem is mounted nowhere; or why it
 * cannot be opened now.
 */
export type Located = BackingFile | 'gone' | 'unreachable' | Error

export interface Clues {
  /** Where the file was. Whatever is there now counts only if it has the identity. */
  path: string | undefined
  /** Whether a guard has marked the file. */
  marked: boolean
  /** The mapping's live table, if there is one: the filesystem is stored where it has blocks. */
  table?: SegmentTable | undefined
  /** The filesystem when the file was mapped. */
  filesystem?: FilesystemIds | undefined
}

/**
 * Finds the file with an identity; see `BackingFile.identity`. A handle and a mark are copied with the volume,
 * and a device number may be that of another filesystem now, so what is found must be on the right
 * filesystem: where the table is known, it decides. Waits until the limit for a lease of another process on the
 * file.
 */
export async function locateFile(
  identity: string,
  clues: Clues,
  limit: WaitLimit,
): Promise<Located> {
  const parts = parseIdentity(identity)
  if (!parts) return 'gone'
  const { major, minor, handle } = parts
  const { table, ...others } = clues
  if (handle === undefined) {
    const number = deviceName(major, minor)
    if (table && !(await mayBeStoredOn(table, number, clues.filesystem))) return 'unreachable'
    return await locateByAddress(identity, number, clues.path, limit)
  }
  const named = { identity, major, minor, handle }
  return table && hasBlocks(table)
    ? await locateByTable(named, table, clues, limit)
    : await locateByMark(named, others, limit)
}

type Named = { identity: string; handle: string } & Device

/** On the filesystem that is stored where the table has blocks, whatever its number. */
async function locateByTable(
  named: Named,
  table: SegmentTable,
  clues: Clues,
  limit: WaitLimit,
): Promise<Located> {
  const number = deviceName(named.major, named.minor)
  const expected = await compareStorage(table, number)
  if (expected === 'same') {
    const found = await openNamed(named, clues.path, limit)
    if (found !== 'unreachable') return found
  }
  // A volume that was deactivated and activated again while its file was mapped has another number.
  for (const device of await otherDevices(number)) {
    if ((await compareStorage(table, deviceName(device.major, device.minor))) !== 'same') continue
    const found = await openAt(device, named.handle, limit)
    if (found === 'unreachable') continue
    log('%s has become %o', named.identity, device)
    return found
  }
  // A snapshot was made of the volume, or it was moved to another disk, with the filesystem mounted.
  return expected === 'unknown' || (await isSameVolume(number, clues.filesystem))
    ? await locateByMark(named, clues, limit)
    : 'unreachable'
}

/** On a filesystem whose UUID does not differ: at the old number, or where a file has the mark. */
async function locateByMark(
  named: Named,
  { marked, filesystem, table, path }: Clues,
  limit: WaitLimit,
): Promise<Located> {
  const { identity, handle } = named
  const number = deviceName(named.major, named.minor)
  const same = await isSameFilesystem(number, filesystem)
  const expected = same === false ? 'unreachable' : await openNamed(named, path, limit)
  if (expected instanceof BackingFile && (!marked || hasMark(expected, identity))) return expected
  let failure: Error | undefined
  for (const other of table ? [] : await otherDevices(number)) {
    if ((await isSameFilesystem(deviceName(other.major, other.minor), filesystem)) === false)
      continue
    const found = await openAt(other, handle, NO_WAIT)
    if (found instanceof Error) failure ??= found
    if (!(found instanceof BackingFile)) continue
    if (hasMark(found, identity)) {
      log('%s has become %s', identity, found.identity)
      if (expected instanceof BackingFile) await expected[Symbol.asyncDispose]()
      return found
    }
    await found[Symbol.asyncDispose]()
  }
  // It may be the one that could not be opened.
  if (failure && !(expected instanceof BackingFile)) return failure
  // The number may be that of another filesystem now.
  if (expected === 'gone' && marked && same !== true) return 'unreachable'
  return expected
}

/** Whether a filesystem may be the one that a mapping was made on. */
export async function mayBeStoredOn(
  table: SegmentTable,
  device: string,
  filesystem: FilesystemIds | undefined,
): Promise<boolean> {
  return (
    (await compareStorage(table, device)) !== 'other' || (await isSameVolume(device, filesystem))
  )
}

/** Whether a device is the volume from before; pvmove(8) may have moved it since. */
const isSameVolume = async (device: string, before: FilesystemIds | undefined): Promise<boolean> =>
  before !== undefined && before.volume !== '' && (await mapperUuid(device)) === before.volume

/** Whether the filesystem on a device has the UUID from before; undefined where that is not known. */
async function isSameFilesystem(
  device: string,
  before: FilesystemIds | undefined,
): Promise<boolean | undefined> {
  if (before === undefined || before.uuid === '') return undefined
  const { uuid } = await readFilesystemIds(device)
  return uuid === '' ? undefined : uuid === before.uuid
}

const hasMark = ({ facts, identity }: BackingFile, wanted: string): boolean =>
  ownMark(facts.mark, identity)?.identity === wanted

interface Device {
  major: number
  minor: number
}

async function openAt(device: Device, handle: string, limit: WaitLimit): Promise<Located> {
  try {
    return await BackingFile.openHandle(device, handle, limit)
  } catch (error) {
    if (isSystemError(error, 'ESTALE')) return 'gone'
    if (isSystemError(error, 'ENODEV')) return 'unreachable'
    if (isDmloopError(error, 'DMLOOP_FILE_IN_USE')) return error
    throw error
  }
}

/**
 * Opens a file where it was. Handles require CAP_DAC_READ_SEARCH; without it the path is tried. The path comes
 * second, for it may lead to a filesystem whose server is gone, and a handle does not.
 */
async function openNamed(
  { identity, handle, ...device }: Named,
  path: string | undefined,
  limit: WaitLimit,
): Promise<Located> {
  try {
    return await openAt(device, handle, limit)
  } catch (error) {
    const there = isSystemError(error, 'EPERM') && path !== undefined
    const found = there ? await openIf(path, identity, limit) : undefined
    if (found instanceof BackingFile) return found
    throw error
  }
}

/** The devices of all other mounted filesystems whose files have such handles. */
async function otherDevices(known: string): Promise<Device[]> {
  const mounts = await result(native.listMounts())
  const devices = new Map(
    mounts
      .filter(({ filesystem }) => hasHandles(filesystem))
      .map(({ major, minor }) => [deviceName(major, minor), { major, minor }]),
  )
  devices.delete(known)
  return [...devices.values()]
}

/**
 * Finds a file without a handle (on vfat), which is identified by the address of its first byte. If it is not
 * at its path any more, the whole filesystem is searched.
 */
async function locateByAddress(
  identity: string,
  device: string,
  path: string | undefined,
  limit: WaitLimit,
): Promise<Located> {
  const there = path === undefined ? undefined : await openIf(path, identity, limit)
  if (there instanceof BackingFile) return there
  const mounts = await mountsOf(device)
  if (mounts.length === 0) return 'unreachable'
  let failure = there
  for (const { mountPoint, id } of mounts) {
    for await (const file of filesIn(mountPoint, id)) {
      const found = await openIf(file, identity, NO_WAIT)
      if (found instanceof BackingFile) return found
      failure ??= found
    }
  }
  // It may be the one that could not be opened.
  return failure ?? 'gone'
}

/** Opens a path if the file there has the identity; otherwise why the file could not be opened, if it could not. */
async function openIf(
  path: string,
  identity: string,
  limit: WaitLimit,
): Promise<BackingFile | Error | undefined> {
  let file: BackingFile
  try {
    file = await BackingFile.open(path, limit)
  } catch (error) {
    log('%s: %o', path, error)
    if (isSystemError(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined
    if (isDmloopError(error, 'DMLOOP_NOT_REGULAR_FILE')) return undefined
    if (error instanceof Error && limit.signal?.aborted !== true) return error
    throw error
  }
  if (file.identity === identity) return file
  await file[Symbol.asyncDispose]()
  return undefined
}

const isDmloopError = (error: unknown, code: DmloopCode): error is DmloopError =>
  error instanceof DmloopError && error.code === code

/** The regular files in a folder, and in those within it, as far as they are on this mount. */
async function* filesIn(folder: string, mount: number): AsyncIterable<string> {
  const { files, folders } = await result(native.listFolder(folder, mount), folder)
  for (const name of files) yield join(folder, name)
  for (const name of folders) yield* filesIn(join(folder, name), mount)
}
