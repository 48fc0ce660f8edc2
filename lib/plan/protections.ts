// What protects a file while it is mapped, and whether a file has it.
import type { FileFacts } from '../kernel/native.js'
import { FILESYSTEMS, type Protection } from '../kernel/policy.js'
import type { BackingFile } from './backing-file.js'
import type { Guard } from './plan-options.js'

/** The permissions of everybody but the owner. */
export const OTHERS = 0o077

/** FS_IMMUTABLE_FL, FS_APPEND_FL, and FS_NOCOW_FL, which f2fs reports for a pinned file (linux/fs.h). */
export const INODE_FLAGS = { immutable: 0x10, appendOnly: 0x20, pinned: 0x800000 } as const

const HAS: Record<Protection, (facts: FileFacts) => boolean> = {
  immutable: ({ inodeFlags }) => (inodeFlags & INODE_FLAGS.immutable) !== 0,
  pinned: ({ inodeFlags }) => (inodeFlags & INODE_FLAGS.pinned) !== 0,
  private: ({ uid, mode }) => uid === 0 && (mode & OTHERS) === 0,
}

/**
 * The protections that a mapping of the file requires. With guard 'none' the caller stands in for the
 * immutable flag, but not for what only f2fs itself can do.
 */
export function requiredProtections(
  { filesystem }: BackingFile,
  guard: Guard,
): readonly Protection[] {
  // Where nobody can write, nothing moves.
  if (filesystem.readOnly) return []
  const protections = FILESYSTEMS[filesystem.name]?.protections ?? []
  return guard === 'immutable' ? protections : protections.filter((each) => each !== 'immutable')
}

/** Which of these protections a file does not have. */
export const missingProtections = (
  facts: FileFacts,
  required: readonly Protection[],
): Protection[] => required.filter((each) => !HAS[each](facts))
