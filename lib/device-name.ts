// Naming a device: the name asked for, or the first free one after its file.
import debug from 'debug'
import { inBatches } from './kernel/batch.js'
import { findDevice, listDevices, nameTaken } from './kernel/device-mapper.js'
import { DmloopError } from './kernel/errors.js'
import type { Loop } from './kernel/loop.js'
import type { WaitLimit } from './kernel/wait.js'
import { FileLock } from './file-lock.js'
import type { MapRequest } from './options.js'
import { checkedName, namesAfter } from './plan/names.js'
import { readRecords } from './record.js'
import { loopOf } from './recovery.js'

const log = debug('dmloop:device-name')

/** The loop device of the mapping with a name: only the record of such a mapping has its name. */
export async function findLoopNamed(name: string): Promise<Loop | undefined> {
  for (const record of (await readRecords()).values()) {
    const loop = record.node.name === name ? await loopOf(record) : undefined
    if (loop) return loop
  }
  return undefined
}

/** Whether a device-mapper device or a mapping has a name. */
export async function isNameTaken(name: string): Promise<boolean> {
  const found = await inBatches(() => Promise.all([findDevice({ name }), findLoopNamed(name)]))
  return found.some((device) => device !== undefined)
}

/** All such names. */
async function takenNames(): Promise<Set<string>> {
  const names = new Set((await listDevices()).map(({ name }) => name))
  for (const record of (await readRecords()).values()) {
    if (await loopOf(record)) names.add(record.node.name)
  }
  return names
}

/** Of the locks on names; see `sweepLocks`. */
const PREFIX = 'name-'

/**
 * Creates a device with a name. The name is locked meanwhile: the kernel gives it to one device-mapper device
 * only, but that of a loop device is in its record alone. If no name was asked for, the next is tried where
 * one is taken; otherwise it rejects with DMLOOP_NAME_TAKEN.
 */
export async function createNamed<T>(
  file: string,
  request: Pick<MapRequest, 'name'> & WaitLimit,
  make: (name: string) => Promise<T>,
): Promise<T> {
  if (request.name !== undefined) return await createAs(checkedName(request.name), request, make)
  const names = namesAfter(file)
  for (let taken: ReadonlySet<string> = new Set(); ; taken = await takenNames()) {
    let name = names.next().value
    while (taken.has(name)) name = names.next().value
    try {
      return await createAs(name, request, make)
    } catch (error) {
      if (!(error instanceof DmloopError) || error.code !== 'DMLOOP_NAME_TAKEN') throw error
      log('%s is taken', name)
    }
  }
}

async function createAs<T>(
  name: string,
  limit: WaitLimit,
  make: (name: string) => Promise<T>,
): Promise<T> {
  await using _ = await FileLock.take([PREFIX + name], limit)
  if (await isNameTaken(name)) throw nameTaken(name)
  return await make(name)
}
