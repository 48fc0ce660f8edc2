// What protects a file while it is mapped, and whether a file has it.
import type { FileFacts } from '../kernel/native.js'
import { FILESYSTEMS, INODE_FLAGS, type Guard, type Protection } from '../kernel/policy.js'
import type { BackingFile } from './backing-file.js'

/** The permissions of everybody but the owner. */
export const OTHERS = 0o077

/** Whether a file is swap space its facts do not tell: see swap-space.ts. */
const HAS: Record<Exclude<Protection, 'swap'>, (facts: FileFacts) => boolean> = {
  immutable: ({ inodeFlags }) => (inodeFlags & INODE_FLAGS.immutable) !== 0,
  pinned: ({ inodeFlags }) => (inodeFlags & INODE_FLAGS.pinned) !== 0,
  private: ({ uid, mode }) => uid === 0 && (mode & OTHERS) === 0,
}

/** The protections that a mapping of the file requires; see `KnownFilesystem.guards`. */
export function requiredProtections(
  { filesystem }: BackingFile,
  guard: Guard,
): readonly Protection[] {
  // Where nobody can write, nothing moves.
  if (filesystem.readOnly) return []
  return FILESYSTEMS[filesystem.name]?.guards[guard] ?? []
}

/** Which of these protections a file does not have, as far as its facts tell. */
export const missingProtections = (
  facts: FileFacts,
  required: readonly Protection[],
): Protection[] => required.filter((each) => each !== 'swap' && !HAS[each](facts))

/** Whether a guard notes what it changes in the file's mark. That a file is swap space a reboot ends by itself. */
export const needsMark = (required: readonly Protection[]): boolean =>
  required.some((each) => each !== 'swap')

/** Whether a filesystem moves a file that is not pinned. */
export const needsPin = ({ filesystem }: Pick<BackingFile, 'filesystem'>): boolean =>
  FILESYSTEMS[filesystem.name]?.guards.immutable?.includes('pinned') === true
