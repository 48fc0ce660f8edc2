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
// The file beneath a loop device, as the loop driver holds it.
struct LoopBacking {
  uint32_t major = 0;
  uint32_t minor = 0;
  uint64_t inode = 0;
};

// What a loop device shows (loop(4), LOOP_GET_STATUS64). ENXIO when it shows nothing.
Result<LoopBacking> GetLoopBacking(const std::string& path);
// Forgets the cached pages of an open file (posix_fadvise(2), POSIX_FADV_DONTNEED); dirty pages and
// those that somebody has mapped stay.
Result<Nothing> DropCache(int fd);

}  // namespace dmloop
