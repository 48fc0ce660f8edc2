// The mark: what a guard notes in an extended attribute of the file itself. It is there after a crash and
// after a reboot, and wherever /run is another one, for whoever releases the file.
import { isSystemError, verdict } from '../kernel/errors.js'
import { native, result } from '../kernel/native.js'
import type { Hold } from '../kernel/policy.js'

export interface Mark {
  /** The file when it was mapped; see `BackingFile.identity`. */
  identity: string
  /** Which mapping it was; see `MappingRecord.id`. */
  id: string
  /** What the guard has changed: what held the file before is not in it, and stays. */
  holds: readonly Hold[]
  /** The owner and the mode that the file had, where they were changed. */
  access: { uid: number; mode: number } | undefined
  /** Where the mapping starts in its files, in bytes. */
  offset: number
  /** The first of the mapping's files, where it is not this one: the device's UUID is made of it. */
  first: string | undefined
  /** The next of the mapping's files. */
  next: string | undefined
}

/** Told apart from what another version of the library writes. */
const VERSION = '2'
const LETTERS: Record<Hold, string> = { immutable: 'i', pinned: 'p', private: 'a' }

/**
 * Few bytes, because what does not fit the inode takes a block of the disk, which may be full:
 * "2 IDENTITY ID LETTERS [KEY=VALUE ...]".
 */
export function formatMark({ identity, id, holds, access, offset, first, next }: Mark): string {
  const words = [VERSION, identity, id, `-${holds.map((hold) => LETTERS[hold]).join('')}`]
  if (access) words.push(`a=${access.uid}:${access.mode.toString(8)}`)
  if (offset > 0) words.push(`o=${offset}`)
  if (first !== undefined) words.push(`f=${first}`)
  if (next !== undefined) words.push(`n=${next}`)
  return words.join(' ')
}

/** What a text means, if it is a mark of this version; undefined for anything else. */
export function parseMark(text: string | undefined): Mark | undefined {
  const [version, identity = '', id = '', letters, ...rest] = (text ?? '').split(' ')
  if (version !== VERSION || letters?.startsWith('-') !== true) return undefined
  const values = new Map(rest.map((word) => [word.slice(0, 2), word.slice(2)]))
  const [uid, mode] = (values.get('a=') ?? '').split(':')
  const holds = (Object.keys(LETTERS) as Hold[]).filter((hold) => letters.includes(LETTERS[hold]))
  if (holds.includes('private') && mode === undefined) return undefined
  return {
    identity,
    id,
    holds,
    access: mode === undefined ? undefined : { uid: Number(uid), mode: parseInt(mode, 8) },
    offset: Number(values.get('o=') ?? 0),
    first: values.get('f='),
    next: values.get('n='),
  }
}

/** The part of an identity that stays when the filesystem's device gets another number. */
const placeOf = (identity: string): string => identity.slice(identity.lastIndexOf('-') + 1)

/**
 * The mark that a guard of ours has put on this file. One that was copied along with the content
 * (cp -a, a backup) names another file: it says nothing about this one.
 */
export function ownMark(text: string | undefined, identity: string): Mark | undefined {
  const mark = parseMark(text)
  return mark && placeOf(mark.identity) === placeOf(identity) ? mark : undefined
}

/** Writes a mark. Rejects with DMLOOP_UNGUARDABLE or DMLOOP_NOT_PINNED where the file takes none. */
export async function writeMark(fd: number, path: string, mark: Mark): Promise<void> {
  try {
    await result(native.setMark(fd, formatMark(mark)), path)
  } catch (error) {
    if (isSystemError(error, 'ENOTSUP', 'EOPNOTSUPP')) {
      const detail = 'is on a filesystem without extended attributes to note the guard in'
      throw verdict('DMLOOP_UNGUARDABLE', { file: path }, detail)
    }
    if (isSystemError(error, 'EPERM') && mark.holds.includes('immutable')) {
      const detail = 'is append-only, so the guard cannot be noted: chattr -a FILE first'
      throw verdict('DMLOOP_UNGUARDABLE', { file: path }, detail)
    }
    if (isSystemError(error, 'EPERM')) {
      const detail =
        'is immutable already, so what else must be changed cannot be noted: chattr -i FILE first'
      throw verdict('DMLOOP_NOT_PINNED', { file: path }, detail)
    }
    throw error
  }
}
