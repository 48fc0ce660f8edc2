// What an earlier process left behind: half-made devices, guards, records of mappings that are gone.
import debug from 'debug'
import type { BackingFile } from './plan/backing-file.js'
import { Claim, openClaimed, readRecord, readRecords, type MappingRecord } from './file-lock.js'
import { withDeadline } from './kernel/deadline.js'
import {
  alreadyMapped,
  assertAlone,
  findDevice,
  hasLiveTable,
  removeDevice,
  removeLeftNode,
} from './kernel/device-mapper.js'
import { letGo, markOf, takeHoldsOff } from './guard.js'
import { findNamedLoop, isBeneath, listLoops, removeLoop, type Loop } from './kernel/loop.js'
import { partIdentityOf, partOf, uuidOf } from './plan/names.js'
import { MappedFiles, recordWithout } from './mapped-files.js'
import type { Mark } from './plan/mark.js'
import type { DmDevice } from './kernel/native.js'
import { DEFAULT_TIMEOUT, pathOf, PATIENCE } from './options.js'
import { expelStalePages } from './page-cache.js'
import { drawPlan } from './plan/plan-file.js'
import { nodePath, sweepCookies } from './kernel/udev.js'
import type { Patience } from './kernel/wait.js'

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
    const device = await deviceOf(file, record)
    if (device && hasLiveTable(device)) throw alreadyMapped(path, nodePath(device.name))
    if (device) {
      log('removing %s, left half-made', device.name)
      await removeDevice(device, { ...patience, deferred: false })
    }
    await removeParts(identity, record)
    if (record) await clearRecord(file, record)
    const mark = await markOf(file)
    if (mark) await clearGuard(file, mark)
    // What is cached may be from before the writes of a device that was never marked.
    else if (record?.backend === 'linear') await expelStalePages(file)
  }
  await claim.clear()
}

/** Finishes with a mapping that is gone, as far as it is this file's. */
async function clearRecord(file: BackingFile, record: MappingRecord): Promise<void> {
  if (await isLive(record)) {
    const loop = await loopOf(record)
    throw alreadyMapped(file.path, loop?.path ?? nodePath(record.node.name))
  }
  await removeLeftNode(record.node)
}

/**
 * Takes off a guard that nobody needs any more. Its file may still be mapped, from when its filesystem's
 * device had another number: then its blocks are, and the guard stays (DMLOOP_ALREADY_MAPPED). Where it
 * cannot be told, as the file could not be mapped now, the guard stays as well.
 */
async function clearGuard(file: BackingFile, mark: Mark): Promise<void> {
  const { plan } = await drawPlan([file], {
    offset: 0,
    length: undefined,
    readOnly: true,
    holes: 'zero',
  })
  if (plan.problems.length > 0) return
  await assertAlone({ uuid: '' }, plan.segments, file.path)
  await letGo(file)
  if (mark.identity !== file.identity) await forget(mark)
}

/** Clears the record of a file that was mapped when its filesystem's device had another number. */
async function forget({ identity, id }: Mark): Promise<void> {
  try {
    await using claim = await Claim.take([identity], { timeout: 0, signal: undefined })
    if (claim.recordOf(identity)?.id === id) await claim.clear()
  } catch (error) {
    // It is swept up later.
    log('%s: %o', identity, error)
  }
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
  file: BackingFile,
  record: MappingRecord | undefined,
): Promise<DmDevice | undefined> {
  const own = await findDevice({ uuid: uuidOf(file.identity) })
  if (own) return own
  const marked = await deviceOfMark(file)
  if (marked) return marked
  const first = record?.identities[0]
  if (!record || first === undefined || first === file.identity) return undefined
  const device = await findDevice({ uuid: record.uuid })
  if (!device || !hasLiveTable(device)) return undefined
  return (await readRecord(first))?.id === record.id ? device : undefined
}

/**
 * The device that a file's mark speaks of: that of an array, or of a file whose filesystem's device had another
 * number. Where it is one that was made since, its first file bears another mark.
 */
async function deviceOfMark(file: BackingFile): Promise<DmDevice | undefined> {
  const mark = await markOf(file)
  if (!mark || (mark.first ?? mark.identity) === file.identity) return undefined
  const device = await findDevice({ uuid: uuidOf(mark.first ?? mark.identity) })
  if (!device || !hasLiveTable(device)) return undefined
  return (await recordWithout(device)).id === mark.id ? device : undefined
}

/**
 * Undoes a guard that a crash or a reboot left on a file, and removes a device that was half-made.
 * Does nothing to a file without one. Rejects with DMLOOP_ALREADY_MAPPED while it is mapped.
 */
export async function releaseFile(file: string): Promise<void> {
  const path = pathOf(file, 'file')
  await withDeadline(PATIENCE, () => release(path))
}

async function release(path: string): Promise<void> {
  const { files, claim } = await openClaimed([path], PATIENCE)
  await using _ = files
  await using held = claim
  await clearDevices(files.list, held, PATIENCE)
  for (const each of files.list) await takeHoldsOff(each)
}

/**
 * Lets go of files whose device is gone without us: removed by the kernel after a deferred unmap, or by
 * dmsetup. A file that somebody is at just now is left to them.
 */
export async function sweep(): Promise<void> {
  await sweepCookies()
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
  const patience = { timeout: 0, signal: undefined }
  await using claim = await Claim.take(identities, patience)
  // Between the look and the claim the file may have been mapped again.
  const record = claim.recordOf(identity)
  if (record?.id !== id || (await isLive(record))) return
  await using files = await MappedFiles.find(record)
  await files.lock(patience)
  await removeLeftNode(record.node)
  await files.finish()
  await claim.clearOf(record)
  log('swept %o', record.files)
}
