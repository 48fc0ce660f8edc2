// Loop devices: which there are, make one, let it go (loop(4)).
import { constants } from 'node:fs'
import { open, readdir, stat } from 'node:fs/promises'
import debug from 'debug'
import { DmloopError, isSystemError, problem, systemError, verdict } from './errors.js'
import { holdersOf } from './holders.js'
import { native, result, type LoopSettings, type LoopStatus } from './native.js'
import { poll, type Patience } from './wait.js'

const log = debug('dmloop:loop')

/** The driver's (Documentation/admin-guide/devices.txt). */
export const LOOP_MAJOR = 7

/** LO_FLAGS_* of linux/loop.h. */
const READ_ONLY = 1
const DIRECT_IO = 16

export interface Loop extends LoopStatus {
  path: string
  /** N of /dev/loopN, and the device's minor number. */
  number: number
}

export const isReadOnlyLoop = ({ flags }: LoopStatus): boolean => (flags & READ_ONLY) !== 0
export const hasDirectIo = ({ flags }: LoopStatus): boolean => (flags & DIRECT_IO) !== 0

export const loopPath = (number: number): string => `/dev/loop${number}`

/** What a loop device shows; undefined when it shows nothing, or is not there. */
export async function findLoop(number: number): Promise<Loop | undefined> {
  const path = loopPath(number)
  try {
    return { ...(await result(native.loopStatus(path), path)), path, number }
  } catch (error) {
    if (isSystemError(error, 'ENXIO', 'ENOENT', 'ENODEV')) return undefined
    throw error
  }
}

/** Every loop device that shows something; none for a process that may not ask the driver. */
export async function listLoops(): Promise<Loop[]> {
  const names = await readdir('/sys/block').catch(() => [])
  const loops: Loop[] = []
  for (const name of names.filter((each) => each.startsWith('loop'))) {
    // A device has this folder while it shows something.
    if (!(await stat(`/sys/block/${name}/loop`).catch(() => undefined))) continue
    const loop = await findLoop(Number(name.slice('loop'.length))).catch((error: unknown) => {
      if (isSystemError(error, 'EACCES', 'EPERM')) return undefined
      throw error
    })
    if (loop) loops.push(loop)
  }
  return loops
}

/** Whether another device is made of a loop device. */
export async function isBeneath({ number }: Loop): Promise<boolean> {
  const holders = await readdir(`/sys/block/loop${number}/holders`).catch(() => [])
  return holders.length > 0
}

/** Is told the number of the device that will be used, if nobody is faster, before it is. */
export type Announce = (number: number) => Promise<void>

/** Has a free loop device show an open file. Rejects with the driver's error. */
export async function createLoop(
  fd: number,
  settings: LoopSettings,
  patience: Patience,
  announce: Announce,
): Promise<Loop> {
  const made = await poll(async () => {
    const number = await result(native.loopGetFree(), '/dev/loop-control')
    const path = loopPath(number)
    await makeNode(path, number)
    await announce(number)
    try {
      await result(native.loopConfigure(path, fd, settings), path)
      return number
    } catch (error) {
      // Between the two calls somebody else has taken it.
      if (isSystemError(error, 'EBUSY')) return undefined
      throw error
    }
  }, patience)
  const loop = made === undefined ? undefined : await findLoop(made)
  if (!loop) {
    const detail = `found no free loop device in ${patience.timeout} ms`
    throw verdict('DMLOOP_TIMEOUT', {}, detail)
  }
  log('%s shows %s', loop.path, settings.name)
  return loop
}

/** devtmpfs makes the node; a container may have none. */
async function makeNode(path: string, number: number): Promise<void> {
  if (await stat(path).catch(() => undefined)) return
  try {
    await result(native.makeBlockNode(path, LOOP_MAJOR, number), path)
  } catch (error) {
    if (!isSystemError(error, 'EEXIST')) throw error
  }
}

/**
 * Has a loop device show nothing any more. While somebody has it open it is tried again until the time is
 * over; then DMLOOP_STILL_OPEN says who. With `deferred` the driver does it when the last user leaves. A
 * device that shows something else by now is left alone.
 */
export async function removeLoop(
  loop: Loop,
  { deferred, ...patience }: Patience & { deferred: boolean },
): Promise<'removed' | 'deferred'> {
  const { path, number, name } = loop
  const current = async (): Promise<Loop | undefined> => {
    const found = await findLoop(number)
    return found?.name === name ? found : undefined
  }
  const outcome = await poll(async () => {
    if (!(await current())) return 'removed'
    await flush(path)
    await result(native.loopClear(path), path).catch(ignoreGone)
    const left = await current()
    if (!left) return 'removed'
    if (deferred) return 'deferred'
    // The driver would let it go with its last user, whenever that is: it is not to.
    await result(native.loopResize(path, left.size), path).catch(ignoreGone)
    return undefined
  }, patience)
  if (outcome === undefined) throw await stillOpen(loop, patience.timeout)
  log('%s %s', outcome, path)
  return outcome
}

function ignoreGone(error: unknown): void {
  if (!isSystemError(error, 'ENXIO')) throw error
}

/** What is written to the device is in the file, whoever has the device open. */
async function flush(path: string): Promise<void> {
  await using device = await open(path, constants.O_RDONLY)
  await device.sync()
}

async function stillOpen({ path, number }: Loop, timeout: number): Promise<DmloopError> {
  const holders = await holdersOf({ major: LOOP_MAJOR, minor: number })
  const by = holders.length === 0 ? '' : ` by ${holders.join(', ')}`
  const detail = `is still open${by} after ${timeout} ms`
  const cause = systemError({ errno: -16, syscall: 'LOOP_CLR_FD' }, path)
  return new DmloopError(problem('DMLOOP_STILL_OPEN', { file: path }, detail), undefined, { cause })
}
