// What an earlier process left behind: half-made devices, guards, records of mappings that are gone.
import debug from 'debug'
import { BackingFile } from './backing-file.js'
import { Claim, readRecord, readRecords, type MappingRecord } from './claim.js'
import {
  alreadyMapped,
  assertAlone,
  findDevice,
  hasLiveTable,
  removeDevice,
  removeLeftNode,
} from './device-mapper.js'
import { DmloopError, isSystemError } from './errors.js'
import { isMarked, letGo } from './guard.js'
import { findNamedLoop, isBeneath, listLoops, removeLoop, type Loop } from './loop.js'
import { partIdentityOf, partOf, uuidOf } from './names.js'
import { native, result, type DmDevice } from './native.js'
import { DEFAULT_TIMEOUT, pathOf } from './options.js'
import { drawPlan } from './plan-file.js'
import { nodePath } from './udev.js'
import type { Patience } from './wait.js'

const log = debug('dmloop:remains')

/**
 * Rejects with DMLOOP_ALREADY_MAPPED if one of the files has a mapping. What a crash or a deferred unmap has
 * left of one is taken away: the claim, which covers the files, says that nobody is at it.
 */
export async function clearDevices(
  files: readonly BackingFile[],
  claim: Claim,
  patience: Patience,
): Promise<void> {
  for (const file of files) {
    const { identity, path } = file
    const record = claim.recordOf(identity)
    const device = await deviceOf(identity, record)
    if (device && hasLiveTable(device)) throw alreadyMapped(path, nodePath(device.name))
    if (device) {
      log('removing %s, left half-made', device.name)
      await removeDevice(device, { ...patience, deferred: false })
    }
    await removeParts(identity, record)
    if (record) await clearRecord(file, record)
    if (await isMarked(file)) await clearGuard(file)
  }
  await claim.clear()
}

/** Finishes with a mapping that is gone, as far as it is this file's. */
async function clearRecord({ path, fd }: BackingFile, record: MappingRecord): Promise<void> {
  if (await isLive(record)) {
    const loop = await loopOf(record)
    throw alreadyMapped(path, loop?.path ?? nodePath(record.node.name))
  }
  await removeLeftNode(record.node)
  // What is cached is from before the device's writes.
  await result(native.dropCache(fd), path)
}

/**
 * Takes off a guard that nobody needs any more. Its file may still be mapped, from when its filesystem's
 * device had another number: then its blocks are, and the guard stays (DMLOOP_ALREADY_MAPPED). Where it
 * cannot be told, as the file could not be mapped now, the guard stays as well.
 */
async function clearGuard(file: BackingFile): Promise<void> {
  const { plan } = await drawPlan([file], {
    offset: 0,
    length: undefined,
    readOnly: true,
    holes: 'zero',
  })
  if (plan.problems.length > 0) return
  await assertAlone({ uuid: '' }, plan.segments, file.path)
  await letGo(file)
}

/** The loop device that is a mapping by itself, if its record speaks of one that is there. */
export async function loopOf({ loops, uuid }: MappingRecord): Promise<Loop | undefined> {
  const [only] = loops
  return only?.name === uuid ? await findNamedLoop(only) : undefined
}

/**
 * Whether a record's mapping is there, and live. Its UUID alone does not tell: the first of its files may
 * have been mapped anew, and then has another record.
 */
async function isLive(record: MappingRecord): Promise<boolean> {
  const current = await readRecord(record.identities[0] ?? '')
  if (current?.id !== record.id) return false
  const device = await findDevice({ uuid: record.uuid })
  if (device) return hasLiveTable(device)
  return (await loopOf(record)) !== undefined
}

/** Loop devices that a crash left before they were joined, or after they were parted. */
async function removeParts(identity: string, record: MappingRecord | undefined): Promise<void> {
  const parts = (await listLoops()).filter(({ name }) => name === partOf(identity))
  if (parts.length === 0 || (record && (await isLive(record)))) return
  const patience = { timeout: DEFAULT_TIMEOUT, signal: undefined, deferred: false }
  for (const loop of parts) {
    if (!(await isBeneath(loop))) await removeLoop(loop, patience)
  }
}

/**
 * The device that shows a file: its own, or that of an array it is part of. A record may be older than
 * what its first file is mapped as now; only if both have the same record does it speak of this device.
 */
export async function deviceOf(
  identity: string,
  record: MappingRecord | undefined,
): Promise<DmDevice | undefined> {
  const own = await findDevice({ uuid: uuidOf(identity) })
  if (own) return own
  const first = record?.identities[0]
  if (!record || first === undefined || first === identity) return undefined
  const device = await findDevice({ uuid: record.uuid })
  if (!device || !hasLiveTable(device)) return undefined
  return (await readRecord(first))?.id === record.id ? device : undefined
}

/**
 * What is left to do for the files of a device that is gone: what they have cached is from before its
 * writes, and they are let go. A file that is gone too, or is another by now, or has been mapped anew,
 * needs nothing.
 */
export async function finish({ id, files, identities, guard }: MappingRecord): Promise<void> {
  for (const [index, path] of files.entries()) {
    const identity = identities[index] ?? ''
    if ((await readRecord(identity))?.id !== id) continue
    await using file = await BackingFile.open(path).catch((error: unknown) => {
      if (isSystemError(error, 'ENOENT', 'ENOTDIR') || error instanceof DmloopError)
        return undefined
      throw error
    })
    if (file?.identity !== identity) continue
    await result(native.dropCache(file.fd), path)
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
  await clearDevices([backing], claim, patience)
  await letGo(backing)
}

/**
 * Lets go of files whose device is gone without us: removed by the kernel after a deferred unmap, or by
 * dmsetup. A file that somebody is at just now is left to them.
 */
export async function sweep(): Promise<void> {
  await sweepParts()
  for (const [identity, record] of await readRecords()) {
    if (await isLive(record)) continue
    await sweepRecord(identity, record).catch((error: unknown) => {
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
      await using claim = await Claim.take([identity], { timeout: 0, signal: undefined })
      await removeParts(identity, claim.recordOf(identity))
    } catch (error) {
      log('sweeping %s: %o', name, error)
    }
  }
}

async function sweepRecord(identity: string, { id, identities }: MappingRecord): Promise<void> {
  await using claim = await Claim.take(identities, { timeout: 0, signal: undefined })
  // Between the look and the claim the file may have been mapped again.
  const record = claim.recordOf(identity)
  if (record?.id !== id || (await isLive(record))) return
  await removeLeftNode(record.node)
  await finish(record)
  await claim.clearOf(record)
  log('swept %o', record.files)
}
