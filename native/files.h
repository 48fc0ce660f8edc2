#pragma once

#include <cstdint>
#include <string>

#include "result.h"

// The few file calls that Node has no function for.
namespace dmloop {

// Takes the whole-file lock of an open file without waiting (flock(2)). EWOULDBLOCK when another
// open file description has it.
Result<Nothing> TryLock(int fd);
// Makes a block device node (mknod(2)).
Result<Nothing> MakeBlockNode(const std::string& path, uint32_t major, uint32_t minor);
// Forgets the cached pages of an open file (posix_fadvise(2), POSIX_FADV_DONTNEED); dirty pages and
// those that somebody has mapped stay.
Result<Nothing> DropCache(int fd);

}  // namespace dmloop
