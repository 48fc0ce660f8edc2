// /dev/mapper/NAME: made by udev, or by us where udev does not run.
import { lstat, mkdir, readlink, rm } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import debug from 'debug'
import { isSystemError } from './errors.js'
import { native, result, type Cookie, type DmDevice } from './native.js'
import { identify } from './path.js'
import { poll } from './wait.js'

const log = debug('dmloop:udev')

/** DM_UEVENT_GENERATED_FLAG (linux/dm-ioctl.h). */
const UEVENT_GENERATED = 1 << 13

export const nodePath = (name: string): string => `/dev/mapper/${name}`

const CONTROL_SOCKET = '/run/udev/control'

/**
 * Whether udevd is running: its socket must belong to root, and a process must have it bound, because the
 * socket's file remains when udevd is killed. The kernel's list of sockets (/proc/net/unix) cannot be
 * trusted: users choose the names in it, line breaks included.
 */
async function udevRuns(): Promise<boolean> {
  try {
    const socket = await result(native.probeSocket(CONTROL_SOCKET), CONTROL_SOCKET)
    return socket?.uid === 0 && socket.bound
  } catch (error) {
    // A sandbox may forbid sockets. Without udev the nodes are made here.
    log('probing udevd: %o', error)
    return false
  }
}

/**
 * What udev is to do with a device: `true`, scan it like any disk; `false`, only make its node; undefined,
 * the same as last time.
 */
export type UdevScan = boolean | undefined

/** DM_UDEV_*_FLAG of libdevmapper.h, above the cookie's key. */
const FLAGS_SHIFT = 16
/** Without it 10-dm.rules treats an event as spurious, and takes the flags from udev's database. */
const PRIMARY_SOURCE = 0x40
/** Subsystem, disk and other rules: the flags that LVM and cryptsetup set for their internal devices. */
const DISABLE_ALL_BUT_DM_RULES = 0x02 | 0x04 | 0x08

function flagsFor(scan: UdevScan): number {
  if (scan === undefined) return 0
  return (scan ? PRIMARY_SOURCE : PRIMARY_SOURCE | DISABLE_ALL_BUT_DM_RULES) << FLAGS_SHIFT
}

/**
 * Runs an ioctl that causes an event, and waits until udev has processed it. The ioctl has taken effect
 * whatever happens to the wait, so neither a timeout nor a removed semaphore is an error. The caller checks
 * whether the node exists.
 */
export async function withUdev(
  act: (cookie: number) => Promise<DmDevice>,
  timeout: number,
  scan: UdevScan,
): Promise<DmDevice> {
  const flags = flagsFor(scan)
  const cookie = (await udevRuns()) ? await createCookie() : undefined
  // A udevd in another namespace uses the flags as well.
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

/** Any user can use up all semaphores: then there is no waiting for udev. */
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

/** The name and the number of a device's node. */
export type DeviceNode = Pick<DmDevice, 'name' | 'major' | 'minor'>

/** Whether a path is that of a node of a device. */
async function isNodeOf(path: string, device: DeviceNode): Promise<boolean> {
  try {
    const { isBlockDevice, major, minor } = await identify(path)
    return isBlockDevice && major === device.major && minor === device.minor
  } catch (error) {
    if (isSystemError(error, 'ENOENT', 'ELOOP')) return false
    throw error
  }
}

/** Milliseconds to wait for udev to process an event that another process has caused. */
const UDEV_TIMEOUT = 2000

/** Waits for udev, where it runs, to make /dev/mapper/NAME. */
export async function awaitNode(device: DmDevice): Promise<void> {
  const path = nodePath(device.name)
  if ((await isNodeOf(path, device)) || !(await udevRuns())) return
  const ask = async (): Promise<true | undefined> =>
    (await isNodeOf(path, device)) ? true : undefined
  await poll(ask, { timeout: UDEV_TIMEOUT, signal: undefined })
}

/** Makes sure that /dev/mapper/NAME is this device. A link or node that was left there is replaced. */
export async function ensureNode(device: DmDevice): Promise<void> {
  const path = nodePath(device.name)
  if (await isNodeOf(path, device)) return
  try {
    await makeNode(path, device)
  } catch (error) {
    if (!isSystemError(error, 'EEXIST', 'ENOENT')) throw error
    await mkdir(dirname(path), { recursive: true })
    await rm(path, { force: true })
    await makeNode(path, device).catch(async (failure: unknown) => {
      // A udevd in another network namespace, whose socket cannot be seen, may have been faster.
      if (!isSystemError(failure, 'EEXIST') || !(await isNodeOf(path, device))) throw failure
    })
  }
  log('made %s', path)
}

const makeNode = (path: string, { major, minor }: DeviceNode): Promise<void> =>
  result(native.makeBlockNode(path, major, minor), path)

/** Removes /dev/mapper/NAME if it is still the node of this device, which has been removed. */
export async function removeNode(device: DeviceNode): Promise<void> {
  const path = nodePath(device.name)
  const link = await lstat(path).catch((error: unknown) => {
    if (isSystemError(error, 'ENOENT')) return undefined
    throw error
  })
  if (!link) return
  // Another mapping may have the same name now.
  const stale = link.isSymbolicLink()
    ? basename(await readlink(path)) === `dm-${device.minor}`
    : await isNodeOf(path, device)
  if (stale) await rm(path, { force: true })
}
