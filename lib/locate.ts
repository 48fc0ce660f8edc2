// Finding the file of a mapping: by what its filesystem knows it by, never by its path.
import { opendir } from 'node:fs/promises'
import { join } from 'node:path'
import debug from 'debug'
import { isShownBy } from './plan/overlap.js'
import { BackingFile } from './plan/backing-file.js'
import { isSystemError } from './kernel/errors.js'
import { ownMark } from './plan/mark.js'
import { handleOf } from './plan/names.js'
import { native, result } from './kernel/native.js'
import { FILESYSTEMS } from './kernel/policy.js'
import type { SegmentTable } from './kernel/segments.js'
import { deviceName, mountsOf } from './kernel/sysfs.js'

const log = debug('dmloop:locate')

/** The file, opened; or that its filesystem has it no more; or that nothing leads to its filesystem. */
export type Located = BackingFile | 'gone' | 'unreachable'

export interface Clues {
  /** Where the file was. It is believed only as far as what is there now is the file. */
  path: string | undefined
  /** Whether a guard of ours has marked the file. */
  marked: boolean
  /** The mapping's live table, where there is one: it has the file's blocks, whatever their number. */
  table?: SegmentTable | undefined
}

/** Finds the file of an identity; see `BackingFile.identity`. */
export async function locateFile(identity: string, clues: Clues): Promise<Located> {
  const named = handleOf(identity)
  if (!named) return await locateByPlace(identity, clues.path)
  const { handle } = named
  const own = await openAt(named, handle)
  if (own instanceof BackingFile && (!clues.marked || bearsMark(own, identity))) return own
  // A volume that was deactivated and activated again beneath its mapping has another number; and what
  // has the old number now may be another filesystem.
  for (const device of await otherDevices(deviceName(named.major, named.minor))) {
    const found = await openAt(device, handle)
    if (!(found instanceof BackingFile)) continue
    const shown = clues.table !== undefined && (await isShownBy(clues.table, found))
    if (shown || bearsMark(found, identity)) {
      log('%s has become %s', identity, found.identity)
      if (own instanceof BackingFile) await own[Symbol.asyncDispose]()
      return found
    }
    await found[Symbol.asyncDispose]()
  }
  if (own === 'gone' && clues.marked) return 'unreachable'
  return own
}

const bearsMark = ({ facts, identity }: BackingFile, wanted: string): boolean =>
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

/** The devices of all other mounted filesystems that have such handles. */
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
 * Where there are no handles (vfat), a file is known by where its first byte is stored: if it is not where it
 * was, it is looked for in all of its filesystem.
 */
async function locateByPlace(identity: string, path: string | undefined): Promise<Located> {
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
