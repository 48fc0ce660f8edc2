// What an earlier process has left: half-made devices, guards, records of mappings that are gone.
import debug from 'debug'
import { withDeadline } from './kernel/deadline.js'
import {
  alreadyMapped,
  findDevice,
  findTable,
  hasLiveTable,
  removeDevice,
} from './kernel/device-mapper.js'
import { dmloopError } from './kernel/errors.js'
import { detachLoop, findNamedLoop, hasHolders, listLoops, type Loop } from './kernel/loop.js'
import type { DmDevice } from './kernel/native.js'
import { nodePath, sweepCookies } from './kernel/udev.js'
import { DEFAULT_WAIT, NO_WAIT, type WaitLimit } from './kernel/wait.js'
import { settleFences } from './fence.js'
import { FileLock, openLocked, type LockedFiles } from './file-lock.js'
import { mayHaveBeenGuarded, readMark, releaseUnmapped } from './guard.js'
import { mayBeStoredOn } from './locate.js'
import { partsOf } from './loop-device.js'
import { isRecordOf, MappedFiles, reconstructRecord } from './mapped-files.js'
import { dropStalePages } from './page-cache.js'
import { removeLeftNodes, removeLeftPartitions } from './partitions.js'
import { parsePath } from './plan/arguments.js'
import type { BackingFile } from './plan/backing-file.js'
import type { Mark } from './plan/mark.js'
import { partIdentityOf, partName, uuidOf } from './plan/names.js'
import { compareStorage } from './plan/overlap.js'
import { readRecord, readRecords, type MappingRecord } from './record.js'

const log = debug('dmloop:recovery')

/**
 * Rejects with DMLOOP_ALREADY_MAPPED if one of the locked files has a mapping. What a crash or a deferred
 * unmap has left of one is removed: because of the lock no process is working on it.
 */
export async function recoverFiles({ files, lock }: LockedFiles, limit: WaitLimit): Promise<void> {
  await settleFences(files.devices, files.list)
  for (const file of files.list) {
    const { identity, path } = file
    const record = lock.recordOf(identity)
    const device = await findDeviceOf(file, record)
    if (device && hasLiveTable(device)) throw alreadyMapped(path, nodePath(device.name))
    if (device) {
      log('removing %s, left half-made', device.name)
      await removeDevice(device, limit)
    }
    await removeLeftPartitions(uuidOf(identity), limit)
    await removeParts(identity, record)
    if (record) await finishRecord(file, record)
    const mark = await readMark(file)
    if (mark) await releaseLeftGuard(file, mark)
    else if (await mayHaveBeenGuarded(file)) await releaseUnmapped(file)
    // Cached pages may be older than the writes of a device whose file has no mark.
    else if (record?.backend === 'linear') await dropStalePages(file)
  }
  await lock.clear()
}

/** Removes the node that a mapping has left. Rejects with DMLOOP_ALREADY_MAPPED if the mapping is live. */
async function finishRecord(file: BackingFile, record: MappingRecord): Promise<void> {
  if (await isLive(record)) {
    const loop = await loopOf(record)
    throw alreadyMapped(file.path, loop?.path ?? nodePath(record.node.name))
  }
  await removeLeftNodes(record)
}

/**
 * Releases a guard that was left behind; see `releaseUnmapped`. The file may still be mapped, from when its
 * filesystem's device had another number.
 */
async function releaseLeftGuard(file: BackingFile, mark: Mark): Promise<void> {
  await releaseUnmapped(file)
  if (mark.identity !== file.identity) await clearOldRecord(mark)
}

/** Clears the record from when the filesystem's device of a file had another number. */
async function clearOldRecord({ identity, id }: Mark): Promise<void> {
  try {
    await using lock = await FileLock.take([identity], NO_WAIT)
    const record = lock.recordOf(identity)
    // A copy of the volume has a copy of the mark, and the original may be mapped.
    if (record?.id === id && !(await isLive(record))) await lock.clear()
  } catch (error) {
    // `recoverAll` does it later.
    log('%s: %o', identity, error)
  }
}

/** The loop device that is a mapping by itself, if the record has one and it exists. */
export async function loopOf({ loops, uuid }: MappingRecord): Promise<Loop | undefined> {
  const [only] = loops
  return only?.name === uuid ? await findNamedLoop(only) : undefined
}

/**
 * Whether the mapping of a record exists, and is live. The UUID alone does not tell: the first file may have
 * been mapped again, and has another record then.
 */
async function isLive(record: MappingRecord): Promise<boolean> {
  const current = await readRecord(record.identities[0] ?? '')
  if (current?.id !== record.id) return false
  const device = await findDevice({ uuid: record.uuid })
  if (device) {
    return hasLiveTable(device) && (record.backend === 'loop' || (await isRecordOf(record, device)))
  }
  return (await loopOf(record)) !== undefined
}

/** Detaches loop devices that a crash left before they were concatenated, or after that was undone. */
async function removeParts(identity: string, record: MappingRecord | undefined): Promise<void> {
  const parts = (await listLoops()).filter(({ name }) => name === partName(identity))
  if (parts.length === 0 || (record && (await isLive(record)))) return
  for (const loop of parts) {
    if (!(await hasHolders(loop))) await detachLoop(loop, DEFAULT_WAIT)
  }
}

