#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "packed_rows.h"
#include "result.h"
#include "segments.h"

// The device-mapper ioctls, one function each (linux/dm-ioctl.h). They neither wait nor retry:
// TypeScript decides what an EBUSY means.
namespace dmloop::dm {

// Which device an ioctl is for: by one of name, UUID or device number.
struct Target {
  std::string name;
  std::string uuid;
  uint64_t device = 0;
};

struct Device {
  std::string name;
  std::string uuid;
  uint32_t major = 0;
  uint32_t minor = 0;
  int32_t open_count = 0;
  uint32_t target_count = 0;
  uint32_t event_number = 0;
  // DM_*_FLAG bits as the kernel returned them.
  uint32_t flags = 0;
};

struct Version {
  uint32_t major;
  uint32_t minor;
  uint32_t patch;
};

// A table as packed segments; those of striped targets have their parameters in `stripes` (see
// Layer). A segment of another target than linear, zero and striped has device kOtherTarget and
// is listed in `others` with its parameters as the kernel prints them.
struct Table {
  struct Other {
    uint64_t start;
    uint64_t length;
    std::string target;
    std::string parameters;
  };
  PackedRows rows;
  PackedRows stripes;
  std::vector<std::string> devices;
  std::vector<Other> others;
  Device device;
};

inline constexpr int32_t kOtherTarget = -2;

Result<Version> GetVersion();
// Reserves name and UUID. EBUSY when either is taken.
Result<Device> Create(const std::string& name, const std::string& uuid);
// Loads segments into the inactive slot; devices are "major:minor".
Result<Device> LoadTable(const Target& target, const SegmentSource& segments,
                         const std::vector<std::string>& devices, bool read_only);
// Makes the inactive table live and lets I/O through.
Result<Device> Resume(const Target& target, uint32_t cookie);
// Creates a device with a table that is live; leaves none when that fails.
Result<Device> Make(const std::string& name, const std::string& uuid, const SegmentSource& segments,
                    const std::vector<std::string>& devices, bool read_only, uint32_t cookie);
// Drops the table in the inactive slot.
Result<Device> Clear(const Target& target);
Result<Device> Status(const Target& target);
// EBUSY while the device is open, unless `deferred`: then it is removed when its last user closes
// it.
Result<Device> Remove(const Target& target, bool deferred, uint32_t cookie);
// The live table, or the inactive one.
Result<Table> GetTable(const Target& target, bool inactive);
// The live tables of a device and of all its underlying device-mapper devices, from the top down,
// each once. Empty for a device that is not device-mapper's.
Result<std::vector<Table>> GetStack(const std::string& device);
Result<std::vector<Device>> List();

}  // namespace dmloop::dm
