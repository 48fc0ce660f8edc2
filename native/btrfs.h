#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "device_number.h"
#include "result.h"

// btrfs addresses a file's blocks in a space of its own, which chunks map to its devices.
namespace dmloop {

// The UUID of the btrfs that an open file or directory is on; nothing on any other filesystem.
std::optional<std::string> BtrfsUuid(int fd);

// A device of a btrfs.
struct BtrfsDevice {
  uint64_t id;
  DeviceNumber number;
};

// The devices of the btrfs that an open file or directory is on, by their ids, as far as this
// process can find them; none on any other filesystem. statx(2) has a number in their place that no
// device has, another one for each subvolume.
std::vector<BtrfsDevice> BtrfsDevices(int fd);

// Waits until the extents of an open file say what was written. After fsync(2) the data are on the
// disk, and the extents may still be unwritten ones for a moment: it does not wait for that
// (btrfs_sync_file, fs/btrfs/file.c). Does nothing on any other filesystem.
Result<Nothing> SettleExtents(int fd);

// A chunk of the address space, in bytes.
struct BtrfsChunk {
  uint64_t start;
  uint64_t length;
  // On the first device.
  uint64_t physical;
  // Whether it has one copy of its data, in one piece, and that is on the first device.
  bool single;
};

// All chunks, by their start (BTRFS_IOC_TREE_SEARCH_V2, which needs CAP_SYS_ADMIN).
Result<std::vector<BtrfsChunk>> BtrfsChunks(int fd);

}  // namespace dmloop