/**
 * The device that maps a file: its own, or that of several files. One with the file's UUID does not count when
 * its table has blocks of another filesystem, of which this one is a copy with the same number. A record of
 * the file counts only if it is of the device: the first file of the mapping may have been mapped again since.
 */
export async function findDeviceOf(
  file: BackingFile,
  record: MappingRecord | undefined,
): Promise<DmDevice | undefined> {
  const own = await findDevice({ uuid: uuidOf(file.identity) })
  if (own && (await mayMap(own, file, record))) return own
  const marked = await findDeviceOfMark(file)
  if (marked) return marked
  const first = record?.identities[0]
  if (!record || first === undefined || first === file.identity) return undefined
  const device = await findDevice({ uuid: record.uuid })
  return device && (await isLive(record)) ? device : undefined
}

/** Whether a device with a file's UUID may have its blocks: a half-made one has none yet. */
async function mayMap(
  device: DmDevice,
  file: BackingFile,
  record: MappingRecord | undefined,
): Promise<boolean> {
  if (!hasLiveTable(device)) return true
  const filesystem = record?.filesystems?.[record.identities.indexOf(file.identity)]
  const table = await findTable(device)
  if (!table) return false
  // The file's blocks are not in the table of a device that concatenates loop devices.
  if ((await partsOf(table)).length > 0) return true
  return await mayBeStoredOn(table, file.device, filesystem)
}

/**
 * The device that a file's mark names, where it is not the file's own: that of several files, or one from when
 * the filesystem's device had another number. A device that was made since has a first file with another
 * mark. A copy of the volume has a copy of the mark, but the table has no blocks there.
 */
async function findDeviceOfMark(file: BackingFile): Promise<DmDevice | undefined> {
  const mark = await readMark(file)
  if (!mark || (mark.first ?? mark.identity) === file.identity) return undefined
  const device = await findDevice({ uuid: uuidOf(mark.first ?? mark.identity) })
  const table = device && (await findTable(device))
  if (!table) return undefined
  const { id } = await reconstructRecord(device, table)
  if (mark.kept === undefined && id !== mark.id) return undefined
  const storage = await compareStorage(table, file.device)
  const isNumberKept = mark.identity === file.identity
  return storage === 'same' || (storage === 'unknown' && isNumberKept) ? device : undefined
}

/**
 * Releases a guard that a crash or a reboot left on a file, and removes a device that was half-made. To a file
 * without a guard it does nothing but drop its cached pages. Rejects with DMLOOP_ALREADY_MAPPED while the
 * file is mapped, with DMLOOP_OPAQUE_DEVICE or DMLOOP_DEVICE_BUSY where that cannot be told, with
 * DMLOOP_STALE_CACHE while processes keep pages that are older than the disk, with DMLOOP_IMAGE_IN_USE for an
 * image of an ImageStore, whose guard stays while it is not mapped, and with DMLOOP_TIMEOUT when
 * another process or the kernel is busy with the file for ten seconds. Then the file stays guarded.
 */
export async function releaseFile(file: string): Promise<void> {
  const path = parsePath(file, 'file')
  await withDeadline(DEFAULT_WAIT, () => release(path))
}

async function release(path: string): Promise<void> {
  const locked = await openLocked([path], DEFAULT_WAIT)
  await using files = locked.files
  await using _ = locked.lock
  await recoverFiles(locked, DEFAULT_WAIT)
  // Nothing tells of a mapping that had no guard, and whose record is lost.
  for (const file of files.list) {
    await dropStalePages(file)
    if (!(await readMark(file))) continue
    throw dmloopError('DMLOOP_IMAGE_IN_USE', { file: file.path }, 'is kept for an image store')
  }
}

/**
 * Releases the files of mappings whose device was removed by someone else: by the kernel after a deferred
 * unmap, or with dmsetup. Files that another process has locked are left to it.
 */
export async function recoverAll(): Promise<void> {
  await sweepCookies()
  await recoverParts()
  for (const [identity, record] of await readRecords()) {
    if (await isLive(record)) continue
    await recoverRecord(identity, record).catch((error: unknown) => {
      log('recovering %s: %o', identity, error)
    })
  }
}

/** Detaches loop devices that are parts of a mapping without a device. */
async function recoverParts(): Promise<void> {
  for (const { name } of await listLoops()) {
    const identity = partIdentityOf(name)
    if (identity === undefined) continue
    try {
      await using lock = await FileLock.take([identity], NO_WAIT)
      await removeParts(identity, lock.recordOf(identity))
    } catch (error) {
      log('recovering %s: %o', name, error)
    }
  }
}

async function recoverRecord(identity: string, { id, identities }: MappingRecord): Promise<void> {
  await using lock = await FileLock.take(identities, NO_WAIT)
  // Before the lock was taken the file may have been mapped again.
  const record = lock.recordOf(identity)
  if (record?.id !== id || (await isLive(record))) return
  await using files = await MappedFiles.find(record, NO_WAIT)
  await files.flock(NO_WAIT)
  await removeLeftPartitions(record.uuid, NO_WAIT)
  await removeLeftNodes(record)
  await files.finish(false)
  await lock.clearOf(record)
  log('recovered %o', record.files)
}
