// Loop devices: list, attach, detach (loop(4)).
import { stat } from 'node:fs/promises'
import { constants } from 'node:os'
import debug from 'debug'
import { isSystemError, systemError, dmloopError } from './errors.js'
import { stillOpenError } from './holders.js'
import { native, result, type LoopSettings, type LoopStatus } from './native.js'
import { holderNames, parseDevice, readText } from './sysfs.js'
import { poll, type RemovalRequest, type WaitLimit } from './wait.js'

const log = debug('dmloop:loop')

/** LO_FLAGS_* of linux/loop.h. */
const READ_ONLY = 1
const DIRECT_IO = 16

export interface Loop extends LoopStatus {
  path: string
}

export const isReadOnlyLoop = ({ flags }: LoopStatus): boolean => (flags & READ_ONLY) !== 0
export const hasDirectIo = ({ flags }: LoopStatus): boolean => (flags & DIRECT_IO) !== 0

export const loopPath = (number: number): string => `/dev/loop${number}`

const withPath = (status: LoopStatus): Loop => ({ ...status, path: loopPath(status.number) })

/** Returns a loop device; undefined when nothing is attached to it, or it does not exist. */
export async function findLoop(number: number): Promise<Loop | undefined> {
  try {
    return withPath(await result(native.loopStatus(number), loopPath(number)))
  } catch (error) {
    if (isSystemError(error, 'ENXIO', 'ENOENT', 'ENODEV')) return undefined
    throw error
  }
}

/** The loop device with a number, if it still has this name: one with another name is not dmloop's. */
export async function findNamedLoop({
  number,
  name,
}: Pick<Loop, 'number' | 'name'>): Promise<Loop | undefined> {
  const loop = await findLoop(number)
  return loop?.name === name ? loop : undefined
}

async function deviceNumberOf(number: number): Promise<Loop['device']> {
  const device = await readText(`/sys/block/loop${number}/dev`)
  if (device === undefined)
    throw systemError({ errno: -constants.errno.ENXIO, syscall: 'open' }, loopPath(number))
  return parseDevice(device)
}

/** The N of a device's kernel name, loopN; undefined when it has another. */
export function loopNumber(kernelName: string | undefined): number | undefined {
  const found = /^loop(\d+)$/.exec(kernelName ?? '')
  return found ? Number(found[1]) : undefined
}

/** All loop devices with a backing file; none where this process may not ask. */
export const listLoops = async (): Promise<Loop[]> =>
  (await result(native.loopList())).map(withPath)

/** Whether another device is stacked on a loop device. */
export async function hasHolders({ number }: Pick<Loop, 'number'>): Promise<boolean> {
  const device = await readText(`/sys/block/loop${number}/dev`)
  return device !== undefined && (await holderNames(device)).length > 0
}

/** Called with the device that will be used, before it is, unless another process takes it first. */
export type BeforeAttach = (loop: Pick<Loop, 'number' | 'device'>) => Promise<void>

/** Attaches an open file to a free loop device. Rejects with the driver's error. */
export async function attachLoop(
  fd: number,
  settings: LoopSettings,
  limit: WaitLimit,
  announce: BeforeAttach,
): Promise<Loop> {
  const made = await poll(async () => {
    const number = await result(native.loopGetFree(), '/dev/loop-control')
    const path = loopPath(number)
    const device = await deviceNumberOf(number)
    await makeNode(path, device)
    await announce({ number, device })
    try {
      await result(native.loopConfigure(path, fd, settings), path)
      return number
    } catch (error) {
      // Another process has taken it between the two calls.
      if (isSystemError(error, 'EBUSY')) return undefined
      throw error
    }
  }, limit)
  const loop = made === undefined ? undefined : await findLoop(made)
  if (!loop) {
    const detail = `found no free loop device in ${limit.timeout} ms`
    throw dmloopError('DMLOOP_TIMEOUT', {}, detail)
  }
  log('attached %s to %s', settings.name, loop.path)
  return loop
}

/** devtmpfs makes the node, but a container may have another /dev. */
export async function makeNode(path: string, { major, minor }: Loop['device']): Promise<void> {
  if (await stat(path).catch(() => undefined)) return
  try {
    await result(native.makeBlockNode(path, major, minor), path)
  } catch (error) {
    if (!isSystemError(error, 'EEXIST')) throw error
  }
}

/**
 * Detaches a loop device from its file. While somebody has it open it is tried again until the time is over;
 * then DMLOOP_STILL_OPEN says who. With `deferred` the driver does it when the last user closes it. A device
 * that has another name meanwhile is left alone.
 */
export async function detachLoop(
  { number, name }: Pick<Loop, 'number' | 'name'>,
  { deferred = false, ...limit }: RemovalRequest,
): Promise<'removed' | 'deferred'> {
  const path = loopPath(number)
  const outcome = await poll(async () => {
    try {
      const cleared = await result(native.loopClear(path, name, deferred), path)
      return cleared === 'busy' ? undefined : cleared
    } catch (error) {
      if (isSystemError(error, 'ENXIO', 'ENOENT')) return 'removed'
      throw error
    }
  }, limit)
  if (outcome === undefined) {
    const cause = systemError({ errno: -constants.errno.EBUSY, syscall: 'LOOP_CLR_FD' }, path)
    throw await stillOpenError(path, await deviceNumberOf(number), limit.timeout, cause)
  }
  log('%s %s', outcome, path)
  return outcome
}
