#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "result.h"

// What holds a file still. Each function is one step; which steps, and in which order, is
// lib/guard.ts's to know.
namespace dmloop {

// Takes a lease (fcntl(2), F_SETLEASE). EAGAIN while anybody has the file open for writing; an
// exclusive one, a write lease, also while anybody else has it open at all.
Result<Nothing> TakeLease(int fd, bool exclusive);
// Whether a lease is still whole: false when somebody waits to open the file against it.
Result<bool> HasLease(int fd, bool exclusive);
// Gives the lease back. Whether it was still whole: false when somebody waits to open the file
// against it.
Result<bool> EndLease(int fd, bool exclusive);

// Sets or clears FS_IMMUTABLE_FL and leaves the other attributes as they are (ioctl_iflags(2)).
Result<Nothing> SetImmutable(int fd, bool immutable);
// The same for FS_NOCOW_FL: btrfs then writes the file in place, if it was empty.
Result<Nothing> SetInPlace(int fd, bool in_place);

// Gives a file an owner and a mode (the low 12 bits).
Result<Nothing> SetAccess(int fd, uint32_t uid, uint32_t mode);

// Pins a file of f2fs, so that its cleaning leaves the blocks where they are, or unpins it.
Result<Nothing> SetPinned(int fd, bool pinned);
// How often f2fs wanted to move the pinned file and did not; 0 for a file that is not pinned.
Result<uint32_t> GetPinCount(int fd);

// Locks a file for this open file description until that is closed, without waiting (flock(2)).
// EAGAIN when another one has it locked; for a shared lock, when another one has an exclusive lock.
Result<Nothing> LockFile(int fd, bool exclusive);

// The extended attribute in which a guard notes what it has set; nothing when there is none, and an
// empty text for one that is longer than any of ours.
Result<std::optional<std::string>> GetMark(int fd);
Result<Nothing> SetMark(int fd, const std::string& mark);
// Removing a mark that is not there is no failure.
Result<Nothing> RemoveMark(int fd);

}  // namespace dmloop
