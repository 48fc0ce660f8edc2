// A device gets its name: the one asked for, or the first free one after its file.
import debug from 'debug'
import { Claim, claimsOf, readRecords } from './file-lock.js'
import { findDevice, listDevices, nameTaken } from './kernel/device-mapper.js'
import { DmloopError } from './kernel/errors.js'
import type { Loop } from './kernel/loop.js'
import { checkedName, namesAfter } from './plan/names.js'
import type { MapRequest } from './options.js'
import { loopOf } from './recovery.js'
import type { Patience } from './kernel/wait.js'

const log = debug('dmloop:device-name')

/** The loop device that is a mapping of that name by itself: only its record has it. */
export async function loopNamed(name: string): Promise<Loop | undefined> {
  for (const record of (await readRecords()).values()) {
    const loop = record.node.name === name ? await loopOf(record) : undefined
    if (loop) return loop
  }
  return undefined
}

/** Whether a device-mapper device or a mapping has a name. */
export const isNameTaken = async (name: string): Promise<boolean> =>
  (await findDevice({ name })) !== undefined || (await loopNamed(name)) !== undefined

/** All such names. */
async function takenNames(): Promise<Set<string>> {
  const names = new Set((await listDevices()).map(({ name }) => name))
  for (const record of (await readRecords()).values()) {
    if (await loopOf(record)) names.add(record.node.name)
  }
  return names
}

/** Claims on names lie beside those on files, whose identities start with a number. */
const PREFIX = 'name-'

/**
 * Has a device made that bears a name. A name is claimed while it is given: the kernel keeps two
 * device-mapper devices from having the same one, but a loop device has it in its record only. Where none
 * was asked for, a taken name is followed by the next; otherwise it is DMLOOP_NAME_TAKEN.
 */
export async function makeNamed<T>(
  file: string,
  request: Pick<MapRequest, 'name'> & Patience,
  make: (name: string) => Promise<T>,
): Promise<T> {
  await sweepNames()
  if (request.name !== undefined) return await makeAs(checkedName(request.name), request, make)
  const names = namesAfter(file)
  for (let taken: ReadonlySet<string> = new Set(); ; taken = await takenNames()) {
    let name = names.next().value
    while (taken.has(name)) name = names.next().value
    try {
      return await makeAs(name, request, make)
    } catch (error) {
      if (!(error instanceof DmloopError) || error.code !== 'DMLOOP_NAME_TAKEN') throw error
      log('%s is taken', name)
    }
  }
}

async function makeAs<T>(
  name: string,
  patience: Patience,
  make: (name: string) => Promise<T>,
): Promise<T> {
  await using _ = await Claim.take([PREFIX + name], patience)
  if (await isNameTaken(name)) throw nameTaken(name)
  return await make(name)
}

/** Takes away the claims on names that killed processes have left. */
export async function sweepNames(): Promise<void> {
  for (const identity of await claimsOf(PREFIX)) {
    await using _ = await Claim.take([identity], { timeout: 0, signal: undefined }).catch(
      (error: unknown) => {
        log('%s: %o', identity, error)
        return undefined
      },
    )
  }
}
