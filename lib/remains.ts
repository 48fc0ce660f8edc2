// What an earlier process left behind: half-made devices, guards, records of mappings that are gone.
import debug from 'debug'
import { BackingFile } from './backing-file.js'
import { Claim, readRecord, recordedIdentities, type MappingRecord } from './claim.js'
import {
  alreadyMapped,
  findDevice,
  hasLiveTable,
  removeDevice,
  removeLeftNode,
} from './device-mapper.js'
import { DmloopError, isSystemError } from './errors.js'
import { letGo } from './guard.js'
import { findLoop, isBeneath, listLoops, LOOP_MAJOR, loopPath, removeLoop } from './loop.js'
import { partIdentityOf, partOf, uuidOf } from './names.js'
import { native, result, type DmDevice } from './native.js'
import { DEFAULT_TIMEOUT, pathOf } from './options.js'
import { nodePath, type DeviceNode } from './udev.js'
import type { Patience } from './wait.js'

const log = debug('dmloop:remains')

/**
 * Rejects with DMLOOP_ALREADY_MAPPED if one of the files has a mapping. A device of the file's own that
 * a crash left half-made or half-gone is removed: the claim, which the caller has, says that nobody is
 * at it.
 */
export async function clearDevices(
  files: readonly BackingFile[],
  patience: Patience,
): Promise<void> {
  for (const { identity, path, handle } of files) {
    const device = await deviceOf(identity)
    if (device && hasLiveTable(device)) throw alreadyMapped(path, nodePath(device.name))
    if (device) {
      log('removing %s, left half-made', device.name)
      await removeDevice(device, { ...patience, deferred: false })
    }
    await removeParts(identity)
    const record = await readRecord(identity)
    if (!record) continue
    if (await isLive(record)) throw alreadyMapped(path, pathOfNode(record.node))
    await removeLeftNode(record.node)
    await result(native.dropCache(handle.fd), path)
  }
}

const pathOfNode = ({ name, major, minor }: DeviceNode): string =>
  major === LOOP_MAJOR ? loopPath(minor) : nodePath(name)

/** Whether a record's device is still there. */
async function isLive({ uuid, node }: MappingRecord): Promise<boolean> {
  if (await findDevice({ uuid })) return true
  return node.major === LOOP_MAJOR && (await findLoop(node.minor))?.name === uuid
}

/** Loop devices that a crash left before they were joined, or after they were parted. */
async function removeParts(identity: string): Promise<void> {
  const record = await readRecord(identity)
  if (record && (await isLive(record))) return
  const patience = { timeout: DEFAULT_TIMEOUT, signal: undefined, deferred: false }
  for (const loop of await listLoops()) {
    if (loop.name !== partOf(identity) || (await isBeneath(loop))) continue
    await removeLoop(loop, patience)
  }
}

/**
 * The device that shows a file: its own, or that of an array it is part of. A record may be older than
 * what its first file is mapped as now; only if both have the same record does it speak of this device.
 */
export async function deviceOf(identity: string): Promise<DmDevice | undefined> {
  const own = await findDevice({ uuid: uuidOf(identity) })
  if (own) return own
  const record = await readRecord(identity)
  const first = record?.identities[0]
  if (!record || first === undefined || first === identity) return undefined
  const device = await findDevice({ uuid: record.uuid })
  if (!device || !hasLiveTable(device)) return undefined
  return (await readRecord(first))?.id === record.id ? device : undefined
}

/**
 * What is left to do for the files of a device that is gone: what they have cached is from before its
 * writes, and they are let go. A file that is gone too, or is another by now, needs nothing.
 */
export async function finish({ files, identities, guard }: MappingRecord): Promise<void> {
  for (const [index, path] of files.entries()) {
    await using file = await BackingFile.open(path).catch((error: unknown) => {
      if (isSystemError(error, 'ENOENT', 'ENOTDIR') || error instanceof DmloopError)
        return undefined
      throw error
    })
    if (!file || file.identity !== identities[index]) continue
    await result(native.dropCache(file.handle.fd), path)
    if (guard === 'immutable') await letGo(file)
  }
}

/**
 * Undoes a guard that a crash or a reboot left on a file, and removes a device that was half-made.
 * Does nothing to a file without one. Rejects with DMLOOP_ALREADY_MAPPED while it is mapped.
 */
export async function releaseFile(file: string): Promise<void> {
  const patience = { timeout: DEFAULT_TIMEOUT, signal: undefined }
  await using backing = await BackingFile.open(pathOf(file, 'file'))
  await using claim = await Claim.take([backing.identity], patience)
  await clearDevices([backing], patience)
  await letGo(backing)
  await claim.clear()
}

/**
 * Lets go of files whose device is gone without us: removed by the kernel after a deferred unmap, or by
 * dmsetup. A file that somebody is at just now is left to them.
 */
export async function sweep(): Promise<void> {
  await sweepParts()
  for (const identity of await recordedIdentities()) {
    const record = await readRecord(identity)
    if (!record || (await isLive(record))) continue
    await sweepRecord(record.identities).catch((error: unknown) => {
      log('sweeping %s: %o', identity, error)
    })
  }
}

/** Parts of a mapping that nobody is at and that has no device. */
async function sweepParts(): Promise<void> {
  for (const { name } of await listLoops()) {
    const identity = partIdentityOf(name)
    if (identity === undefined) continue
    try {
      await using _ = await Claim.take([identity], { timeout: 0, signal: undefined })
      await removeParts(identity)
    } catch (error) {
      log('sweeping %s: %o', name, error)
    }
  }
}

async function sweepRecord(identities: readonly string[]): Promise<void> {
  await using claim = await Claim.take(identities, { timeout: 0, signal: undefined })
  // Between the look and the claim the file may have been mapped again.
  const record = await readRecord(identities[0] ?? '')
  if (!record || (await isLive(record))) return
  await removeLeftNode(record.node)
  await finish(record)
  await claim.clear()
  log('swept %o', record.files)
}
