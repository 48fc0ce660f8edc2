// Loop devices: which there are, make one, let it go (loop(4)).
import { readdir, stat } from 'node:fs/promises'
import debug from 'debug'
import { isSystemError, systemError, verdict } from './errors.js'
import { stillOpen } from './holders.js'
import { native, result, type LoopSettings, type LoopStatus } from './native.js'
import { parseDevice, readText } from './sysfs.js'
import { poll, type Patience } from './wait.js'

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

/** What a loop device shows; undefined when it shows nothing, or is not there. */
export async function findLoop(number: number): Promise<Loop | undefined> {
  try {
    return withPath(await result(native.loopStatus(number), loopPath(number)))
  } catch (error) {
    if (isSystemError(error, 'ENXIO', 'ENOENT', 'ENODEV')) return undefined
    throw error
  }
}

/** That loop device, while it bears the name: another name is somebody else's. */
export async function findNamedLoop({
  number,
  name,
}: Pick<Loop, 'number' | 'name'>): Promise<Loop | undefined> {
  const loop = await findLoop(number)
  return loop?.name === name ? loop : undefined
}

async function numberOf(number: number): Promise<Loop['device']> {
  const device = await readText(`/sys/block/loop${number}/dev`)
  if (device === undefined) throw systemError({ errno: -6, syscall: 'open' }, loopPath(number))
  return parseDevice(device)
}

/** The N of a device's kernel name, loopN; undefined when it has another. */
export function loopNumber(kernelName: string | undefined): number | undefined {
  const found = /^loop(\d+)$/.exec(kernelName ?? '')
  return found ? Number(found[1]) : undefined
}

/** Every loop device that shows something and says what; none for a process that may not ask. */
export const listLoops = async (): Promise<Loop[]> =>
  (await result(native.loopList())).map(withPath)

/** Whether another device is made of a loop device. */
export async function isBeneath({ number }: Pick<Loop, 'number'>): Promise<boolean> {
  const holders = await readdir(`/sys/block/loop${number}/holders`).catch(() => [])
  return holders.length > 0
}

/** Is told which device will be used, if nobody is faster, before it is. */
export type Announce = (loop: Pick<Loop, 'number' | 'device'>) => Promise<void>

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
    const device = await numberOf(number)
    await makeNode(path, device)
    await announce({ number, device })
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
async function makeNode(path: string, { major, minor }: Loop['device']): Promise<void> {
  if (await stat(path).catch(() => undefined)) return
  try {
    await result(native.makeBlockNode(path, major, minor), path)
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
  { number, name }: Pick<Loop, 'number' | 'name'>,
  { deferred, ...patience }: Patience & { deferred: boolean },
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
  }, patience)
  if (outcome === undefined) {
    const cause = systemError({ errno: -16, syscall: 'LOOP_CLR_FD' }, path)
    throw await stillOpen(path, await numberOf(number), patience.timeout, cause)
  }
  log('%s %s', outcome, path)
  return outcome
}
