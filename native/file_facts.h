#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "device_number.h"
#include "result.h"

namespace dmloop {

// What the kernel says of an open file. Sizes in bytes.
struct FileFacts {
  uint32_t mode = 0;
  uint32_t uid = 0;
  // Names that the file has; 0 when it was deleted while it is open.
  uint32_t links = 0;
  uint64_t size = 0;
  uint64_t inode = 0;
  // As fstat(2) has it.
  DeviceNumber number;
  // That of the filesystem as a whole, as mountinfo, locks and maps have it (proc(5)).
  DeviceNumber filesystem;
  // The block device of the filesystem, on btrfs the first of them: the others have numbers there
  // that no device has.
  DeviceNumber device;
  // How many it has, as far as it says so.
  uint64_t device_count = 1;
  // STATX_ATTR_* (statx(2)); a bit means something only where the mask has it.
  uint64_t attributes = 0;
  uint64_t attributes_mask = 0;
  // f_type of statfs(2), as linux/magic.h names it.
  uint64_t filesystem_magic = 0;
  // f_blocks times f_frsize: what the filesystem counts as its own, on all its devices.
  uint64_t filesystem_size = 0;
  // ST_RDONLY of statfs(2).
  bool mount_read_only = false;
  // STATX_DIOALIGN of statx(2): false where direct I/O is served from the page cache. Nothing where
  // the filesystem, or a kernel before 6.1, does not say.
  std::optional<bool> direct_io;
  // FS_*_FL of FS_IOC_GETFLAGS and FS_XFLAG_* of FS_IOC_FSGETXATTR; 0 where the filesystem has no
  // such call.
  uint32_t inode_flags = 0;
  uint32_t extended_flags = 0;
  // See file_handle.h.
  std::optional<std::string> handle;
  // What a guard has noted in it; see guard.h.
  std::optional<std::string> mark;
};

Result<FileFacts> Inspect(int fd);

}  // namespace dmloop
