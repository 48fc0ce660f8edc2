#pragma once

#include <cstdint>
#include <string>

#include "result.h"
#include "unique_fd.h"

// File calls that Node has no function for, or only for descriptors that it has opened itself.
namespace dmloop {

// What a path leads to: never changes while it is there.
struct PathFacts {
  bool is_block_device = false;
  // Of the filesystem, and the place there.
  uint32_t device_major = 0;
  uint32_t device_minor = 0;
  uint64_t inode = 0;
  // Of a device itself.
  uint32_t major = 0;
  uint32_t minor = 0;
};

// Both stand in for Node's own, which would take a thread of libuv's for as long as the path hangs.
Result<UniqueFd> Open(const std::string& path, int flags);
Result<PathFacts> Identify(const std::string& path);
// Writes what is cached of an open file, delayed allocations included, to the disk (fsync(2)).
Result<Nothing> Sync(int fd);
Result<Nothing> Close(UniqueFd fd);
// Opens once more what a descriptor leads to, which may have been opened with O_PATH: whatever its
// path leads to by now, this is the file that was looked at.
Result<UniqueFd> Reopen(int fd, int flags);
// The path of an open file as this process sees it; the kernel adds " (deleted)" where it has none.
Result<std::string> PathOf(int fd);
// Makes a block device node (mknod(2)).
Result<Nothing> MakeBlockNode(const std::string& path, uint32_t major, uint32_t minor);
// Forgets the cached pages of an open file (posix_fadvise(2), POSIX_FADV_DONTNEED); dirty pages and
// those that somebody has mapped stay.
Result<Nothing> DropCache(int fd);

}  // namespace dmloop
