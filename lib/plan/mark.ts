// The mark: what a guard notes in an extended attribute of the file itself, for whoever releases the file.
// It survives a crash and a reboot, and does not depend on /run.
import type { Protection } from '../kernel/policy.js'

export interface Mark {
  /** The file when it was mapped; see `BackingFile.identity`. */
  identity: string
  /** Which mapping it was; see `MappingRecord.id`. */
  id: string
  /** The protections that the guard has added. Those that the file had before are not listed, and stay. */
  protections: readonly Protection[]
  /** The owner and mode that the file had, where they were changed. */
  access: { uid: number; mode: number } | undefined
  /** Where the mapping starts in its files, in bytes. */
  offset: number
  /** The mapping's first file, where it is not this one: the device's UUID is made from it. */
  first: string | undefined
  /** The mapping's next file. */
  next: string | undefined
  /**
   * Where an image store keeps the guard although the file is not mapped: how many bytes at the end of the last
   * file are the store's own, and no part of the image.
   */
  kept: number | undefined
}

/** Distinguishes marks from those of other versions of the library. */
const VERSION = '2'
/** The kernel's uid_t has 32 bits, and the last number means none (chown(2)). */
const LAST_UID = 0xffff_fffe
const LETTERS: Record<Protection, string> = { immutable: 'i', pinned: 'p', private: 'a', swap: 's' }

/**
 * Short, because a mark that does not fit into the inode takes a block of the disk, which may be full:
 * "2 IDENTITY ID -LETTERS [KEY=VALUE ...]".
 */
export function formatMark(mark: Mark): string {
  const { identity, id, protections, access, offset, first, next, kept } = mark
  const words = [VERSION, identity, id, `-${protections.map((each) => LETTERS[each]).join('')}`]
  if (access) words.push(`a=${access.uid}:${access.mode.toString(8)}`)
  if (offset > 0) words.push(`o=${offset}`)
  if (first !== undefined) words.push(`f=${first}`)
  if (next !== undefined) words.push(`n=${next}`)
  if (kept !== undefined) words.push(`k=${kept}`)
  return words.join(' ')
}

/** A number of digits alone; undefined where JavaScript would round it. */
function parseNumber(text: string, limit = Number.MAX_SAFE_INTEGER): number | undefined {
  const number = /^\d+$/.test(text) ? Number(text) : NaN
  return number <= limit ? number : undefined
}

/** "UID:MODE", the mode in octal digits. */
function parseAccess(text: string): Mark['access'] {
  const [uid = '', mode = ''] = text.split(':')
  const owner = parseNumber(uid, LAST_UID)
  return owner !== undefined && /^[0-7]{1,4}$/.test(mode)
    ? { uid: owner, mode: parseInt(mode, 8) }
    : undefined
}

/** The mark in a text; undefined when it is none of this version. */
export function parseMark(text: string | undefined): Mark | undefined {
  const [version, identity = '', id = '', letters, ...rest] = (text ?? '').split(' ')
  if (version !== VERSION || letters?.startsWith('-') !== true) return undefined
  const values = new Map(rest.map((word) => [word.slice(0, 2), word.slice(2)]))
  const accessWord = values.get('a=')
  const access = accessWord === undefined ? undefined : parseAccess(accessWord)
  const offset = parseNumber(values.get('o=') ?? '0')
  if (offset === undefined || (accessWord !== undefined && !access)) return undefined
  const all = Object.keys(LETTERS) as Protection[]
  const protections = all.filter((each) => letters.includes(LETTERS[each]))
  if (protections.includes('private') && !access) return undefined
  const keptWord = values.get('k=')
  const kept = keptWord === undefined ? undefined : parseNumber(keptWord)
  if (keptWord !== undefined && kept === undefined) return undefined
  return {
    identity,
    id,
    protections,
    access,
    offset,
    first: values.get('f='),
    next: values.get('n='),
    kept,
  }
}

/** The part of an identity that does not depend on the number of the filesystem's device. */
const filePartOf = (identity: string): string => identity.slice(identity.lastIndexOf('-') + 1)

/**
 * The mark that a guard has left on this very file. One that was copied along with the content (cp -a, a
 * backup) names another file, and is ignored.
 */
export function ownMark(text: string | undefined, identity: string): Mark | undefined {
  const mark = parseMark(text)
  return mark && filePartOf(mark.identity) === filePartOf(identity) ? mark : undefined
}
