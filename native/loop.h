#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "result.h"

// Loop devices (loop(4)). Sizes and positions in bytes.
namespace dmloop::loop {

struct Settings {
  uint64_t offset = 0;
  // Of the device; the file may be longer.
  uint64_t size = 0;
  uint32_t block_size = 0;
  bool read_only = false;
  bool direct_io = false;
  bool partition_scan = false;
  // The driver keeps 63 bytes of it, and what it says is nobody's business but the caller's.
  std::string name;
};

// What a loop device shows: the file by its filesystem's device and its inode, and how.
struct Status {
  // N of /dev/loopN, and the device's own number. It is not 7:N where the driver keeps room for
  // partitions (max_part).
  uint32_t number = 0;
  uint32_t device_major = 0;
  uint32_t device_minor = 0;
  uint32_t major = 0;
  uint32_t minor = 0;
  uint64_t inode = 0;
  // Where the file is a device's node: that device. 0:0 for any other.
  uint32_t file_major = 0;
  uint32_t file_minor = 0;
  uint64_t offset = 0;
  uint64_t size = 0;
  // LO_FLAGS_* of linux/loop.h, as the driver has them: it drops what the file does not allow.
  uint32_t flags = 0;
  std::string name;
};

// The number of a device that shows nothing yet; made if there is none.
Result<uint32_t> GetFree();
// Has a device show an open file, all settings in one step (Linux 5.8). EBUSY when somebody else
// was faster with the device.
Result<Nothing> Configure(const std::string& path, int fd, const Settings& settings);
// ENXIO when the device shows nothing, ENOENT when there is none.
Result<Status> GetStatus(uint32_t number);
// Every device that shows something and says what: one that this process may not ask is not in it,
// nor one whose file cannot be asked any more (ENOTCONN, ESTALE).
std::vector<Status> List();
// Each of these looks at the name first, on the descriptor that it then uses: while that is open
// the device cannot become somebody else's. ENXIO when it shows nothing, or bears another name.

// Gives the device another size.
Result<Nothing> Resize(const std::string& path, const std::string& name, uint64_t size);

enum class Cleared { kRemoved, kDeferred, kBusy };
// Writes what is cached to the file, and has the device show nothing. While others have it open it
// stays (kBusy), or goes with the last of them if `deferred`.
Result<Cleared> Clear(const std::string& path, const std::string& name, bool deferred);

}  // namespace dmloop::loop
