// Finding the file of a mapping again: by its identity, never by its path alone.
import { opendir } from 'node:fs/promises'
import { join } from 'node:path'
import debug from 'debug'
import { isSystemError } from './kernel/errors.js'
import { native, result } from './kernel/native.js'
import { FILESYSTEMS } from './kernel/policy.js'
import type { SegmentTable } from './kernel/segments.js'
import { deviceName, mountsOf } from './kernel/sysfs.js'
import { BackingFile } from './plan/backing-file.js'
import { ownMark } from './plan/mark.js'
import { handleOf } from './plan/names.js'
import { isMappedBy } from './plan/overlap.js'

const log = debug('dmloop:locate')

/** The open file; or that its filesystem no longer has it; or that its filesystem is mounted nowhere. */
export type Located = BackingFile | 'gone' | 'unreachable'

export interface Clues {
  /** Where the file was. Whatever is there now counts only if it has the identity. */
  path: string | undefined
  /** Whether a guard has marked the file. */
  marked: boolean
  /** The mapping's live table, if there is one: it has the file's blocks, whatever their device number. */
  table?: SegmentTable | undefined
}

/** Finds the file with an identity; see `BackingFile.identity`. */
export async function locateFile(identity: string, clues: Clues): Promise<Located> {
  const named = handleOf(identity)
  if (!named) return await locateByAddress(identity, clues.path)
  const { handle } = named
  const expected = await openAt(named, handle)
  if (expected instanceof BackingFile && (!clues.marked || hasMark(expected, identity))) {
    return expected
  }
  // A volume that was deactivated and activated again while its file was mapped has another number, and the
  // old number may now belong to another filesystem.
  for (const device of await otherDevices(deviceName(named.major, named.minor))) {
    const found = await openAt(device, handle)
    if (!(found instanceof BackingFile)) continue
    const mapped = clues.table !== undefined && (await isMappedBy(clues.table, found))
    if (mapped || hasMark(found, identity)) {
      log('%s has become %s', identity, found.identity)
      if (expected instanceof BackingFile) await expected[Symbol.asyncDispose]()
      return found
    }
    await found[Symbol.asyncDispose]()
  }
  if (expected === 'gone' && clues.marked) return 'unreachable'
  return expected
}

const hasMark = ({ facts, identity }: BackingFile, wanted: string): boolean =>
  ownMark(facts.mark, identity)?.identity === wanted

async function openAt(
  { major, minor }: { major: number; minor: number },
  handle: string,
): Promise<Located> {
  try {
    return await BackingFile.openHandle(major, minor, handle)
  } catch (error) {
    if (isSystemError(error, 'ESTALE')) return 'gone'
    if (isSystemError(error, 'ENODEV')) return 'unreachable'
    throw error
  }
}

/** The devices of all other mounted filesystems whose files have such handles. */
async function otherDevices(known: string): Promise<{ major: number; minor: number }[]> {
  const mounts = await result(native.listMounts())
  const devices = new Map(
    mounts
      .filter(({ filesystem }) => FILESYSTEMS[filesystem]?.addresses === 'FIEMAP')
      .map(({ major, minor }) => [deviceName(major, minor), { major, minor }]),
  )
  devices.delete(known)
  return [...devices.values()]
}

/**
 * Finds a file without a handle (on vfat), which is identified by the address of its first byte. If it is not
 * at its path any more, the whole filesystem is searched.
 */
async function locateByAddress(identity: string, path: string | undefined): Promise<Located> {
  const there = path === undefined ? undefined : await openIf(path, identity)
  if (there) return there
  const [major = '', minor = ''] = identity.split('-')
  const [mount] = await mountsOf(`${major}:${minor}`)
  if (!mount) return 'unreachable'
  for await (const file of filesIn(mount.mountPoint)) {
    const found = await openIf(file, identity)
    if (found) return found
  }
  return 'gone'
}

async function openIf(path: string, identity: string): Promise<BackingFile | undefined> {
  const file = await BackingFile.open(path).catch((error: unknown) => {
    log('%s: %o', path, error)
    return undefined
  })
  if (file?.identity === identity) return file
  await file?.[Symbol.asyncDispose]()
  return undefined
}

async function* filesIn(folder: string): AsyncIterable<string> {
  for await (const entry of await opendir(folder)) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) yield* filesIn(path)
    else if (entry.isFile()) yield path
  }
}
