#pragma once

#include <cstdint>
#include <string>

#include "result.h"
#include "unique_fd.h"

// File calls that Node has no function for, or only for descriptors that it has opened itself.
namespace dmloop {

// Writes what is cached of an open file, delayed allocations included, to the disk (fsync(2)).
Result<Nothing> Sync(int fd);
Result<Nothing> Close(UniqueFd fd);
// Makes a block device node (mknod(2)).
Result<Nothing> MakeBlockNode(const std::string& path, uint32_t major, uint32_t minor);
// Forgets the cached pages of an open file (posix_fadvise(2), POSIX_FADV_DONTNEED); dirty pages and
// those that somebody has mapped stay.
Result<Nothing> DropCache(int fd);

}  // namespace dmloop
