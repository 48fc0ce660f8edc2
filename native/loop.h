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
  // The driver stores 63 bytes of it and does not interpret them.
  std::string name;
};

// The backing file of a loop device, by its filesystem's device and its inode, and the settings.
struct Status {
  // N of /dev/loopN, and the device's own number. It is not 7:N where the driver reserves minors
  // for partitions (max_part).
  uint32_t number = 0;
  uint32_t device_major = 0;
  uint32_t device_minor = 0;
  uint32_t major = 0;
  uint32_t minor = 0;
  uint64_t inode = 0;
  // The device whose node the backing file is; 0:0 for any other file.
  uint32_t file_major = 0;
  uint32_t file_minor = 0;
  uint64_t offset = 0;
  uint64_t size = 0;
  // LO_FLAGS_* of linux/loop.h, as the driver has them: it clears those that the file does not
  // allow.
  uint32_t flags = 0;
  std::string name;
};

// The number of a device without a file; one is created if there is none.
Result<uint32_t> GetFree();
// Attaches an open file with all settings in one step (LOOP_CONFIGURE, Linux 5.8). EBUSY when
// another process has attached one first.
Result<Nothing> Configure(const std::string& path, int fd, const Settings& settings);
// ENXIO when no file is attached, ENOENT when there is no such device.
Result<Status> GetStatus(uint32_t number);
// All devices with a file, except those that this process may not query, and those whose file no
// longer answers (ENOTCONN, ESTALE).
std::vector<Status> List();
// Each of these checks the name first, on the descriptor that it then uses: while that is open the
// device cannot be attached anew. ENXIO when no file is attached, or the name is another.

// Sets the size of the device.
Result<Nothing> Resize(const std::string& path, const std::string& name, uint64_t size);

enum class Cleared { kRemoved, kDeferred, kBusy };
// Writes the device's cached pages to the file and detaches it. While others have it open it stays
// attached (kBusy), or is detached when the last of them closes it, if `deferred`.
Result<Cleared> Clear(const std::string& path, const std::string& name, bool deferred);

}  // namespace dmloop::loop
