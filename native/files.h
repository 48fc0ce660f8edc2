#pragma once

#include <cstdint>
#include <string>

#include "result.h"
#include "unique_fd.h"

// File calls that Node has no function for, or only for descriptors that it has opened itself.
namespace dmloop {

// What is at a path; none of it changes while the file exists.
struct PathFacts {
  bool is_block_device = false;
  // Of the filesystem, and the inode there.
  uint32_t device_major = 0;
  uint32_t device_minor = 0;
  uint64_t inode = 0;
  // Of the device itself, for a node.
  uint32_t major = 0;
  uint32_t minor = 0;
};

// In place of Node's own functions, which would occupy a thread of libuv's pool while the path
// hangs.
Result<UniqueFd> Open(const std::string& path, int flags);
Result<PathFacts> Identify(const std::string& path);
// Writes the dirty pages of an open file, delayed allocations included, to the disk (fsync(2)).
Result<Nothing> Sync(int fd);
Result<Nothing> Close(UniqueFd fd);
// Opens again the file of a descriptor, which may be an O_PATH one: this very file, whatever is at
// its path now. EAGAIN, at once, while a process has a write lease on it; the attempt makes the
// kernel break the lease.
Result<UniqueFd> Reopen(int fd, int flags);
// The path of an open file as this process sees it; the kernel adds " (deleted)" where it has none.
Result<std::string> PathOf(int fd);
// Makes a block device node (mknod(2)).
Result<Nothing> MakeBlockNode(const std::string& path, uint32_t major, uint32_t minor);
// Drops the cached pages of an open file (posix_fadvise(2), POSIX_FADV_DONTNEED). Dirty and mapped
// pages stay.
Result<Nothing> DropCache(int fd);

}  // namespace dmloop
