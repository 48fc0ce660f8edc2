// /dev/mapper/NAME: udev makes it where udev runs, and we do where it does not.
import { lstat, mkdir, readlink, rm, stat } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import debug from 'debug'
import { isSystemError } from './errors.js'
import { native, result, type Cookie, type DmDevice } from './native.js'
import { splitDevice } from './sysfs.js'
import { poll } from './wait.js'

const log = debug('dmloop:udev')

/** DM_UEVENT_GENERATED_FLAG (linux/dm-ioctl.h). */
const UEVENT_GENERATED = 1 << 13

export const nodePath = (name: string): string => `/dev/mapper/${name}`

const CONTROL_SOCKET = '/run/udev/control'

/**
 * Whether udevd listens. Its socket's file outlives a killed udevd, so that somebody must have the
 * socket; and the file must be root's. The kernel's list of sockets (/proc/net/unix) is no witness:
 * it shows the names that users give to theirs, line breaks and all.
 */
async function udevRuns(): Promise<boolean> {
  try {
    const socket = await result(native.lookAtSocket(CONTROL_SOCKET), CONTROL_SOCKET)
    return socket?.uid === 0 && socket.bound
  } catch (error) {
    // A sandbox may have no sockets. Without udev everything works, its nodes included.
    log('looking for udevd: %o', error)
    return false
  }
}

/**
 * What udev is to do with a device: `true`, all that it does with a disk; `false`, make the node and
 * look no further; undefined, what it did with it last time.
 */
export type UdevScan = boolean | undefined

/** DM_UDEV_*_FLAG of libdevmapper.h, above the cookie's key. */
const FLAGS_SHIFT = 16
/** Without it 10-dm.rules takes an event for a spurious one, and its flags from udev's database. */
const PRIMARY_SOURCE = 0x40
/** For subsystems, disks and others: what LVM and cryptsetup have for devices of their own. */
const DISABLE_ALL_BUT_DM_RULES = 0x02 | 0x04 | 0x08

function flagsFor(scan: UdevScan): number {
  if (scan === undefined) return 0
  return (scan ? PRIMARY_SOURCE : PRIMARY_SOURCE | DISABLE_ALL_BUT_DM_RULES) << FLAGS_SHIFT
}

/**
 * Runs an ioctl that makes udev act, and waits until udev's rules have run. What the ioctl did is done,
 * so nothing that happens to the wait is an error: not the end of the time, nor that somebody removed
 * the semaphore. Whether the node is there is for the caller to see.
 */
export async function withUdev(
  act: (cookie: number) => Promise<DmDevice>,
  timeout: number,
  scan: UdevScan,
): Promise<DmDevice> {
  const flags = flagsFor(scan)
  const cookie = (await udevRuns()) ? await createCookie() : undefined
  // A udev that cannot be seen from here has use for the flags.
  if (!cookie) return act(flags)
  const { handle, base } = cookie
  try {
    const device = await act(flags | base)
    if ((device.flags & UEVENT_GENERATED) !== 0) {
      const done = await poll(
        async () => ((await pendingEvents(handle)) === 0 ? true : undefined),
        { timeout, signal: undefined },
      )
      if (!done) log('udev did not finish with %s in %d ms', device.name, timeout)
    }
    return device
  } finally {
    await result(native.destroyCookie(handle)).catch(ignoreGoneSemaphore)
  }
}

/** Any user can take all the semaphores there are: then nobody waits for udev. */
async function createCookie(): Promise<{ handle: Cookie; base: number } | undefined> {
  try {
    return await result(native.createCookie())
  } catch (error) {
    log('no cookie: %o', error)
    return undefined
  }
}

/** Removes the cookies that killed processes have left. */
export async function sweepCookies(): Promise<void> {
  try {
    log('%d cookies were left', await result(native.sweepCookies()))
  } catch (error) {
    log('sweeping cookies: %o', error)
  }
}

const pendingEvents = (cookie: Cookie): Promise<number> =>
  result(native.pendingEvents(cookie)).catch((error: unknown) => {
    ignoreGoneSemaphore(error)
    return 0
  })

/** `dmsetup udevcomplete_all` removes the semaphores of everyone. */
function ignoreGoneSemaphore(error: unknown): void {
  if (!isSystemError(error, 'EINVAL', 'EIDRM')) throw error
}

/** What the node of a device is called, and where it leads. */
export type DeviceNode = Pick<DmDevice, 'name' | 'major' | 'minor'>

/** Whether a path leads to a device. */
async function leadsTo(path: string, device: DeviceNode): Promise<boolean> {
  try {
    const found = await stat(path)
    const { major, minor } = splitDevice(found.rdev)
    return found.isBlockDevice() && major === device.major && minor === device.minor
  } catch (error) {
    if (isSystemError(error, 'ENOENT', 'ELOOP')) return false
    throw error
  }
}

/** Milliseconds that udev has for an event that somebody else has caused. */
const UDEV_TIMEOUT = 2000

/** Gives udev, where it runs, the time to make /dev/mapper/NAME itself. */
export async function awaitNode(device: DmDevice): Promise<void> {
  const path = nodePath(device.name)
  if ((await leadsTo(path, device)) || !(await udevRuns())) return
  const ask = async (): Promise<true | undefined> =>
    (await leadsTo(path, device)) ? true : undefined
  await poll(ask, { timeout: UDEV_TIMEOUT, signal: undefined })
}

/** Makes sure that /dev/mapper/NAME is this device; a left-over link or node is replaced. */
export async function ensureNode(device: DmDevice): Promise<void> {
  const path = nodePath(device.name)
  if (await leadsTo(path, device)) return
  try {
    await makeNode(path, device)
  } catch (error) {
    if (!isSystemError(error, 'EEXIST', 'ENOENT')) throw error
    await mkdir(dirname(path), { recursive: true })
    await rm(path, { force: true })
    await makeNode(path, device).catch(async (failure: unknown) => {
      // A udev that cannot be seen from here (another network namespace) may have been faster.
      if (!isSystemError(failure, 'EEXIST') || !(await leadsTo(path, device))) throw failure
    })
  }
  log('made %s', path)
}

const makeNode = (path: string, { major, minor }: DeviceNode): Promise<void> =>
  result(native.makeBlockNode(path, major, minor), path)

/** Makes sure that /dev/mapper/NAME does not lead to a device that has been removed. */
export async function removeNode(device: DeviceNode): Promise<void> {
  const path = nodePath(device.name)
  const link = await lstat(path).catch((error: unknown) => {
    if (isSystemError(error, 'ENOENT')) return undefined
    throw error
  })
  if (!link) return
  // Another mapping may have the name by now: only what still points to this device goes.
  const stale = link.isSymbolicLink()
    ? basename(await readlink(path)) === `dm-${device.minor}`
    : await leadsTo(path, device)
  if (stale) await rm(path, { force: true })
}
